"""Event time: a partition's own watermark row by row, the guard against clocks that run ahead, and the joint mark.

All times are int64 microseconds since epoch, UTC. No clock is read here: where one is needed, `now_us` is an argument.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

NO_MARK = -(2**62)  # before every event time, with room to subtract a horizon
END = 2**62  # after every event time: nothing more will come
_REFUSED_KEYS_MAX = 4096
STEPS_MIN = 10  # rows that make a step: fewer say nothing of what is usual
_STATE_VERSION = 1


def running_mark(
    event_us: NDArray[np.int64], wait_us: int, start_mark_us: int = NO_MARK
) -> tuple[NDArray[np.int64], int]:
    """Watermark just before each row, (n,) -> (n,), and the one after the last: newest event time so far - `wait_us`.

    Bounded out-of-orderness; the worked example of https://docs.risingwave.com/processing/watermarks holds.
    """
    marks = np.empty(len(event_us) + 1, np.int64)
    marks[0] = start_mark_us
    np.subtract(event_us, wait_us, out=marks[1:])
    np.maximum.accumulate(marks, out=marks)
    return marks[:-1], int(marks[-1])


def running_mark_by_key(
    key: pl.Series, event_us: NDArray[np.int64], wait_us: int, start_marks_us: Mapping[str, int]
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """`running_mark` with a clock per key: mark before each row (n,), and the mark after the last row of each key seen.

    For archives that hold record after record, each on its own time line.
    """
    marks = pl.DataFrame({"key": key, "mark": event_us - wait_us})
    first = pl.DataFrame(
        {"key": list(start_marks_us), "start": list(start_marks_us.values())}, {"key": pl.String, "start": pl.Int64}
    )
    marks = marks.join(first, on="key", how="left", maintain_order="left").with_columns(
        pl.col("start").fill_null(NO_MARK), pl.col("mark").cum_max().over("key").alias("newest")
    )
    before = pl.max_horizontal("start", pl.col("newest").shift(1).over("key"))
    after = marks.group_by("key").agg(pl.max_horizontal(pl.col("start").first(), pl.col("newest").last()).alias("mark"))
    return marks.select(before).to_series().to_numpy(), dict(after.iter_rows())


@dataclass(frozen=True, slots=True)
class Judged:
    """What the guard says of n rows: the first `decided` are judged, those at the positions `future` are refused."""

    decided: int
    future: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    details: Sequence[str] = ()


class FutureGuard:
    """Refuses rows whose clock runs ahead, so that they never move the watermark.

    Live, the machine's clock is the measure. In a replay there is none, and the rows that follow are the witnesses: a
    row further than `max_future_us` ahead of the newest accepted one is a suspect; of the `lookahead_rows` rows after
    it, those older than it by more than `max_future_us` say that its clock was wrong, the others that time really
    jumped (a night, an outage). It is refused unless the latter are more. Near the end of the input witnesses are few:
    there, a row whose key was last refused within `max_future_us` of it does not testify, and a last row is refused if
    it, or its key, is out of step with what came before.
    """

    def __init__(self, max_future_us: int, lookahead_rows: int, refused: Mapping[str, int] | None = None) -> None:
        self._max_future_us = max_future_us
        self._lookahead_rows = lookahead_rows
        self._older = f"more than {max_future_us / 1e6:g} s older"
        self._refused_us = dict(refused or {})  # key -> event time of its last refused row, oldest refusal first

    def refused(self) -> dict[str, int]:
        """State: what the constructor takes as `refused`."""
        return dict(self._refused_us)

    def judge_live(self, event_us: NDArray[np.int64], now_us: int) -> Judged:
        """Refuse what lies more than `max_future_us` ahead of `now_us`; every row is decided."""
        future = np.flatnonzero(event_us > now_us + self._max_future_us)
        details = [
            f"dated {(at - now_us) / 1e6:.3f} s ahead of this machine's clock: check the sender's clock"
            for at in event_us[future].tolist()
        ]
        return Judged(len(event_us), future, details)

    def judge_replay(
        self,
        key: pl.Series,
        event_us: NDArray[np.int64],
        newest_us: int,
        last: bool,
        accepted: int = 0,
        first_us: int = NO_MARK,
    ) -> Judged:
        """Judge by the rows that follow; without `last`, stop at the first suspect with too few of them.

        newest_us: newest accepted event time before these rows, NO_MARK if none; accepted, first_us: how many rows were
        accepted before them, and the first one's event time.
        Costs one cumulative maximum without a suspect; with one, a plain loop from there on and a count per suspect.
        """
        limits_us, _ = running_mark(event_us, -self._max_future_us, newest_us + self._max_future_us)
        suspects = np.flatnonzero(event_us > limits_us)
        if not len(suspects):
            return Judged(len(event_us))
        start, count = int(suspects[0]), len(event_us)
        limit_us, decided, noted = int(limits_us[start]), count, 0
        future: list[int] = []
        details: list[str] = []
        for row, at_us in enumerate(event_us[start:].tolist(), start):
            if at_us > limit_us:
                short = count - 1 - row < self._lookahead_rows
                if short and not last:
                    decided = row
                    break
                if short:
                    self._remember(key, event_us, future[noted:])
                    noted = len(future)
                behind, ahead, loses_tie = self._witnesses(key, event_us, row, at_us, short)
                before = accepted + row - len(future)
                odd = behind > 0 or loses_tie or self._out_of_step(at_us, limit_us, before, first_us)
                if behind > ahead or (behind == ahead and odd):
                    future.append(row)
                    details.append(self._detail(at_us, limit_us, behind, ahead))
                    continue
            if at_us + self._max_future_us > limit_us:
                limit_us = at_us + self._max_future_us
        self._remember(key, event_us, future[noted:])
        return Judged(decided, np.array(future, np.int64), details)

    def _witnesses(
        self, key: pl.Series, event_us: NDArray[np.int64], row: int, at_us: int, short: bool
    ) -> tuple[int, int, bool]:
        """How many of the rows after `row` are behind it and how many are not, and whether a tie refuses it."""
        oldest_us = at_us - self._max_future_us
        after_us = event_us[row + 1 : row + 1 + self._lookahead_rows]
        behind = int(np.count_nonzero(after_us < oldest_us))
        ahead = len(after_us) - behind
        if not short or not self._refused_us:
            return behind, ahead, False
        testify = np.flatnonzero(after_us >= oldest_us) + row + 1
        doubted = sum(map(self._doubted, key.gather(testify).to_list(), event_us[testify].tolist()))
        return behind, ahead - doubted, self._doubted(key[row], at_us)

    def _out_of_step(self, at_us: int, limit_us: int, accepted: int, first_us: int) -> bool:
        """Whether a last row, which nothing follows, lies further ahead than a hundred steps of those before it."""
        newest_us = limit_us - self._max_future_us
        return accepted >= STEPS_MIN and (at_us - newest_us) * accepted > 100 * max(newest_us - first_us, 1)

    def _doubted(self, key: str, at_us: int) -> bool:
        refused_us = self._refused_us.get(key)
        return refused_us is not None and abs(at_us - refused_us) <= self._max_future_us

    def _remember(self, key: pl.Series, event_us: NDArray[np.int64], future: list[int]) -> None:
        """Note the last refused row of each key; the key refused longest ago is forgotten above the limit."""
        for name, at_us in zip(key.gather(future).to_list(), event_us[future].tolist(), strict=True):
            self._refused_us.pop(name, None)
            self._refused_us[name] = at_us
            if len(self._refused_us) > _REFUSED_KEYS_MAX:
                del self._refused_us[next(iter(self._refused_us))]

    def _detail(self, at_us: int, limit_us: int, behind: int, ahead: int) -> str:
        newest_us = limit_us - self._max_future_us
        lead = (
            f"dated {(at_us - newest_us) / 1e6:.3f} s ahead of all before it" if newest_us > NO_MARK else "a first row"
        )
        return (
            f"{lead}; {behind} of the {behind + ahead} rows asked after it are {self._older}: check the sender's clock"
        )


class JointMark:
    """The watermark of several partitions: the minimum over those neither finished nor idle; it never goes back.

    A partition never heard of holds it at NO_MARK. Idle exists only where a clock is given: a partition is idle when
    it was not heard of for `idle_timeout_us`, counted from when it was first asked about. A finished one counts no
    more, whatever is said of it later; when all are finished the mark is END. When all are
    idle, event time goes on at the clock's pace from where the furthest stood: the last windows of a stream that goes
    quiet close too.
    """

    def __init__(self, partitions: Sequence[str], idle_timeout_us: int, state: Mapping[str, Any] | None = None) -> None:
        self._idle_timeout_us = idle_timeout_us
        self._marks_us = dict.fromkeys(partitions, NO_MARK)
        self._finished: set[str] = set()
        self._joint_us = NO_MARK
        # When a partition was last heard is not state: time spent while the program was down is not silence.
        self._heard_us: dict[str, int] = {}
        if state is not None:
            assert state["version"] == _STATE_VERSION, state["version"]
            self._marks_us |= state["marks_us"]
            self._finished |= set(state["finished"])
            self._joint_us = state["joint_us"]

    def add(self, partition: str) -> None:
        """A partition appeared; from now on it is waited for."""
        self._marks_us.setdefault(partition, NO_MARK)

    def update(self, partition: str, mark_us: int, now_us: int | None) -> None:
        """Rows came from a partition, and this is its own watermark; an unknown partition is added."""
        self._marks_us[partition] = max(mark_us, self._marks_us.get(partition, NO_MARK))
        if now_us is not None:
            self._heard_us[partition] = now_us

    def finish(self, partition: str) -> None:
        """A bounded partition has ended."""
        self.add(partition)
        self._finished.add(partition)

    def joint(self, now_us: int | None) -> int:
        """The mark up to which every partition has spoken."""
        open_ones = [name for name in self._marks_us if name not in self._finished]
        if self._marks_us and not open_ones:
            self._joint_us = END
        awake = [self._marks_us[name] for name in open_ones if now_us is None or not self._idle(name, now_us)]
        if awake:
            self._joint_us = max(self._joint_us, min(awake))
        elif now_us is not None:
            spoken = (name for name in open_ones if self._marks_us[name] > NO_MARK)
            on = [self._marks_us[name] + now_us - self._heard_us[name] for name in spoken]
            self._joint_us = max([self._joint_us, *on])
        return self._joint_us

    def _idle(self, partition: str, now_us: int) -> bool:
        return now_us - self._heard_us.setdefault(partition, now_us) >= self._idle_timeout_us

    def snapshot(self) -> dict[str, Any]:
        """State as plain JSON values; the constructor takes it back."""
        return {
            "version": _STATE_VERSION,
            "joint_us": self._joint_us,
            "marks_us": dict(self._marks_us),
            "finished": sorted(self._finished),
        }
