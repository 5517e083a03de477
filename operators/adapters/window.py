"""Rows of one shard in, closed windows out: event time, as-of context, last known values, baselines."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import bytewax.operators as op
import numpy as np
import orjson
import polars as pl

from operators.adapters.messages import DeadLetters, Draft, SourceBatch, Windowed
from operators.adapters.tally import Tally
from operators.adapters.trace import OpenLinks
from operators.columnar.checks import REJECTS
from operators.columnar.context import CONTEXT_STATE, Baseline, Carry, Context
from operators.columnar.snapshots import renumber
from operators.columnar.watermark import END, NO_MARK, JointMark
from operators.columnar.windows import STATE as WINDOWS_STATE
from operators.columnar.windows import Windows
from operators.domain import Domain
from schemas.errors import TidegateError, UsageError

State = tuple[str, dict[str, Any]]
SNAPSHOT = "window/1"
EARLY = 100
"""Drafts begin sooner by so small a part: with the last rows of a window, for a recording may end with them."""


@dataclass(frozen=True, slots=True)
class WindowStep:
    """What the step needs besides its state. partitions: (name, stream) of every source partition, in a fixed order.

    draft_ahead_us: how far before it closes (in the mark's time) a window is worked out, so that the close itself is
    short; 0 for never.
    """

    domain: Domain
    partitions: Sequence[tuple[str, str]]
    tally: Tally
    idle_timeout_us: int
    open_rows_max: int
    draft_ahead_us: int = 0


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A draft that was sent on. closed: the windows as aggregated; known: what is carried on from them."""

    end_us: int
    closed: pl.DataFrame
    known: pl.DataFrame | None


class WindowLogic(op.StatefulBatchLogic[SourceBatch, Windowed | Draft | DeadLetters, State]):
    """One shard. State: open rows, context, last known values, baselines, and the watermark of every partition.

    A draft is no state: a restored step works its windows out when they close, to the same result.
    """

    def __init__(self, spec: WindowStep, state: State | None) -> None:
        version, parts = state or (SNAPSHOT, {})
        if version != SNAPSHOT:
            raise ValueError(f"the recovery store holds a {version} snapshot, this version reads {SNAPSHOT}")
        domain = spec.domain
        self.spec = spec
        self.names = [name for name, _ in spec.partitions]
        parts = _as_numbered(parts, self.names)
        self.windows = Windows(domain.window, domain.aggregates, parts.get("windows"))
        self.contexts = {
            stream.name: Context(stream, parts.get("contexts", {}).get(stream.name))
            for stream in domain.streams
            if stream.role == "context"
        }
        self.carry = Carry(domain.carry, parts.get("carry"))
        self.baseline = Baseline(domain.baselines, domain.baseline_us, parts.get("baseline"))
        self.joint = JointMark(self.names, spec.idle_timeout_us, parts.get("joint"))
        self.links = OpenLinks(domain.window)
        self.ahead: _Ahead | None = None
        self.draft_from_us = NO_MARK

    def on_batch(self, values: list[SourceBatch]) -> tuple[Iterable[Windowed | Draft | DeadLetters], bool]:
        out: list[Windowed | Draft | DeadLetters] = []
        for batch in values:
            out += self._take(batch)
        last = values[-1]
        mark_us = self.joint.joint(last.now_us)
        next_us = self.windows.next_end_us
        if next_us is not None and (mark_us >= next_us or mark_us == END):
            out += self._close(mark_us, last)
        elif next_us is not None and mark_us >= self._draft_from(next_us):
            out += self._draft(mark_us, next_us)
        if self.windows.rows_open > self.spec.open_rows_max:
            raise TidegateError(
                f"a shard holds {self.windows.rows_open} rows in open windows, more than open_rows_max = "
                f"{self.spec.open_rows_max}: shorten the windows, or raise the setting if there is memory for it"
            )
        return out, self.RETAIN

    def snapshot(self) -> State:
        return SNAPSHOT, {
            "contexts": {name: context.snapshot() for name, context in self.contexts.items()},
            "windows": self.windows.snapshot(),
            "carry": self.carry.snapshot(),
            "baseline": self.baseline.snapshot(),
            "joint": self.joint.snapshot(),
            "partitions": self.names,
        }

    def _take(self, batch: SourceBatch) -> list[DeadLetters]:
        self.joint.update(batch.partition, batch.mark_us, batch.now_us if batch.rows.height else None)
        if batch.finished:
            self.joint.finish(batch.partition)
        if not batch.rows.height:
            return []
        ordinal = np.full(batch.rows.height, self.names.index(batch.partition), np.uint16)
        rows = batch.rows.hstack([pl.Series("partition", ordinal)])
        if batch.stream in self.contexts:
            self.contexts[batch.stream].add(rows)
            if self.ahead is not None and rows["event_us"].to_numpy().min() < self.ahead.end_us:
                self.ahead = None  # it may count before their end
            return []
        if batch.links:
            self.links.add(batch)
        refused = self.windows.add(rows)
        if refused is None or not refused.height:
            return []
        self.spec.tally.late_after_all(refused.height)
        return [DeadLetters(batch.partition, batch.stream, _late(refused, batch.rows))]

    def _draft_from(self, end_us: int) -> int:
        return max(end_us - self.spec.draft_ahead_us * (EARLY + 1) // EARLY, self.draft_from_us)

    def _draft(self, mark_us: int, end_us: int) -> list[Draft]:
        if self.ahead is not None and self.windows.drafted_us == end_us:
            return []
        closed = self.windows.draft()
        if closed is None:
            return []
        # If a row comes for these windows they are drafted again: their last rows at once; then at half the time that
        # is left, at half of that, and so on, so that stragglers cost a few drafts, not one for each of their batches.
        left_us = end_us - mark_us
        self.draft_from_us = mark_us if left_us > self.spec.draft_ahead_us else mark_us + (left_us + 1) // 2
        self._forget(mark_us)
        frame = self._in_context(closed)
        if self.spec.domain.baselines:
            frame = self.baseline.peek(frame)
        known = None
        if self.spec.domain.carry:
            frame, known = self.carry.peek(frame)
        self.ahead = _Ahead(end_us, closed, known)
        return [Draft(frame)]

    def _close(self, mark_us: int, last: SourceBatch) -> list[Windowed]:
        frame: pl.DataFrame | None
        ahead, self.ahead = self.ahead, None
        closed = self.windows.close(None if mark_us == END else mark_us)
        self.spec.tally.closed(closed.height)
        if ahead is not None and closed is ahead.closed:
            frame = None
            if self.spec.domain.baselines:
                self.baseline.keep(closed)
            if ahead.known is not None:
                self.carry.keep(ahead.known)
        else:
            frame = self._in_context(closed)
            if self.spec.domain.baselines:
                frame = self.baseline.join(frame)
            if self.spec.domain.carry:
                frame = self.carry.fill(frame)
            self._forget(mark_us)
        if not closed.height:
            return []
        return [Windowed(frame, last.now_us, last.received_ns, self.links.closed(closed) if self.links else {})]

    def _in_context(self, frame: pl.DataFrame) -> pl.DataFrame:
        for context in self.contexts.values():
            frame = context.join(frame)
        return frame

    def _forget(self, mark_us: int) -> None:
        for context in self.contexts.values():
            context.forget(mark_us)
        if self.spec.domain.baselines:
            self.baseline.forget(mark_us)


def _as_numbered(parts: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """State with its rows' partitions numbered as they are now: a source may have got new ones among the known.

    Errors: UsageError where one is gone.
    """
    known = parts.get("partitions", names)
    if known == names:
        return parts
    gone = sorted(set(known) - set(names))
    if gone:
        raise UsageError(
            f"the recovery folder knows the partition {', '.join(gone)}, which the source does not have any more: "
            "start with a new --recovery, decisions go on in the same chains"
        )
    numbers = [names.index(name) for name in known]
    contexts = {name: renumber(CONTEXT_STATE, state, "partition", numbers) for name, state in parts["contexts"].items()}
    return parts | {"windows": renumber(WINDOWS_STATE, parts["windows"], "partition", numbers), "contexts": contexts}


def _late(refused: pl.DataFrame, batch: pl.DataFrame) -> pl.DataFrame:
    """Rows whose windows an idle timeout had closed; as JSON again, for their bytes stayed in the source."""
    raw = [
        orjson.dumps({name: value for name, value in row.items() if value is not None})
        for row in batch.filter(pl.col("offset").is_in(refused["offset"].implode()))
        .drop("mark_us")
        .iter_rows(named=True)
    ]
    detail = "its partition had been silent for longer than the idle timeout, and its window was closed meanwhile"
    return pl.DataFrame(
        {"offset": refused["offset"], "reason": ["late"] * len(raw), "detail": [detail] * len(raw), "raw": raw},
        schema=REJECTS,
    )
