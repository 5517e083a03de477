"""Rows of one shard in, closed windows out: event time, as-of context, last known values, baselines."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import bytewax.operators as op
import numpy as np
import orjson
import polars as pl

from operators.adapters.messages import DeadLetters, SourceBatch, Windowed
from operators.adapters.tally import Tally
from operators.columnar.checks import REJECTS
from operators.columnar.context import Baseline, Carry, Context
from operators.columnar.watermark import END, JointMark
from operators.columnar.windows import Windows
from operators.domain import Domain
from schemas.errors import TidegateError

State = tuple[str, dict[str, Any]]
SNAPSHOT = "window/1"


@dataclass(frozen=True, slots=True)
class WindowStep:
    """What the step needs besides its state. partitions: (name, stream) of every source partition, in a fixed order."""

    domain: Domain
    partitions: Sequence[tuple[str, str]]
    tally: Tally
    idle_timeout_us: int
    open_rows_max: int


class WindowLogic(op.StatefulBatchLogic[SourceBatch, Windowed | DeadLetters, State]):
    """One shard. State: open rows, context, last known values, baselines, and the watermark of every partition."""

    def __init__(self, spec: WindowStep, state: State | None) -> None:
        version, parts = state or (SNAPSHOT, {})
        if version != SNAPSHOT:
            raise ValueError(f"the recovery store holds a {version} snapshot, this version reads {SNAPSHOT}")
        domain = spec.domain
        self.spec = spec
        self.names = [name for name, _ in spec.partitions]
        self.windows = Windows(domain.window, domain.aggregates, parts.get("windows"))
        self.contexts = {
            stream.name: Context(stream, parts.get("contexts", {}).get(stream.name))
            for stream in domain.streams
            if stream.role == "context"
        }
        self.carry = Carry(domain.carry, parts.get("carry"))
        self.baseline = Baseline(domain.baselines, domain.baseline_us, parts.get("baseline"))
        self.joint = JointMark(self.names, spec.idle_timeout_us, parts.get("joint"))

    def on_batch(self, values: list[SourceBatch]) -> tuple[Iterable[Windowed | DeadLetters], bool]:
        out: list[Windowed | DeadLetters] = []
        for batch in values:
            out += self._take(batch)
        last = values[-1]
        mark_us = self.joint.joint(last.now_us)
        next_us = self.windows.next_end_us
        if next_us is not None and (mark_us >= next_us or mark_us == END):
            out += self._close(mark_us, last)
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
            return []
        refused = self.windows.add(rows)
        if refused is None or not refused.height:
            return []
        self.spec.tally.late_after_all(refused.height)
        return [DeadLetters(batch.partition, batch.stream, _late(refused, batch.rows))]

    def _close(self, mark_us: int, last: SourceBatch) -> list[Windowed]:
        frame = self.windows.close(None if mark_us == END else mark_us)
        for context in self.contexts.values():
            frame = context.join(frame)
            context.forget(mark_us)
        if self.spec.domain.baselines:
            frame = self.baseline.join(frame)
            self.baseline.forget(mark_us)
        if self.spec.domain.carry:
            frame = self.carry.fill(frame)
        self.spec.tally.closed(frame.height)
        if not frame.height:
            return []
        return [Windowed(frame, last.now_us, last.received_ns)]


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
