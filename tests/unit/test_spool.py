"""The spool: whatever is told to be kept is read back, after torn tails, restarts and deletions too."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.connectors.mqtt.spool import MAGIC, SUFFIX, Message, Spool
from schemas.errors import SourceLost, UsageError

BYTES_MAX = 4_000
texts = st.text(st.characters(codec="utf-8"), max_size=12)
messages = st.builds(
    Message,
    arrival_us=st.integers(-(2**63), 2**63 - 1),
    packet=st.integers(0, 65_535),
    topic=texts,
    payload=st.binary(max_size=40),
    trace=texts,
)


def message(number: int, size: int = 20) -> Message:
    return Message(number, number % 65_536, f"ward/1/p{number}/hr", str(number).encode().ljust(size), "")


def read_all(spool: Spool, number: int) -> list[Message]:
    found: list[Message] = []
    while some := spool.read(number + len(found), 7):
        found += some
    return found


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.lists(messages, min_size=1, max_size=12)),
            st.tuples(st.just("restart"), st.binary(max_size=60)),
            st.tuples(st.just("release"), st.integers(0, 200)),
            st.tuples(st.just("read"), st.integers(0, 200)),
            st.tuples(st.just("go on"), st.integers(1, 20)),
        ),
        max_size=25,
    )
)
def test_it_reads_like_a_list_that_forgets_its_head(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]]
) -> None:
    folder = tmp_path_factory.mktemp("spool") / "vitals-0"
    spool, kept, released = Spool(folder, BYTES_MAX), list[Message](), 0
    at = 0
    for step, what in steps:
        if step == "append" and isinstance(what, list):
            taken = spool.append(what)
            assert taken == len(what) or spool.size > BYTES_MAX - 1_000
            kept += what[:taken]
        elif step == "restart" and isinstance(what, bytes):
            spool.close()
            with files(folder)[-1].open("ab") as torn:
                torn.write(what.replace(b"\0", b"\1"))  # a power cut: the head of something never acknowledged
            spool = Spool(folder, BYTES_MAX)
        elif step == "release" and isinstance(what, int):
            released = max(released, min(what, len(kept)))
            spool.release(released)
            assert spool.first <= released
        elif step == "read" and isinstance(what, int):
            number = max(spool.first, min(what, len(kept)))
            assert spool.read(number, 5) == kept[number : number + 5]
        elif step == "go on" and isinstance(what, int):  # as the source does: what was read is released
            some = spool.read(max(at, spool.first), what)
            assert some == kept[max(at, spool.first) :][:what]
            at = max(at, spool.first) + len(some)
            released = max(released, at)
            spool.release(released)
        assert spool.next == len(kept)
    assert read_all(spool, spool.first) == kept[spool.first :]
    spool.close()


@settings(max_examples=25, deadline=None)
@given(st.integers(min_value=0), st.lists(messages, min_size=1, max_size=6))
def test_a_torn_tail_costs_what_was_torn_and_the_numbers_go_on(
    tmp_path_factory: pytest.TempPathFactory, cut: int, some: list[Message]
) -> None:
    folder = tmp_path_factory.mktemp("spool") / "s"
    spool = Spool(folder, 1_000_000)
    ends = [spool.size]
    for one in some:
        spool.append([one])
        ends.append(spool.size)
    spool.close()
    (file,) = files(folder)
    size = cut % (ends[-1] + 1)
    os.truncate(file, size)
    whole = sum(end <= size for end in ends[1:])
    spool = Spool(folder, 1_000_000)
    assert spool.next == whole
    assert spool.append([message(1)]) == 1
    assert read_all(spool, 0) == [*some[:whole], message(1)]
    spool.close()


def test_a_reader_follows_what_is_appended_over_many_files(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 20_000)
    for start in range(0, 200, 10):
        spool.append([message(number) for number in range(start, start + 10)])
        assert spool.read(start, 100) == [message(number) for number in range(start, start + 10)]
        assert spool.read(start + 10, 100) == []
    assert len(files(tmp_path / "s")) > 3
    assert spool.read(37, 1) == [message(37)]
    spool.close()


def test_a_full_spool_takes_no_more_until_something_is_released(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 8_000)
    taken = 0
    while got := spool.append([message(taken), message(taken + 1)]):
        taken += got
    assert 7_900 < spool.size <= 8_000
    before = len(files(tmp_path / "s"))
    spool.release(taken // 2)
    assert len(files(tmp_path / "s")) < before
    assert spool.first <= taken // 2
    assert spool.append([message(taken)]) == 1
    assert spool.read(taken, 5) == [message(taken)]
    spool.close()


def test_a_message_larger_than_a_read_comes_back_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 50_000_000)
    spool.append([message(0), message(1, 3_000_000), message(2)])
    assert read_all(spool, 0) == [message(0), message(1, 3_000_000), message(2)]
    spool.close()


def test_numbers_outside_the_spool_are_refused_with_what_to_do(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 8_000)
    for number in range(100):
        spool.append([message(number)])
    spool.release(90)
    for number in (0, 101):
        with pytest.raises(SourceLost, match=r"goes on at \d+: put back the spool .* or start with a new --recovery"):
            spool.read(number, 1)
    spool.close()


def test_damage_before_the_tail_is_told_and_not_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 8_000)
    for number in range(100):
        spool.append([message(number)])
    spool.close()
    first = files(tmp_path / "s")[0]
    content = bytearray(first.read_bytes())
    content[len(MAGIC) + 30] ^= 1
    first.write_bytes(content)
    spool = Spool(tmp_path / "s", 8_000)
    with pytest.raises(SourceLost, match=r"message 0 of the MQTT spool .* is damaged"):
        spool.read(0, 1)
    spool.close()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    Spool(tmp_path / "s", 8_000).close()
    files(tmp_path / "s")[0].write_bytes(b"tgspool9" + bytes(20))
    with pytest.raises(SourceLost, match="is no MQTT spool of this version"):
        Spool(tmp_path / "s", 8_000)


def test_one_run_at_a_time_has_a_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", 8_000)
    with pytest.raises(UsageError, match="is in use by another run"):
        Spool(tmp_path / "s", 8_000)
    spool.close()
    Spool(tmp_path / "s", 8_000).close()


def test_what_could_not_be_written_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "s", 8_000)
    spool.append([message(0)])
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            spool.append([message(1)])
    assert spool.next == 1
    assert spool.append([message(2)]) == 1
    spool.close()
    spool = Spool(tmp_path / "s", 8_000)
    assert read_all(spool, 0) == [message(0), message(2)]
    spool.close()
