"""What travels between steps. Immutable; a message never changes after the step that made it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

from schemas.decisions import Sealed


class Timing(NamedTuple):
    """When its source was asked, began to judge what came, and was done (monotonic, ns)."""

    polled_ns: int
    judged_ns: int
    done_ns: int


class Linked(NamedTuple):
    """The sampled messages among the rows of one window, in order of arrival: their W3C traceparents, and when the
    first one came (monotonic, ns)."""

    traceparents: tuple[str, ...]
    arrived_ns: int


LinkedWindows = Mapping[str, Mapping[tuple[int, int], Linked]]
"""Key, then start_us and end_us of a window -> its sampled messages."""


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """What one partition had to say at once.

    rows: accepted rows (`key`, `event_us`, `offset`, `mark_us`, the stream's fields); may be empty.
    rejects: columns offset, reason, detail, raw.
    mark_us: the partition's watermark after these rows.
    now_us: arrival clock, or None over a bounded source, where time is only what the rows say.
    finished: the partition will say no more.
    received_ns: monotonic clock at arrival, for latency only.
    beside: offset of a rejected row -> what came with it (`flows.connectors.headers`), where something did.
    links: W3C traceparents of sampled messages among the rows, a few at most. link_offsets: of each, its first row.
    timing: of how it came about, for traces only.
    """

    partition: str
    stream: str
    rows: pl.DataFrame
    rejects: pl.DataFrame
    mark_us: int
    now_us: int | None
    finished: bool
    received_ns: int
    beside: Mapping[int, bytes] = field(default_factory=dict)
    links: tuple[str, ...] = ()
    link_offsets: tuple[int, ...] = ()
    timing: Timing | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """Windows of one shard and one end that will close next, as they stand: what can be worked out before they do.

    A later draft replaces it, and so do windows that close with a frame.
    """

    frame: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Windowed:
    """Closed windows of one shard, a row each: aggregates, context, carried values, baselines.

    frame: None where they are exactly those of the draft before. linked: of those windows that have sampled messages.
    """

    frame: pl.DataFrame | None
    now_us: int | None
    received_ns: int
    linked: LinkedWindows = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Rows that were refused, on their way to where they are kept. beside: as of their batch."""

    source: str
    stream: str
    rejects: pl.DataFrame
    beside: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decided:
    """Sealed records, each with its wall-clock latency in microseconds (or None), and alert edges.

    traces: of those records that are traced, the hash and the W3C traceparent.
    """

    records: Sequence[tuple[Sealed, int | None]]
    alerts: Sequence[dict[str, Any]]
    traces: Sequence[tuple[str, str]] = ()
