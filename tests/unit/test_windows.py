"""Windows against the oracle, over any cut into batches, any interleaving of partitions, and restarts in between."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from operators.columnar import windows as module
from operators.columnar.watermark import END, NO_MARK
from operators.columnar.windows import Windows, late_before_us
from schemas.windows import Agg, WindowSpec
from tests.unit import oracle

NUMERIC = (
    *(("count", None), ("sum", None), ("mean", None), ("var", None), ("std", None), ("min", None), ("max", None)),
    *(("first", None), ("last", None), ("last_us", None), ("median", None), ("quantile", 0.9), ("quantile", 0.05)),
    *(("slope", None), ("ewma", 3.0), ("time_weighted_mean", None), ("fraction_above", 10.0), ("fraction_below", 0.0)),
)
AGGS = [
    *(Agg(f"{field}.{fn}.{arg}", field, fn, arg) for field in ("hr", "beats") for fn, arg in NUMERIC),  # type: ignore[arg-type]
    *(Agg(f"word.{fn}", "word", fn) for fn in ("count", "first", "last", "last_us")),  # type: ignore[arg-type]
    *(Agg(f"on.{fn}", "on", fn) for fn in ("count", "first", "last", "mean")),  # type: ignore[arg-type]
]
SPECS = {
    "tumbling": WindowSpec("tumbling", length_us=7_000_000),
    "sliding": WindowSpec("sliding", length_us=7_000_000, every_us=2_000_000),
    "session": WindowSpec("session", gap_us=3_000_000),
    "count": WindowSpec("count", rows=3),
}
SCHEMA = {
    **{"key": pl.String, "event_us": pl.Int64, "offset": pl.Int64, "mark_us": pl.Int64, "partition": pl.UInt16},
    **{"hr": pl.Float64, "beats": pl.Int64, "on": pl.Boolean, "word": pl.String},
}
START_US = 1_700_000_000_000_000
TICK_US = 500_000  # so coarse that rows often share a time, and fall on the edges of windows and gaps
each_kind = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
maybe = st.none() | st.integers(-400, 400)
arrival = st.tuples(
    st.integers(0, 3), st.integers(0, 8), st.sampled_from("abc"), maybe, maybe, st.none() | st.booleans()
)
partitions = st.lists(st.lists(arrival, max_size=25), min_size=1, max_size=3)


def accepted(
    drawn: list[list[tuple[Any, ...]]], spec: WindowSpec, wait_us: int = 2_000_000
) -> list[list[dict[str, Any]]]:
    """The rows of each partition in order of arrival with their running marks, without those that are late."""
    out: list[list[dict[str, Any]]] = []
    for partition, rows in enumerate(drawn):
        clock, mark, kept = START_US, NO_MARK, []
        for offset, (step, delay, key, tenths, whole, on) in enumerate(rows):
            clock += step * TICK_US
            row = {
                "key": key,
                "event_us": clock - delay * TICK_US,
                "offset": offset,
                "mark_us": mark,
                "partition": partition,
            }
            row |= {"hr": None if tenths is None else tenths / 10, "beats": whole, "on": on}
            row["word"] = None if whole is None else f"{whole}é"
            kept += [row] if not oracle.is_late(row, spec) else []
            mark = max(mark, row["event_us"] - wait_us)
        out.append(kept)
    return out


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def whole(rows: list[list[dict[str, Any]]], spec: WindowSpec) -> pl.DataFrame:
    windows = Windows(spec, AGGS)
    for of_partition in rows:
        windows.add(frame(of_partition))
    return windows.close(None)


def interleaved(rows: list[list[dict[str, Any]]], draw: st.DataObject) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Batches, each of one partition, with the joint mark that holds after it."""
    left = [list(of) for of in rows]
    marks = [NO_MARK if of else END for of in rows]
    while any(left):
        nth = draw.draw(st.sampled_from([nth for nth, of in enumerate(left) if of]))
        size = draw.draw(st.integers(1, 8))
        batch, left[nth] = left[nth][:size], left[nth][size:]
        # What is known of a partition's clock before its next row comes: that row's own mark.
        marks[nth] = left[nth][0]["mark_us"] if left[nth] else END
        yield batch, min(marks)


@each_kind
@settings(max_examples=25, deadline=None)
@given(drawn=partitions)
def test_closed_windows_are_those_of_the_oracle(spec: WindowSpec, drawn: list[list[tuple[Any, ...]]]) -> None:
    rows = accepted(drawn, spec)
    expected = oracle.windows([row for of in rows for row in of], spec, AGGS)
    got = whole(rows, spec).to_dicts()
    assert len(got) == len(expected)
    for found, wanted in zip(got, expected, strict=True):
        for name, value in wanted.items():
            if isinstance(value, float) and not isinstance(found[name], int | str):
                assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-10), name
            else:
                assert found[name] == value, name


@each_kind
@settings(max_examples=25, deadline=None)
@given(drawn=partitions, draw=st.data())
def test_cuts_interleavings_and_restarts_do_not_change_a_bit(
    spec: WindowSpec, drawn: list[list[tuple[Any, ...]]], draw: st.DataObject
) -> None:
    rows = accepted(drawn, spec)
    windows, closed, count = Windows(spec, AGGS), [], 0
    for batch, mark_us in interleaved(rows, draw):
        assert windows.add(frame(batch)) is None
        count += len(batch)
        if mark_us < END:
            soonest = windows.next_end_us
            closed.append(windows.close(mark_us))
            assert closed[-1].is_empty() or (soonest is not None and soonest <= mark_us)
        if draw.draw(st.booleans()):
            windows = Windows(spec, AGGS, windows.snapshot())
        if spec.kind in ("tumbling", "session"):
            assert windows.rows_open + sum(int(part["rows"].sum()) for part in closed) == count
    closed.append(windows.close(None))
    expected = whole(rows, spec)
    if expected.height:
        assert_frame_equal(pl.concat(closed, how="vertical_relaxed"), expected, check_exact=True)


@each_kind
def test_only_what_the_mark_has_reached_closes_and_next_end_says_when(spec: WindowSpec) -> None:
    windows = Windows(spec, AGGS)
    assert windows.next_end_us is None
    second = 1_000_000
    rows = [
        {"key": "a", "event_us": t * second, "offset": t, "mark_us": NO_MARK, "partition": 0, "hr": 1.0}
        for t in range(4)
    ]
    windows.add(frame(rows))
    ends = {"tumbling": 7, "sliding": 1, "session": 6, "count": 2}
    end_us = ends[spec.kind] * second + (spec.kind == "count")
    assert windows.close(end_us - 1).is_empty()
    assert windows.next_end_us is not None
    assert windows.next_end_us <= end_us
    closed = windows.close(end_us)
    assert closed["end_us"].to_list() == [end_us]
    assert closed["rows"].item() == {"tumbling": 4, "sliding": 1, "session": 4, "count": 3}[spec.kind]
    assert (windows.next_end_us or END) > end_us
    assert windows.close(end_us).is_empty()


@each_kind
@settings(max_examples=15, deadline=None)
@given(drawn=st.lists(arrival, max_size=40), cut=st.integers(1, 9))
def test_where_time_runs_by_key_each_key_closes_on_its_own(spec: WindowSpec, drawn: list[Any], cut: int) -> None:
    rows = [
        row
        for nth, key in enumerate("abc")
        for row in accepted([[one for one in drawn if one[2] == key]], spec)[0]
        # An archive holds record after record; the row numbers go on.
        if row.update(offset=100 * nth + row["offset"]) is None
    ]
    windows, closed = Windows(spec, AGGS), []
    for first in range(0, len(rows), cut):
        windows.add(frame(rows[first : first + cut]))
        coming = {row["key"]: row["mark_us"] for row in reversed(rows[first + cut :])}
        seen = {row["key"] for row in rows[: first + cut]}
        marks = {"key": list(seen), "mark_us": [coming.get(key, END) for key in seen]}
        closed.append(windows.close(0, pl.DataFrame(marks, schema={"key": pl.String, "mark_us": pl.Int64})))
    closed.append(windows.close(None))
    assert_frame_equal(
        pl.concat(closed, how="vertical_relaxed").sort("end_us", "key", "start_us", maintain_order=True),
        whole([rows], spec).sort("end_us", "key", "start_us", maintain_order=True),
        check_exact=True,
        check_dtypes=bool(rows),
    )


def test_a_partition_that_was_left_out_as_idle_gets_its_late_rows_back() -> None:
    windows = Windows(SPECS["tumbling"], AGGS)
    row = {"key": "a", "event_us": 1_000_000, "offset": 0, "mark_us": NO_MARK, "partition": 0}
    windows.add(frame([row]))
    windows.close(7_000_000)
    refused = windows.add(frame([{**row, "offset": 1}, {**row, "offset": 2, "event_us": 7_000_000}]))
    assert refused is not None
    assert refused["offset"].to_list() == [1]
    assert windows.close(None)["start_us"].to_list() == [7_000_000]


def test_a_sliding_row_of_a_slow_partition_does_not_reopen_a_closed_window() -> None:
    windows = Windows(SPECS["sliding"], AGGS)
    row = {"key": "a", "event_us": 5_000_000, "offset": 0, "mark_us": NO_MARK, "partition": 0}
    windows.close(7_000_000)
    assert windows.add(frame([row])) is None
    assert windows.close(None)["end_us"].to_list() == [9_000_000, 11_000_000]


def test_what_does_not_fill_a_count_window_stays_open_at_the_end() -> None:
    windows = Windows(SPECS["count"], AGGS)
    row = {"key": "a", "event_us": 1, "mark_us": NO_MARK, "partition": 0}
    windows.add(frame([{**row, "offset": offset} for offset in range(5)]))
    assert windows.close(None)["rows"].to_list() == [3]
    assert windows.rows_open == 2


def test_many_small_batches_are_merged_and_many_pairs_are_worked_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAIRS_MAX", 40)
    rows = [
        {"key": "ab"[t % 2], "event_us": t * 100_000, "offset": t, "mark_us": NO_MARK, "partition": 0, "hr": t / 7}
        for t in range(300)
    ]
    windows = Windows(SPECS["sliding"], AGGS)
    for row in rows:
        windows.add(frame([row]))
    closed = windows.close(None)
    monkeypatch.undo()
    assert_frame_equal(closed, whole([rows], SPECS["sliding"]), check_exact=True)


def test_a_field_that_only_one_of_two_streams_has_is_null_for_the_other() -> None:
    windows = Windows(SPECS["tumbling"], AGGS)
    row = {"key": "a", "event_us": 1, "offset": 0, "mark_us": NO_MARK, "partition": 0, "hr": 5.0}
    windows.add(frame([row]).drop("beats", "word", "on"))
    windows.add(frame([{**row, "partition": 1, "hr": None, "beats": 3}]).drop("hr"))
    closed = Windows(SPECS["tumbling"], AGGS, windows.snapshot()).close(None).row(0, named=True)
    assert (closed["rows"], closed["hr.sum.None"], closed["beats.sum.None"]) == (2, 5.0, 3.0)


@each_kind
def test_a_row_is_late_from_the_end_of_its_last_window_on(spec: WindowSpec) -> None:
    event_us = np.array([-1, 0, 6_999_999, 7_000_000])
    for time_us, late_us in zip(event_us.tolist(), late_before_us(event_us, spec).tolist(), strict=True):
        row = {"event_us": time_us}
        assert oracle.is_late({**row, "mark_us": late_us}, spec)
        assert not oracle.is_late({**row, "mark_us": late_us - 1}, spec)


def test_a_specification_or_a_state_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(ValueError, match="lose the rows in between"):
        Windows(WindowSpec("sliding", length_us=5, every_us=6), AGGS)
    state = Windows(SPECS["tumbling"], AGGS).snapshot()
    with pytest.raises(ValueError, match="start it empty"):
        Windows(SPECS["tumbling"], AGGS[:3], state)
    with pytest.raises(ValueError, match="this version reads 'windows/1'"):
        Windows(SPECS["tumbling"], AGGS, state.replace(b"windows/1", b"windows/0", 1))
