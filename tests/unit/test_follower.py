import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from flows.connectors.outlets import Item, Kind, Mark, OutletDown, Pace, Refusal
from flows.connectors.outlets.follower import Follower, Followers
from flows.connectors.sqlite import Batch, SqliteStore
from flows.store.outbox import Outbox, Place, outlets
from schemas.settings import Settings
from tests.unit.outlet_fakes import QUICK, FakeOutlet, Heard, filled, follow, letters_of, until
from tests.unit.sealed import Chains


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.db"


def numbers(outlet: FakeOutlet, kind: str = "decision") -> list[int]:
    return [item.n for item in outlet.items if item.kind == kind]


def test_an_outlet_gets_everything_once_in_order_and_goes_on_where_it_was(path: Path) -> None:
    chains = filled(path, 7, letters=4)
    first = FakeOutlet(dead_letters=True)
    follower, heard = follow(first, path)
    assert numbers(first) == [1, 2, 3, 4, 5, 6, 7]
    assert numbers(first, "dead_letter") == [1, 2, 3, 4]
    assert [len(batch) for batch in first.batches] == [6, 4, 1]
    assert follower.behind == 0
    assert heard.told[-1] == ("fake", 0, 11, 0, "")
    assert first.closed
    store = SqliteStore(path)
    store.write(Batch([chains.add("p-01", 99)]), 1)
    store.close()
    second = FakeOutlet(dead_letters=True)
    follow(second, path)
    assert [(item.kind, item.n) for item in second.items] == [("decision", 8)]


def test_an_outlet_that_wants_no_dead_letters_is_not_behind_for_them(path: Path) -> None:
    filled(path, 2, letters=4)
    outlet = FakeOutlet()
    follower, _ = follow(outlet, path)
    assert (len(outlet.items), follower.behind) == (2, 0)
    assert outlets(path)[0].behind == 0


def test_what_fails_is_sent_again_from_the_same_place(path: Path) -> None:
    filled(path, 5)
    outlet = FakeOutlet(failures=[OutletDown("no route"), RuntimeError("a fault")])
    _, heard = follow(outlet, path)
    assert numbers(outlet) == [1, 2, 3, 4, 5]
    why = [each[4] for each in heard.told if each[4]]
    assert why == ["no route", "RuntimeError: a fault"]
    assert heard.told[-1][2:] == (5, 2, "")
    assert (outlets(path)[0].failed, outlets(path)[0].sent, outlets(path)[0].why) == (2, 5, "")


def test_a_far_side_that_was_ill_while_nothing_was_to_be_sent_is_well_again_for_whoever_looks(path: Path) -> None:
    class Ill(FakeOutlet):
        def remembered(self) -> Mapping[Kind, Mark]:
            if self.failures:
                raise self.failures.pop()
            return {}

    filled(path, 0)
    _, heard = follow(Ill(failures=[OutletDown("no route")]), path)
    assert [told[4] for told in heard.told] == ["no route", ""]
    assert (outlets(path)[0].failed, outlets(path)[0].why) == (1, "")


def test_what_was_settled_before_a_failure_is_not_sent_again(path: Path) -> None:
    filled(path, 4)
    outlet = FakeOutlet(failures=[OutletDown("went away", done=2)])
    _, heard = follow(outlet, path)
    assert numbers(outlet) == [1, 2, 3, 4]
    assert heard.told[-1][2] == 4


def test_what_is_refused_is_kept_where_it_is_seen_and_holds_nothing_up(path: Path) -> None:
    class Picky(FakeOutlet):
        def send(self, items: Sequence[Item]) -> Sequence[Refusal]:  # type: ignore[override]
            super().send(items)
            return [Refusal(item, "too large") for item in items if item.n == 2]

    filled(path, 5)
    _, heard = follow(Picky(), path)
    state = outlets(path)[0]
    assert (state.sent, state.refused, state.behind) == (4, 1, 0)
    assert heard.told[-1][2] == 4


def test_waits_grow_to_their_limit_with_chance_in_them_and_heed_what_the_far_side_asks(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, 1)
    outlet = FakeOutlet(failures=[*[OutletDown("no")] * 4, OutletDown("busy", retry_after_s=7)])
    settings = Settings(outlet_retry_s=1, outlet_retry_max_s=5)
    follower = Follower(outlet, path, settings, Heard(), chance=lambda: 0.5)
    clock = [0.0]
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        clock[0] += seconds
        return False

    monkeypatch.setattr("flows.connectors.outlets.follower.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(follower._ending, "wait", wait)
    while not outlet.items:
        before = clock[0]
        try:
            follower._step()
        except OutletDown as down:
            follower._wait_after(down)
            waits.append(round(clock[0] - before, 3))
    assert waits == [0.75, 1.5, 3, 3.75, 7]


def test_a_live_run_sends_what_comes_as_it_comes(path: Path) -> None:
    chains = filled(path, 1)
    outlet = FakeOutlet()
    follower = Follower(outlet, path, QUICK, Heard())
    follower.start()
    with closing(SqliteStore(path)) as store:
        until(lambda: len(outlet.items) == 1)
        store.write(Batch([chains.add("p-01", 10), chains.add("p-01", 11)]), 1)
        follower.wake()
        until(lambda: len(outlet.items) == 3)
        store.write(Batch([chains.add("p-01", 12)]), 1)  # nobody says so: it looks by itself
        until(lambda: len(outlet.items) == 4)
    follower.stop()
    follower.join(5)
    assert not follower.is_alive()


def test_one_that_lingers_waits_for_enough_or_long_enough_or_the_end(path: Path) -> None:
    chains = filled(path, 2)
    outlet = FakeOutlet(pace=Pace(rows=4, bytes=10**9, linger_s=3600))
    follower = Follower(outlet, path, QUICK, Heard())
    follower.start()
    with closing(SqliteStore(path)) as store:
        threading.Event().wait(0.3)
        assert outlet.batches == []
        store.write(Batch([chains.add("p-01", minute) for minute in (10, 11, 12)]), 1)
        follower.wake()
        until(lambda: len(outlet.batches) == 1)
    follower.finish()
    follower.join(5)
    assert [[item.n for item in batch] for batch in outlet.batches] == [[1, 2, 3, 4], [5]]
    prompt = FakeOutlet("prompt", pace=Pace(rows=100, bytes=10**9, linger_s=0.1))
    quick = Follower(prompt, path, QUICK, Heard())
    quick.start()
    until(lambda: len(prompt.items) == 5)
    quick.stop()
    quick.join(5)


def test_an_outlet_that_fails_for_ever_holds_up_neither_the_others_nor_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, 7)
    good, bad = FakeOutlet("good"), FakeOutlet("bad", failures=[OutletDown("no route")] * 10_000)
    made = {"good:": good, "bad:": bad}
    monkeypatch.setattr("flows.connectors.outlets.follower.outlet", lambda address, settings, token: made[address])
    heard = Heard()
    followers = Followers(["bad:", "good:"], path, QUICK, heard).start()
    assert followers.drain(limit_s=0.5) == {"bad": 7}
    assert numbers(good) == [1, 2, 3, 4, 5, 6, 7]
    assert heard.told[-1][:2] == ("bad", 7)
    assert [(state.name, state.behind) for state in outlets(path)] == [("bad", 7), ("good", 0)]


def test_an_outlet_that_hangs_is_left_behind_at_the_end_and_counted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    class Hangs(FakeOutlet):
        def send(self, items: Sequence[Item]) -> None:
            release.wait(20)

    filled(path, 2)
    monkeypatch.setattr("flows.connectors.outlets.follower.outlet", lambda *_: Hangs("hangs"))
    monkeypatch.setattr("flows.connectors.outlets.follower.STOP_S", 0.1)
    followers = Followers(["x:"], path, QUICK, Heard()).start()
    assert followers.drain(limit_s=0.2) == {"hangs": 2}
    release.set()


def test_one_process_at_a_time_drives_an_outlet_and_another_takes_over(path: Path) -> None:
    filled(path, 2)
    first, second = FakeOutlet(), FakeOutlet()
    one, heard = Follower(first, path, QUICK, Heard()), Heard()
    one.start()
    until(lambda: len(first.items) == 2)
    other = Follower(second, path, QUICK, heard)
    other.start()
    until(lambda: bool(heard.told))
    assert heard.told[0][4] == "another process sends for it"
    one.stop()
    one.join(5)
    with closing(SqliteStore(path)) as store:
        store.write(Batch([Chains().add("q", 0)]), 1)
    until(lambda: numbers(second) == [3])
    other.stop()
    other.join(5)


def test_a_place_that_cannot_be_kept_is_kept_later_and_nothing_is_sent_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path, 5)
    outlet = FakeOutlet()
    failures = [sqlite3.OperationalError("disk I/O error")] * 3
    move = Outbox.move

    def failing(self: Outbox, place: Place, sent: int, refusals: Sequence[Refusal], at_us: int) -> None:
        if failures:
            raise failures.pop()
        move(self, place, sent, refusals, at_us)

    monkeypatch.setattr(Outbox, "move", failing)
    follow(outlet, path)
    assert numbers(outlet) == [1, 2, 3, 4, 5]
    assert (outlets(path)[0].behind, outlets(path)[0].sent) == (0, 5)


def test_a_far_side_that_keeps_the_place_is_asked_at_the_start_and_after_each_failure(path: Path) -> None:
    class Keeps(FakeOutlet):
        held: list[Item]

        def remembered(self) -> Mapping[Kind, Mark]:
            return {"decision": Mark(self.held[-1].n, self.held[-1].mark)} if self.held else {}

        def send(self, items: Sequence[Item]) -> None:
            if not self.held:
                self.held = list(items)
                raise OutletDown("it went through, but nobody heard")
            super().send(items)
            self.held += items

    filled(path, 5)
    outlet = Keeps()
    outlet.held = []
    follow(outlet, path)
    assert numbers(outlet) == [4, 5]
    assert [item.n for item in outlet.held] == [1, 2, 3, 4, 5]
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE outlets SET n = 0")
    again = Keeps()
    again.held = outlet.held
    follow(again, path)
    assert again.items == []


def test_a_locked_store_costs_time_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(path, 3)
    outlet = FakeOutlet()
    locking = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    locking.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: locking.execute("COMMIT"))
    timer.start()
    follow(outlet, path)
    timer.join()
    locking.close()
    assert numbers(outlet) == [1, 2, 3]


def test_dead_letters_are_json_objects_with_the_bytes_as_they_came(path: Path) -> None:
    with closing(SqliteStore(path)) as store:
        letter = letters_of(1)[0]._replace(raw=b"1,p\xc3\xa9", header=b"ts,patient")
        store.write(Batch(dead_letters=[letter]), 1)
    outlet = FakeOutlet(dead_letters=True)
    follow(outlet, path)
    body = orjson.loads(outlet.items[0].body)
    assert (body["raw"], body["header"], body["offset"]) == ("1,pé", "ts,patient", 0)
