"""The watermark row by row, the guard against clocks ahead, and the mark several partitions share."""

import json
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.columnar.watermark import END, NO_MARK, FutureGuard, JointMark, running_mark, running_mark_by_key

SECOND = 1_000_000
DAY = 86_400 * SECOND
AHEAD = 300 * SECOND


def at(clock: str) -> int:
    return int(datetime.fromisoformat(f"2026-03-01T{clock}").replace(tzinfo=UTC).timestamp()) * SECOND


def replay(event_us: list[int], keys: list[str] | None = None, lookahead_rows: int = 1000) -> list[int]:
    """Positions refused when the rows are a whole partition."""
    key = pl.Series(keys or [f"k{row % 7}" for row in range(len(event_us))], dtype=pl.String)
    judged = FutureGuard(AHEAD, lookahead_rows).judge_replay(key, np.array(event_us, np.int64), NO_MARK, last=True)
    assert judged.decided == len(event_us)
    assert len(judged.details) == len(judged.future)
    return judged.future.tolist()


def test_the_mark_follows_the_published_example():
    event_us = np.array([at(clock) for clock in ("11:59:30", "12:00:00", "12:00:11", "11:59:50")])
    before, after = running_mark(event_us, 10 * SECOND)
    assert [*before[1:].tolist(), after] == [at(c) for c in ("11:59:20", "11:59:50", "12:00:01", "12:00:01")]
    assert before[0] == NO_MARK
    assert event_us[3] < before[3]  # the last row is behind the mark it met


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50))), st.integers(0, 9), st.data())
@settings(max_examples=50, deadline=None)
def test_the_marks_are_those_of_one_row_after_another_in_any_cut(rows, wait_us, data):
    newest, by_key, wanted, wanted_by_key = NO_MARK, {}, [], []
    for key, event_us in rows:
        wanted.append(newest)
        wanted_by_key.append(by_key.get(key, NO_MARK))
        newest = max(newest, event_us - wait_us)
        by_key[key] = max(by_key.get(key, NO_MARK), event_us - wait_us)
    cut = data.draw(st.integers(0, len(rows)))
    mark, marks, found, found_by_key = NO_MARK, {}, [], []
    for part in (rows[:cut], rows[cut:]):
        event_us = np.array([row[1] for row in part], np.int64)
        before, mark = running_mark(event_us, wait_us, mark)
        found += before.tolist()
        key = pl.Series([row[0] for row in part], dtype=pl.String)
        before, after = running_mark_by_key(key, event_us, wait_us, marks)
        marks |= after
        found_by_key += before.tolist()
    assert (found, mark) == (wanted, newest)
    assert (found_by_key, marks) == (wanted_by_key, by_key)


def test_one_row_a_day_ahead_among_many_is_the_only_one_refused():
    honest = [row * SECOND // 100 for row in range(100_000)]
    for where in (0, 1, 50_000, 99_999 - 1):
        assert replay([*honest[:where], honest[where] + DAY, *honest[where + 1 :]]) == [where]


def test_ten_honest_rows_after_a_row_a_day_ahead_all_pass():
    assert replay([0, DAY, *(row * SECOND for row in range(1, 11))]) == [1]


@pytest.mark.parametrize("gap_us", [3 * 3600 * SECOND, DAY, 3653 * DAY])
@pytest.mark.parametrize("rows", [2, 3, 5, 3000])
def test_a_real_gap_loses_nothing(gap_us, rows):
    before, after = rows // 2, rows - rows // 2
    event_us = [row * SECOND for row in range(before)] + [gap_us + row * SECOND for row in range(after)]
    assert replay(event_us) == []
    assert replay([row * 3600 * SECOND for row in range(rows)]) == []


def test_late_rows_right_after_honest_ones_condemn_nobody():
    event_us: list[int] = []
    for second in range(2000):
        event_us.append(second * SECOND)
        if second % 10 == 0:
            event_us += [second * SECOND - 1200 * SECOND] * 3
    assert replay(event_us) == []
    assert replay([DAY, *event_us[:3], *(DAY + row * SECOND for row in range(1, 40))]) == []


def test_a_monitor_a_day_ahead_is_refused_to_the_last_row_even_where_nothing_follows():
    keys = [f"p{row % 12}" for row in range(6000)] + ["p11"] * 4
    event_us = [row // 12 * SECOND + (DAY if key == "p11" else 0) for row, key in enumerate(keys)]
    assert replay(event_us, keys) == [row for row, key in enumerate(keys) if key == "p11"]


def test_without_a_witness_the_last_row_of_an_unsuspected_key_passes():
    assert replay([0, SECOND, DAY], ["a", "b", "c"]) == []


def test_a_suspect_waits_for_its_witnesses_and_rows_before_it_do_not():
    guard = FutureGuard(AHEAD, lookahead_rows=2)
    key = pl.Series(["a", "b", "c", "d"])
    judged = guard.judge_replay(key, np.array([5, 6, DAY, 7]), 4, last=False)
    assert (judged.decided, judged.future.tolist()) == (2, [])


def test_the_guard_forgets_the_key_refused_longest_ago():
    names = [f"k{number}" for number in [*range(4999), 950]]
    key = pl.Series([names[row // 3] if row % 3 == 0 else "honest" for row in range(15_000)])
    guard = FutureGuard(AHEAD, lookahead_rows=20)
    judged = guard.judge_replay(key, np.array([DAY, 0, 0] * 5000), 0, last=True)
    assert judged.future.tolist() == list(range(0, 15_000, 3))
    assert list(guard.refused()) == [*names[903:950], *names[951:]]


def test_exactly_at_the_limit_a_row_is_neither_a_suspect_nor_behind_one():
    assert replay([0, AHEAD, 0, 0]) == []
    assert replay([0, AHEAD + 1, 0, 0]) == [1]
    assert replay([0, 2 * AHEAD, AHEAD, AHEAD]) == []
    assert replay([0, 2 * AHEAD, AHEAD - 1, AHEAD - 1]) == [1]


def test_live_the_clock_of_the_machine_decides():
    judged = FutureGuard(AHEAD, 1000).judge_live(np.array([0, AHEAD, AHEAD + 1500]), now_us=0)
    assert judged.future.tolist() == [2]
    assert judged.details == ["dated 300.002 s ahead of this machine's clock: check the sender's clock"]


def test_the_joint_mark_is_the_smallest_and_an_unheard_partition_holds_it():
    marks = JointMark(["a", "b"], idle_timeout_us=30)
    marks.update("a", 100, None)
    assert marks.joint(None) == NO_MARK
    marks.update("b", 70, None)
    assert marks.joint(None) == 70
    marks.update("b", 60, None)
    assert marks.joint(None) == 70


def test_a_partition_that_appears_later_holds_the_mark_but_never_turns_it_back():
    marks = JointMark(["a"], idle_timeout_us=30)
    marks.update("a", 100, None)
    assert marks.joint(None) == 100
    marks.add("b")
    marks.update("a", 200, None)
    assert marks.joint(None) == 100
    marks.update("b", 150, None)
    assert marks.joint(None) == 150


def test_an_idle_partition_holds_nobody_back_and_counts_again_when_it_speaks():
    marks = JointMark(["a", "b"], idle_timeout_us=30)
    marks.update("a", 100, now_us=0)
    assert marks.joint(now_us=0) == NO_MARK
    assert marks.joint(now_us=29) == NO_MARK
    marks.update("a", 120, now_us=29)
    assert marks.joint(now_us=30) == 120
    marks.update("b", 50, now_us=31)
    marks.update("a", 130, now_us=32)
    assert marks.joint(now_us=32) == 120


def test_when_all_are_idle_event_time_goes_on_at_the_clocks_pace():
    marks = JointMark(["a", "b", "never"], idle_timeout_us=30)
    marks.update("a", 100, now_us=1_000)
    marks.update("b", 120, now_us=1_010)
    marks.joint(now_us=900)
    assert marks.joint(now_us=1_039) == 120, "b is still awake"
    assert marks.joint(now_us=1_050) == 120 + 40
    marks.update("a", 130, now_us=1_051)
    assert marks.joint(now_us=1_051) == 120 + 40, "it never goes back"


def test_when_every_partition_has_ended_the_mark_is_the_end():
    marks = JointMark(["a", "b"], idle_timeout_us=30)
    assert marks.joint(None) == NO_MARK
    marks.update("a", 5, None)
    marks.finish("b")
    assert marks.joint(None) == 5
    marks.finish("a")
    assert marks.joint(None) == END


def test_the_joint_mark_survives_a_restart_and_down_time_is_not_silence():
    marks = JointMark(["a", "b"], idle_timeout_us=30)
    marks.update("a", 100, now_us=0)
    marks.update("b", 90, now_us=0)
    marks.finish("c")
    marks.joint(now_us=0)
    again = JointMark(["a", "b"], 30, json.loads(json.dumps(marks.snapshot())))
    assert again.snapshot() == marks.snapshot()
    again.update("a", 200, now_us=10_000)
    assert again.joint(now_us=10_000) == 90


def test_a_partition_without_rows_yet_leaves_the_mark_where_it_was():
    assert JointMark([], idle_timeout_us=30).joint(now_us=5) == NO_MARK
