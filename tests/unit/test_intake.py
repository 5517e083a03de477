"""One partition's intake: every row has a way out, and no cut and no restart changes which."""

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from operators.columnar import intake
from operators.columnar.intake import Intake, IntakeSpec, Seen
from operators.columnar.watermark import NO_MARK
from schemas.errors import UsageError

SECOND = 1_000_000
DAY = 86_400 * SECOND
SCHEMA = {
    "key": pl.String,
    "event_us": pl.Int64,
    "offset": pl.Int64,
    "hr": pl.Float64,
    "acvpu": pl.String,
    "oxygen": pl.Boolean,
    "seq": pl.Int64,
}


def window_end_us(event_us):
    return event_us // (60 * SECOND) * (60 * SECOND) + 60 * SECOND


SPEC = IntakeSpec(
    role="events",
    wait_us=10 * SECOND,
    max_future_us=300 * SECOND,
    lookahead_rows=20,
    dedupe_horizon_us=600 * SECOND,
    seq="seq",
    late_before=window_end_us,
)


def frame(rows):
    """(key, seconds, hr, seq) each."""
    columns = [(k, int(s * SECOND), n, hr, "A", None, seq) for n, (k, s, hr, seq) in enumerate(rows)]
    return pl.DataFrame(columns, SCHEMA, orient="row")


def raw(offsets):
    return [f"row {offset}".encode() for offset in offsets.tolist()]


@dataclass
class Outcome:
    rows: list = field(default_factory=list)
    rejects: list = field(default_factory=list)
    duplicates: int = 0
    mark_us: int = NO_MARK

    def add(self, admitted):
        self.rows.append(admitted.rows)
        self.rejects.append(admitted.rejects)
        self.duplicates += admitted.duplicates
        self.mark_us = admitted.mark_us

    def tell(self):
        rows, rejects = pl.concat(self.rows), pl.concat(self.rejects)
        return rows.rows(), rejects.rows(), self.duplicates, self.mark_us


def run(rows, spec=SPEC, cuts=(), now_us=None):
    taken, outcome = Intake(spec), Outcome()
    edges = [0, *sorted(cuts), len(rows)]
    for start, end in pairwise(edges):
        outcome.add(taken.admit(rows.slice(start, end - start), raw, now_us, last=False))
    outcome.add(taken.admit(rows.clear(), raw, now_us, last=True))
    assert taken.held_offset is None
    return outcome.tell()


def one_by_one(rows, spec):
    """The rules again, a row at a time over the whole partition, in the dullest way."""
    rows = rows.rows(named=True)
    wait, ahead_us, horizon = spec.wait_us, spec.max_future_us, spec.dedupe_horizon_us
    newest, marks, refused, seen = NO_MARK, {}, {}, {}
    kept, rejects, duplicates = [], [], 0
    first, accepted = NO_MARK, 0

    def doubted(row):
        return abs(row["event_us"] - refused.get(row["key"], NO_MARK)) <= ahead_us

    for at, row in enumerate(rows):
        event_us, offset, key = row["event_us"], row["offset"], row["key"]
        if not spec.per_key_time and event_us > newest + ahead_us:
            after = rows[at + 1 : at + 1 + spec.lookahead_rows]
            behind = [other for other in after if other["event_us"] < event_us - ahead_us]
            ahead = [other for other in after if other["event_us"] >= event_us - ahead_us]
            short = len(after) < spec.lookahead_rows
            if short:
                ahead = [other for other in ahead if not doubted(other)]
            out_of_step = accepted >= 10 and (event_us - newest) * accepted > 100 * max(newest - first, 1)
            odd = bool(behind) or (short and doubted(row)) or out_of_step
            if len(behind) > len(ahead) or (odd and len(behind) == len(ahead)):
                refused[key] = event_us
                rejects.append((offset, "future"))
                continue
        mark = marks.get(key, NO_MARK) if spec.per_key_time else newest - wait if newest > NO_MARK else NO_MARK
        newest = max(newest, event_us)
        first, accepted = (event_us if accepted == 0 else first), accepted + 1
        marks[key] = max(marks.get(key, NO_MARK), event_us - wait)
        content = (key, event_us, row["hr"], row["acvpu"], row["oxygen"], row["seq"])
        held = tuple(row[name] is None for name in ("hr", "acvpu", "oxygen"))
        identity = content if spec.seq is None or row["seq"] is None else (key, row["seq"], held)
        last_us, last_place = seen.get(identity, (None, 0))
        known = last_us is not None and accepted - last_place <= spec.remembered_rows
        seen[identity] = (max(last_us, event_us) if known else event_us, accepted)
        if horizon and known and abs(event_us - last_us) <= horizon and last_us >= mark - horizon:
            duplicates += 1
        elif spec.role == "events" and window_end_us(event_us) <= mark:
            rejects.append((offset, "late"))
        else:
            kept.append((*row.values(), mark))
    return kept, rejects, duplicates


# A coarse grid, so that distances fall exactly on the horizon, the guard's limit and the closing mark.
SECONDS = st.one_of(
    st.integers(0, 6).map(lambda step: 50 * step),
    st.integers(0, 8).map(lambda step: 300 * step + 10),
    st.sampled_from([86_400, 86_410, 86_700, 100_000]),
)
ROWS = st.lists(
    st.tuples(st.sampled_from("ab"), SECONDS, st.sampled_from([None, 70.0]), st.one_of(st.none(), st.integers(0, 1))),
    max_size=60,
).map(frame)
SPECS = st.builds(
    replace,
    st.just(SPEC),
    lookahead_rows=st.integers(1, 8),
    dedupe_horizon_us=st.sampled_from([0, 50 * SECOND, 600 * SECOND]),
    wait_us=st.sampled_from([0, 10 * SECOND, 2000 * SECOND]),
    seq=st.sampled_from([None, "seq"]),
    per_key_time=st.sampled_from([False, False, True]),
    role=st.sampled_from(["events", "context"]),
    remembered_rows=st.sampled_from([2, 3, 1000]),
)
CUTS = st.lists(st.integers(0, 60), max_size=12)


def within(cuts, rows):
    return [cut for cut in cuts if cut <= len(rows)]


@given(ROWS, SPECS, CUTS)
@settings(max_examples=60, deadline=None)
def test_in_any_cut_each_row_leaves_as_it_would_one_by_one(rows, spec, cuts):
    kept, rejects, duplicates, mark_us = run(rows, spec, within(cuts, rows))
    assert (kept, [reject[:2] for reject in rejects], duplicates) == one_by_one(rows, spec)
    assert len(rows) == len(kept) + len(rejects) + duplicates
    assert [reject[3] for reject in rejects] == [f"row {reject[0]}".encode() for reject in rejects]
    assert (kept, rejects, duplicates, mark_us) == run(rows, spec)


@given(ROWS, SPECS, CUTS, st.data())
@settings(max_examples=50, deadline=None)
def test_a_restart_at_any_cut_that_reads_again_from_the_held_row_changes_nothing(rows, spec, cuts, data):
    taken, outcome, start = Intake(spec), Outcome(), 0
    for cut in [*sorted(within(cuts, rows)), len(rows)]:
        outcome.add(taken.admit(rows.slice(start, cut - start), raw, None, last=False))
        start = cut
        if data.draw(st.booleans()):
            start = start if taken.held_offset is None else taken.held_offset
            taken = Intake(spec, taken.snapshot())
    outcome.add(taken.admit(rows.slice(start), raw, None, last=True))
    assert outcome.tell() == run(rows, spec)


@given(ROWS, CUTS)
@settings(max_examples=25, deadline=None)
def test_the_state_after_the_last_row_is_the_same_bytes_in_any_cut(rows, cuts):
    states = []
    for edges in ([], sorted(within(cuts, rows))):
        taken, start = Intake(SPEC), 0
        for cut in [*edges, len(rows)]:
            taken.admit(rows.slice(start, cut - start), raw, None, last=cut == len(rows) and start < cut)
            start = cut
        taken.admit(rows.clear(), raw, None, last=True)
        states.append(taken.snapshot())
    assert states[0] == states[1]
    assert Intake(SPEC, states[0]).snapshot() == states[0]


@given(ROWS, CUTS)
@settings(max_examples=25, deadline=None)
def test_live_the_clock_is_the_guard_and_nothing_is_held(rows, cuts):
    now_us = 2000 * SECOND
    kept, rejects, duplicates, _ = run(rows, SPEC, within(cuts, rows), now_us)
    future = [reject[0] for reject in rejects if reject[1] == "future"]
    assert future == rows.filter(pl.col("event_us") > now_us + SPEC.max_future_us)["offset"].to_list()
    assert len(rows) == len(kept) + len(rejects) + duplicates
    taken = Intake(SPEC)
    taken.admit(rows, raw, now_us, last=False)
    assert taken.held_offset is None


def test_a_late_row_is_set_aside_with_how_late_it_was():
    rows = frame([("a", 30, 70.0, 1), ("b", 82.345, 70.0, 1), ("a", 59.5, 70.0, 2), ("a", 60, 70.0, 3)])
    kept, rejects, _, _ = run(rows)
    assert [row[2] for row in kept] == [0, 1, 3]
    assert rejects == [(2, "late", "late by 12.345 s: its window closed at 1970-01-01T00:01:00Z", b"row 2")]


def test_a_row_exactly_at_the_closing_mark_is_late_and_one_before_it_is_not():
    rows = frame([("b", 70, 70.0, 1), ("a", 59, 70.0, 2)])
    assert run(rows)[1][0][2] == "late by 0.000 s: its window closed at 1970-01-01T00:01:00Z"
    assert run(frame([("b", 69.9, 70.0, 1), ("a", 59, 70.0, 2)]))[1] == []


def test_context_is_never_late():
    rows = frame([("b", 100, 70.0, 1), ("a", 5, 70.0, 2)])
    kept, rejects, _, _ = run(rows, replace(SPEC, role="context", late_before=None))
    assert [row[2] for row in kept] == [0, 1]
    assert rejects == []


def test_events_without_a_way_to_be_late_are_refused_at_once():
    with pytest.raises(ValueError, match="late_before"):
        replace(SPEC, late_before=None)


def test_one_row_a_day_ahead_costs_itself_and_never_moves_the_mark():
    rows = frame([("a", 0, 70.0, 0), ("b", 86_400, 70.0, 0), *(("a", s, 70.0, s) for s in range(1, 11))])
    kept, rejects, duplicates, mark_us = run(rows)
    assert [row[2] for row in kept] == [0, *range(2, 12)]
    assert [(reject[:2], reject[3]) for reject in rejects] == [((1, "future"), b"row 1")]
    assert rejects[0][2] == (
        "dated 86400.000 s ahead of all before it; 10 of the 10 rows asked after it are more than 300 s older: "
        "check the sender's clock"
    )
    assert (duplicates, mark_us) == (0, 0)


def test_a_copy_is_counted_once_and_a_later_number_is_not_a_copy():
    rows = frame([("a", 1, 70.0, 5), ("a", 1, 70.0, 5), ("a", 1, 70.0, 6), ("b", 1, 70.0, 5), ("a", 300, 71.0, 5)])
    kept, _, duplicates, _ = run(rows)
    assert [row[2] for row in kept] == [0, 2, 3]
    assert duplicates == 2


def test_without_a_number_only_the_whole_content_makes_a_copy():
    rows = frame([("a", 1, 70.0, None), ("a", 1, None, None), ("a", 1, 70.0, None), ("a", 2, 70.0, None)])
    kept, _, duplicates, _ = run(rows)
    assert [row[2] for row in kept] == [0, 1, 3]
    assert duplicates == 1


def test_a_copy_beyond_the_horizon_counts_as_a_new_row():
    rows = frame([("a", 0, 70.0, 1), ("b", 400, 70.0, 1), ("a", 601, 70.0, 1)])
    assert run(rows)[2] == 0
    assert run(rows, replace(SPEC, dedupe_horizon_us=602 * SECOND))[2] == 1
    assert run(rows, replace(SPEC, dedupe_horizon_us=0))[2] == 0


def copies_with_a_restart_after_each_row(rows, spec):
    taken, found = Intake(spec), []
    for at in range(len(rows)):
        admitted = taken.admit(rows.slice(at, 1), raw, 1_000_000 * SECOND, last=False)
        found += [at] * admitted.duplicates
        taken = Intake(spec, taken.snapshot())
    return found


def test_the_horizon_and_the_number_of_rows_are_inclusive_and_outlive_a_restart():
    rows = frame([("a", 0, 70.0, 1), ("b", 610, 70.0, 1), ("a", 600, 70.0, 1)])
    assert copies_with_a_restart_after_each_row(rows, SPEC) == [2]
    rows = frame([("a", 0, 70.0, 1), ("b", 611, 70.0, 1), ("a", 600, 70.0, 1)])
    assert copies_with_a_restart_after_each_row(rows, SPEC) == []
    rows = frame([("a", 0, 70.0, 1), *(("b", 0, 70.0, seq) for seq in range(2)), ("a", 0, 70.0, 1)])
    assert copies_with_a_restart_after_each_row(rows, replace(SPEC, remembered_rows=3)) == [3]
    assert copies_with_a_restart_after_each_row(rows, replace(SPEC, remembered_rows=2)) == []


def test_an_old_row_with_a_number_used_again_does_not_hide_the_newest():
    rows = frame([("a", 1000, 70.0, 1), ("a", 100, 70.0, 1), ("a", 1000, 70.0, 1), ("a", 1001, 70.0, 2)])
    patient = replace(SPEC, wait_us=2000 * SECOND)
    assert copies_with_a_restart_after_each_row(rows, patient) == [2]
    assert run(rows, patient)[2] == 1


def test_a_late_row_seen_again_is_a_copy_and_a_refused_one_is_refused_again():
    rows = frame(
        [("a", 100, 70.0, 1), ("a", 5, 70.0, 2), ("a", 5, 70.0, 2), ("b", 9000, 70.0, 1), ("b", 9000, 70.0, 1)]
    )
    rows = pl.concat([rows, frame([("c", 101, 70.0, seq) for seq in range(5)]).with_columns(pl.col("offset") + 5)])
    _, rejects, duplicates, _ = run(rows)
    assert Counter(reject[1] for reject in rejects) == {"late": 1, "future": 2}
    assert duplicates == 1


def test_what_is_remembered_stays_bounded_while_time_moves_on():
    taken = Intake(SPEC)
    sizes = []
    for batch in range(40):
        event_s = batch * 100 + np.arange(1000) * 0.1
        rows = frame([("a", second, 70.0, batch * 1000 + seq) for seq, second in enumerate(event_s.tolist())])
        rows = rows.with_columns(pl.col("offset") + batch * 1000)
        admitted = taken.admit(rows, raw, None, last=False)
        assert admitted.duplicates == 0
        sizes.append(len(taken.snapshot()))
    assert max(sizes[10:]) <= sizes[10] + 100
    assert len(taken._seen._table) <= 1 << 16


def test_time_per_key_has_no_guard_and_no_mark_for_the_partition():
    rows = frame([("a", 0, 70.0, None), ("a", 90_000, 70.0, None), ("b", 0, 71.0, None), ("b", 30, 71.0, None)])
    kept, rejects, _, mark_us = run(rows, replace(SPEC, per_key_time=True))
    assert [row[7] for row in kept] == [NO_MARK, -10 * SECOND, NO_MARK, -10 * SECOND]
    assert rejects == []
    assert mark_us == NO_MARK


def test_a_held_row_is_named_and_its_bytes_come_from_the_batch_that_brought_it():
    taken = Intake(SPEC)
    first = frame([("a", 86_400, 70.0, 0), ("b", 1, 70.0, 0)])
    admitted = taken.admit(first, lambda offsets: [b"first batch"] * len(offsets), None, last=False)
    assert (len(admitted.rows), taken.held_offset) == (0, 0)
    assert admitted.rows.columns == [*SCHEMA, "mark_us"]
    second = frame([("b", second, 70.0, second) for second in range(2, 30)]).with_columns(pl.col("offset") + 2)
    admitted = taken.admit(second, raw, None, last=False)
    assert admitted.rejects["raw"].to_list() == [b"first batch"]
    assert taken.held_offset is None
    assert_frame_equal(admitted.rows.drop("mark_us"), first[1:].vstack(second))


def test_rows_hashed_by_another_version_are_forgotten_and_the_log_is_told(monkeypatch):
    taken = Intake(SPEC)
    taken.admit(frame([("a", 1, 70.0, 1)]), raw, 0, last=False)
    state = taken.snapshot()
    assert Intake(SPEC, state).notice is None
    monkeypatch.setattr(intake, "_IDENTITY_VERSION", "another")
    again = Intake(SPEC, state)
    assert "forgotten" in again.notice
    assert again.admit(frame([("a", 1, 70.0, 1)]), raw, 0, last=False).duplicates == 0


def test_a_state_of_another_version_is_refused_with_a_way_out():
    with pytest.raises(UsageError, match="empty recovery folder"):
        Intake(SPEC, b'{"version":99}\n')


def test_a_last_row_a_day_ahead_of_a_dense_stream_is_refused_and_a_sparse_stream_is_believed():
    dense = [("a", second, 70.0, None) for second in range(300)]
    hourly = [("a", 3600 * hour, 70.0, None) for hour in range(13)]
    assert [reason for _, reason, *_ in run(frame([*dense, ("a", 299 + 86_400, 70.0, None)]))[1]] == ["future"]
    assert run(frame([*hourly, ("a", 12 * 3600 + 86_400, 70.0, None)]))[1] == []


def test_of_two_beds_that_disagree_by_a_day_the_earlier_is_believed():
    rows = [row for second in range(60) for row in (("a", second, 70.0, None), ("b", 86_400 + second, 70.0, None))]
    kept, rejects, *_ = run(frame(rows))
    assert {row[0] for row in kept} == {"a"}
    assert {reason for _, reason, *_ in rejects} == {"future"}


def test_long_rows_of_one_message_are_no_copies_of_each_other():
    rows = pl.concat([frame([("a", 1, 70.0, 1)]), frame([("a", 1, None, 1)]), frame([("a", 1, 70.0, 1)])])
    rows = rows.with_columns(offset=pl.int_range(pl.len(), dtype=pl.Int64))
    assert run(rows)[2] == 1


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=300), max_size=12),
    spread=st.sampled_from([1, 2**50, 2**54 + 1]),
)
def test_identities_that_want_the_same_slot_are_told_apart(batches, spread):
    seen, known, offset = Seen(SECOND, 10**6, Seen.EMPTY, -1), set(), 0
    for batch in batches:
        identity = np.array(batch, np.uint64) * np.uint64(spread)
        offsets, zeros = np.arange(offset, offset + len(batch)), np.zeros(len(batch), np.int64)
        got = seen.repeats(identity, zeros, offsets, zeros, NO_MARK)
        want = []
        for number in batch:
            want.append(number in known)
            known.add(number)
        assert got.tolist() == want
        offset += len(batch)
    entries = seen.live(NO_MARK)
    assert sorted(entries[:, 0].view(np.uint64).tolist()) == sorted(number * spread for number in known)
