import sqlite3
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.connectors.headers import of_message, packed
from flows.connectors.outlets import Mark, Pace, Refusal
from flows.connectors.sqlite import Batch, SqliteStore
from flows.store import decisions
from flows.store.outbox import Outbox, Place, forget, outlets, outlets_text, token
from schemas.decisions import Record
from schemas.errors import UsageError
from tests.unit.outlet_fakes import filled, letters_of
from tests.unit.sealed import Chains

ALL = Pace(1000, 10_000_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.db"


def consumer(sent: list[Record]) -> list[Record]:
    """The rule that consumers are given, in its dullest form."""
    held: list[Record] = []
    for record in sent:
        chain = record["flow"], record["key"]
        held = [each for each in held if (each["flow"], each["key"]) != chain or each["seq"] < record["seq"]]
        held.append(record)
    return held


def test_items_are_what_the_commands_print_in_the_order_of_writing(path: Path) -> None:
    filled(path, 3, letters=2)
    with closing(Outbox(path, "o", True, 1)) as outbox:
        items, more = outbox.read(Place(), ALL)
        assert [(item.kind, item.n) for item in items] == [
            *(("decision", n) for n in (1, 2, 3)),
            *(("dead_letter", n) for n in (1, 2)),
        ]
        assert not more
        assert [orjson.loads(item.body) for item in items[:3]] == list(decisions(path))
        assert [item.id for item in items[3:]] == ["vitals:0:0:not_json", "vitals:0:1:not_json"]
        letter = orjson.loads(items[3].body)
        assert bytes.fromhex(letter["raw_hex"]) == b"{\xff"
        assert (letter["source"], letter["offset"], letter["reason"]) == ("vitals:0", 0, "not_json")
        assert outbox.read(Place().after(items), ALL) == ([], False)


def test_what_is_read_at_once_is_bounded_in_rows_and_bytes_but_never_nothing(path: Path) -> None:
    filled(path, 5)
    with closing(Outbox(path, "o", False, 1)) as outbox:
        assert [item.n for item in outbox.read(Place(1), Pace(2, 10**9))[0]] == [2, 3]
        size = len(outbox.read(Place(), ALL)[0][0].body)
        items, more = outbox.read(Place(), Pace(100, int(size * 3.5)))
        assert [item.n for item in items] == [1, 2, 3]
        assert more
        assert [item.n for item in outbox.read(Place(), Pace(100, 1))[0]] == [1]


def test_a_decision_carries_its_trace(path: Path) -> None:
    chains, store = Chains(), SqliteStore(path)
    traced, plain = chains.add("a", 0), chains.add("a", 1)
    store.write(Batch([traced, plain], traces=[(traced[0].hash, "00-aa-bb-01")]), 1)
    store.close()
    with closing(Outbox(path, "o", False, 1)) as outbox:
        assert [item.traceparent for item in outbox.read(Place(), ALL)[0]] == ["00-aa-bb-01", None]


def test_the_place_is_kept_for_each_outlet(path: Path) -> None:
    filled(path, 5, letters=2)
    with closing(Outbox(path, "a", True, 1)) as a, closing(Outbox(path, "b", False, 1)) as b:
        items, _ = a.read(Place(), Pace(2, 10**9))
        a.move(Place().after(items), 3, [Refusal(items[1], "too large")], 7)
        b.failed("no route")
        assert (a.place(), b.place()) == (Place(2, 2), Place())
        assert (a.behind(a.place()), b.behind(b.place())) == (3, 5)
    with closing(Outbox(path, "a", True, 9)) as again:
        assert again.place() == Place(2, 2)
    a_state, b_state = outlets(path)
    assert (a_state.behind, a_state.sent, a_state.refused, a_state.failed) == (3, 3, 1, 0)
    assert (b_state.behind, b_state.sent, b_state.refused, b_state.failed, b_state.why) == (5, 0, 0, 1, "no route")


def test_people_see_how_far_each_outlet_is_and_what_it_refused(path: Path) -> None:
    filled(path, 2)
    assert outlets_text(path) == f"no outlet follows {path}"
    with closing(Outbox(path, "a", False, 1)) as outbox:
        items, _ = outbox.read(Place(), ALL)
        outbox.move(Place(1), 0, [Refusal(items[0], "answers 422")], 1_000_000)
        outbox.failed("no route")
    first, second = outlets_text(path).splitlines()
    assert first.startswith("a  1 behind, 0 sent, 1 refused, 1 failed attempts, moved last 1970-01-01T00:00:01+00:00")
    assert first.endswith(": no route")
    assert second == f"    refused decision 1, {items[0].id} r0: answers 422"
    forget(path, "a")
    assert outlets(path) == []
    with pytest.raises(UsageError, match="knows no outlet a"):
        forget(path, "a")


def test_a_dead_letter_that_is_replaced_comes_again_and_one_that_is_written_again_does_not(path: Path) -> None:
    filled(path, 0, letters=3)
    with closing(Outbox(path, "o", True, 1)) as outbox, closing(SqliteStore(path)) as store:
        place = Place().after(outbox.read(Place(), ALL)[0])
        same, other = letters_of(3)[0], letters_of(3)[1]._replace(raw=b"another file")
        store.write(Batch(dead_letters=[same, other]), 2)
        assert [item.id for item in outbox.read(place, ALL)[0]] == ["vitals:0:1:not_json"]
        store.write(Batch(dead_letters=[letters_of(4)[3]]), 3)
        assert [item.n for item in outbox.read(place, ALL)[0]] == [4, 5]


def test_the_headers_of_a_message_go_with_its_dead_letter_and_are_no_columns_of_csv(path: Path) -> None:
    plain, message, csv = letters_of(3)
    headers = [["site", "north"], ["site", None]]
    message = message._replace(header=packed([("site", b"north"), ("site", None)]))
    csv = csv._replace(header=b"ts,patient")
    assert [of_message(letter.header) for letter in (plain, message, csv)] == [False, True, False]
    filled(path, 0)
    with closing(Outbox(path, "o", True, 1)) as outbox, closing(SqliteStore(path)) as store:
        store.write(Batch(dead_letters=[plain, message, csv]), 2)
        bodies = [orjson.loads(item.body) for item in outbox.read(Place(), ALL)[0]]
    assert [body.get("headers") for body in bodies] == [None, headers, None]
    assert [body.get("header") for body in bodies] == [None, None, "ts,patient"]


def test_numbers_of_dead_letters_outlive_a_vacuum(path: Path) -> None:
    filled(path, 0, letters=3)
    with closing(Outbox(path, "o", True, 1)) as outbox:
        before = outbox.read(Place(), ALL)[0]
    with closing(sqlite3.connect(path)) as db:
        db.execute("VACUUM")
    with closing(Outbox(path, "o", True, 1)) as outbox:
        assert outbox.read(Place(), ALL)[0] == before


@settings(max_examples=25, deadline=None)
@given(
    plan=st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.sampled_from("ab"), max_size=4), st.integers(0, 6)), max_size=6
    )
)
def test_whoever_follows_the_rule_holds_what_the_store_holds_whenever_a_branch_is_moved_aside(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[int, list[str], int]]
) -> None:
    path = tmp_path_factory.mktemp("branches") / "t.db"
    sent: list[Record] = []
    place, minute = Place(), 0
    chains, kept = Chains(), [Chains()]
    with closing(SqliteStore(path)) as store, closing(Outbox(path, "o", False, 1)) as outbox:
        for back, keys, rows in plan:
            if back and len(kept) > back:  # a restart from an older snapshot that decides otherwise
                del kept[-back:]
                chains = kept[-1].copy()
            for key in keys:
                minute += 1
                store.write(Batch([chains.add(key, minute)]), 1)
            kept.append(chains.copy())
            items, _ = outbox.read(place, Pace(rows or 1, 10**9)) if rows else ([], False)
            sent += [orjson.loads(item.body) for item in items]
            place = place.after(items)
        while items := outbox.read(place, Pace(2, 10**9))[0]:
            sent += [orjson.loads(item.body) for item in items]
            place = place.after(items)
    held = {(record["key"], record["seq"]): record for record in consumer(sent)}
    assert held == {(record["key"], record["seq"]): record for record in decisions(path)}


def test_the_place_moves_on_to_what_the_far_side_holds(path: Path) -> None:
    filled(path, 4, letters=2)
    with closing(Outbox(path, "o", True, 1)) as outbox:
        items, _ = outbox.read(Place(), ALL)
        far = {"decision": Mark(3, items[2].mark), "dead_letter": Mark(1, items[4].mark)}
        assert outbox.reconcile(Place(1, 2), far) == Place(3, 2)  # type: ignore[arg-type]
        assert outbox.reconcile(Place(4, 0), {}) == Place(4, 0)


@pytest.mark.parametrize("mark", [Mark(9, "0" * 16), Mark(3, "0" * 16)], ids=["beyond the end", "another record"])
def test_a_far_side_that_holds_what_the_store_never_sent_is_not_passed_over(path: Path, mark: Mark) -> None:
    filled(path, 4)
    with closing(Outbox(path, "o", False, 1)) as outbox, pytest.raises(UsageError, match="an older copy"):
        outbox.reconcile(Place(), {"decision": mark})


def test_a_far_side_that_holds_a_branch_moved_aside_since_goes_on(path: Path) -> None:
    chains = Chains()
    with closing(SqliteStore(path)) as store, closing(Outbox(path, "o", False, 1)) as outbox:
        store.write(Batch([chains.add("a", 0)]), 1)
        other = chains.copy()
        store.write(Batch([chains.add("a", 1)]), 1)
        sent = outbox.read(Place(), ALL)[0][-1]
        store.write(Batch([other.add("a", 2)]), 1)
        place = outbox.reconcile(Place(), {"decision": Mark(sent.n, sent.mark)})
        assert [item.n for item in outbox.read(place, ALL)[0]] == [3]


def test_every_store_has_a_token_of_its_own(path: Path) -> None:
    filled(path, 0)
    filled(path.with_name("other.db"), 0)
    assert token(path) == token(path)
    assert len({token(path), token(path.with_name("other.db"))}) == 2
