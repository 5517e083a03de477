"""Context, carried values and baselines against the oracle, however the calls are cut."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from pydantic import BaseModel

from operators.columnar.context import Baseline, Carry, Context, carry
from schemas.streams import Stream
from tests.unit import oracle


class Setting(BaseModel):
    """A context row."""

    ts: int
    bed: str
    seq: int | None = None
    scale: int | None = None
    by: str | None = None


SETTINGS = Stream("settings", Setting, "bed", "context", "seq")
ROWS = {
    **{"key": pl.String, "event_us": pl.Int64, "offset": pl.Int64, "mark_us": pl.Int64, "partition": pl.UInt16},
    **{"scale": pl.Int64, "by": pl.String},
}
WINDOWS = {"key": pl.String, "end_us": pl.Int64}
keys = st.sampled_from("ab")
entries = st.lists(
    st.tuples(keys, st.integers(0, 20), st.integers(-5, 20), st.integers(0, 1), st.integers(1, 2)), max_size=12
)
ends = st.lists(st.tuples(st.integers(0, 25), keys), max_size=12, unique=True)


def rows_of(drawn: list[tuple[Any, ...]]) -> pl.DataFrame:
    rows = [
        {
            "key": key,
            "event_us": event,
            "offset": nth,
            "mark_us": mark,
            "partition": partition,
            "scale": scale,
            "by": f"n{nth}",
        }
        for nth, (key, event, mark, partition, scale) in enumerate(drawn)
    ]
    return pl.DataFrame(rows, schema=ROWS)


def windows_of(drawn: list[tuple[int, str]]) -> pl.DataFrame:
    return pl.DataFrame([(key, end) for end, key in sorted(drawn)], schema=WINDOWS, orient="row")


@settings(max_examples=60, deadline=None)
@given(drawn=entries, at=ends, cut=st.integers(0, 12), mark_us=st.integers(0, 25))
def test_a_window_gets_the_newest_row_that_counts_before_its_end(
    drawn: list[tuple[Any, ...]], at: list[tuple[int, str]], cut: int, mark_us: int
) -> None:
    rows, windows = rows_of(drawn), windows_of(at)
    context = Context(SETTINGS)
    context.add(rows[cut:])
    context.join(windows)
    context = Context(SETTINGS, context.snapshot())
    context.add(rows[:cut])
    joined = context.join(windows)
    context.forget(mark_us)
    later = windows.filter(pl.col("end_us") > mark_us)
    assert_frame_equal(context.join(later), joined.filter(pl.col("end_us") > mark_us))
    assert joined.columns == [*windows.columns, "scale", "by", "settings_us", "settings_partition", "settings_offset"]
    for window in joined.iter_rows(named=True):
        found = oracle.as_of(rows.to_dicts(), window["key"], window["end_us"]) or dict.fromkeys(ROWS)
        got = [window[name] for name in joined.columns[2:]]
        assert got == [found[name] for name in ("scale", "by", "event_us", "partition", "offset")]


def test_a_late_context_row_counts_from_its_mark_on_and_is_not_lost() -> None:
    context = Context(SETTINGS)
    context.add(rows_of([("a", 5, 30, 0, 2)]))
    joined = context.join(windows_of([(30, "a"), (31, "a")]))
    assert joined["scale"].to_list() == [None, 2]
    assert joined["settings_us"].to_list() == [None, 5]


def test_forgetting_leaves_one_row_a_key_and_those_that_are_still_to_come() -> None:
    context = Context(SETTINGS)
    context.add(rows_of([("a", t, 0, 0, 1) for t in range(10)] + [("b", 1, 0, 0, 2)]))
    context.forget(8)
    left = Context(SETTINGS, context.snapshot()).join(windows_of([(end, key) for end in (7, 8, 9, 10) for key in "ab"]))
    assert left["settings_us"].to_list() == [None, 1, 7, 1, 8, 1, 9, 1]


values = st.lists(st.tuples(keys, st.none() | st.integers(0, 9), st.none() | st.sampled_from("xy")), max_size=20)


def carried_windows(drawn: list[tuple[Any, ...]]) -> pl.DataFrame:
    hr_us = [None if hr is None else 10 * nth for nth, (_, hr, _) in enumerate(drawn)]
    word_us = [None if word is None else 10 * nth for nth, (_, _, word) in enumerate(drawn)]
    columns = {"key": [key for key, _, _ in drawn], "end_us": [10 * nth + 10 for nth in range(len(drawn))]}
    columns |= {"hr.last": [hr for _, hr, _ in drawn], "hr.last_us": hr_us}
    columns |= {"word.last": [word for _, _, word in drawn], "word.last_us": word_us}
    schema = {**WINDOWS, "hr.last": pl.Int64, "hr.last_us": pl.Int64, "word.last": pl.String, "word.last_us": pl.Int64}
    return pl.DataFrame(columns, schema=schema)


@settings(max_examples=40, deadline=None)
@given(drawn=values, cut=st.integers(0, 20))
def test_a_value_stays_known_over_windows_calls_and_restarts(drawn: list[tuple[Any, ...]], cut: int) -> None:
    windows = carried_windows(drawn)
    first, state = carry(windows[:cut], None, ["hr", "word"])
    second, state = carry(windows[cut:], state, ["hr", "word"])
    kept = Carry(["hr", "word"])
    assert_frame_equal(kept.fill(windows[:cut]), first)
    assert_frame_equal(Carry(["hr", "word"], kept.snapshot()).fill(windows[cut:]), second)
    known: dict[tuple[str, str], Any] = {}
    for before, after in zip(windows.to_dicts(), pl.concat([first, second]).to_dicts(), strict=True):
        for field in ("hr", "word"):
            if before[f"{field}.last"] is not None:
                known[before["key"], field] = (before[f"{field}.last"], before[f"{field}.last_us"])
            assert (after[f"{field}.last"], after[f"{field}.last_us"]) == known.get(
                (before["key"], field), (None, None)
            )
    assert sorted(state["key"]) == sorted(set(windows["key"]))


measured = st.lists(
    st.tuples(st.integers(0, 60), keys, st.none() | st.integers(0, 9), st.none() | st.integers(0, 9)),
    max_size=40,
    unique_by=lambda one: (one[0], one[1]),
)


def measured_windows(drawn: list[tuple[Any, ...]]) -> pl.DataFrame:
    schema = {"end_us": pl.Int64, "key": pl.String, "hr.median": pl.Float64, "sbp.last": pl.Int64}
    return pl.DataFrame(sorted(drawn, key=lambda one: one[:2]), schema=schema, orient="row")


@settings(max_examples=60, deadline=None)
@given(drawn=measured, cut=st.integers(0, 40), span_us=st.integers(1, 40))
def test_a_baseline_is_the_median_of_the_earlier_windows_in_the_span(
    drawn: list[tuple[Any, ...]], cut: int, span_us: int
) -> None:
    windows, columns = measured_windows(drawn), {"hr": "hr.median", "sbp": "sbp.last"}
    baseline = Baseline(columns, span_us)
    first = baseline.join(windows[:cut])
    if cut and len(first):
        baseline.forget(first["end_us"].to_list()[-1] - 1)
    baseline = Baseline(columns, span_us, baseline.snapshot())
    joined = pl.concat([first, baseline.join(windows[cut:])])
    rows = windows.to_dicts()
    for got in joined.iter_rows(named=True):
        earlier = [r for r in rows if r["key"] == got["key"] and got["end_us"] - span_us < r["end_us"] < got["end_us"]]
        for name, column in columns.items():
            assert got[f"{name}.baseline"] == oracle.median([r[column] for r in earlier if r[column] is not None])


def test_a_window_of_the_same_instant_is_not_an_earlier_one() -> None:
    windows = pl.DataFrame({"key": ["a"] * 3, "end_us": [4, 5, 5], "hr": [1.0, 3.0, 9.0]})
    assert Baseline({"hr": "hr"}, 10).join(windows)["hr.baseline"].to_list() == [None, 1.0, 1.0]


def test_a_snapshot_follows_every_change() -> None:
    baseline = Baseline({"hr": "hr"}, 10)
    states = [baseline.snapshot()]
    for key, end in (("a", 1), ("b", 9)):
        baseline.join(pl.DataFrame({"key": [key], "end_us": [end], "hr": [1.0]}))
        states.append(baseline.snapshot())
    baseline.forget(12)
    states.append(baseline.snapshot())
    windows = pl.DataFrame({"key": ["a", "b"], "end_us": [10, 10], "hr": [0.0, 0.0]})
    known = [Baseline({"hr": "hr"}, 10, state).join(windows)["hr.baseline"].to_list() for state in states]
    assert known == [[None, None], [1.0, None], [1.0, 1.0], [None, 1.0]]


def test_a_baseline_forgets_keys_and_does_not_grow_beyond_its_span() -> None:
    baseline = Baseline({"hr": "hr"}, 5)
    for end in range(100):
        baseline.join(pl.DataFrame({"key": ["a", f"gone-{end}"], "end_us": [end, end], "hr": [1.0, 2.0]}))
        baseline.forget(end)
    assert (
        pl.DataFrame(baseline.join(pl.DataFrame({"key": ["a"], "end_us": [100], "hr": [1.0]})))["hr.baseline"].item()
        == 1.0
    )
    assert len(baseline.snapshot()) < 3000


@pytest.mark.parametrize("state", [b"", b"{}\n", Carry([]).snapshot()])
def test_a_state_of_something_else_is_refused(state: bytes) -> None:
    with pytest.raises(ValueError, match="the recovery store holds"):
        Context(SETTINGS, state)
    with pytest.raises(ValueError, match="the recovery store holds"):
        Baseline({}, 1, state)


def test_an_older_setting_that_comes_late_does_not_undo_a_newer_one() -> None:
    context = Context(SETTINGS)
    context.add(rows_of([("a", 50, 0, 0, 2), ("a", 5, 40, 0, 1), ("a", 6, 60, 0, 1)]))
    joined = context.join(windows_of([(45, "a"), (55, "a"), (70, "a")]))
    assert joined["scale"].to_list() == [1, 2, 2]
