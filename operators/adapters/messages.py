"""What travels between steps. Immutable; a message never changes after the step that made it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from schemas.decisions import Sealed


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """What one partition had to say at once.

    rows: accepted rows (`key`, `event_us`, `offset`, `mark_us`, the stream's fields); may be empty.
    rejects: columns offset, reason, detail, raw.
    mark_us: the partition's watermark after these rows.
    now_us: arrival clock, or None over a bounded source, where time is only what the rows say.
    finished: the partition will say no more.
    received_ns: monotonic clock at arrival, for latency only.
    """

    partition: str
    stream: str
    rows: pl.DataFrame
    rejects: pl.DataFrame
    mark_us: int
    now_us: int | None
    finished: bool
    received_ns: int


@dataclass(frozen=True, slots=True)
class Draft:
    """Windows of one shard and one end that will close next, as they stand: what can be worked out before they do.

    A later draft replaces it, and so do windows that close with a frame.
    """

    frame: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Windowed:
    """Closed windows of one shard, a row each: aggregates, context, carried values, baselines.

    frame: None where they are exactly those of the draft before.
    """

    frame: pl.DataFrame | None
    now_us: int | None
    received_ns: int


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Rows that were refused, on their way to where they are kept."""

    source: str
    stream: str
    rejects: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Decided:
    """Sealed records, each with its wall-clock latency in microseconds (or None), and alert edges."""

    records: Sequence[tuple[Sealed, int | None]]
    alerts: Sequence[dict[str, Any]]
