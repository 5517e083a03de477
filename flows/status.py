"""How a run stands: what its sources, partitions and outlets last said. `/readyz`, `/metrics` and a table read it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from operators.columnar.watermark import END, NO_MARK


@dataclass(frozen=True, slots=True)
class SourceState:
    """Whether a source can be reached; if not, why, and since when (s, monotonic)."""

    connected: bool
    why: str
    since_s: float


@dataclass(frozen=True, slots=True)
class MarkState:
    """A partition's own watermark (us), and when it last moved (s, monotonic)."""

    mark_us: int
    moved_s: float


@dataclass(frozen=True, slots=True)
class OutletState:
    """How many items an outlet has still to send, and since the start of the run has sent, and has failed to send."""

    behind: int
    sent: int
    failed: int
    why: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How the run stood at one moment. phase: `starting`, `running`, `draining` or `ended`.

    now_s: by the wall clock, for lags; at_s: monotonic, so that a clock that is set makes nothing older.
    """

    phase: str
    live: bool
    now_s: float
    at_s: float
    sources: dict[str, SourceState] = field(default_factory=dict)
    marks: dict[str, MarkState] = field(default_factory=dict)
    outlets: dict[str, OutletState] = field(default_factory=dict)

    def lag_s(self, partition: str) -> float | None:
        """How far the partition's watermark is behind the clock; None before its first row and after its end."""
        mark_us = self.marks[partition].mark_us
        return None if mark_us <= NO_MARK or mark_us >= END else self.now_s - mark_us / 1e6


class Status:
    """Written by the threads of one process, read by others. Names are of sources, partitions and outlets, as the
    command line and the topics have them; nothing here is about a patient.

    now_s: the wall clock, at_s: a monotonic one. live: rows come as they happen, so that a lag says something.
    """

    def __init__(self, now_s: Callable[[], float] = time.time, at_s: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._now_s, self._at_s = now_s, at_s
        self._live = False
        self._phase = "starting"
        self._sources: dict[str, SourceState] = {}
        self._marks: dict[str, MarkState] = {}
        self._outlets: dict[str, OutletState] = {}

    def phase(self, phase: str, *, live: bool | None = None) -> None:
        """The run is now `starting`, `running`, `draining` or `ended`. live: as known now, None for as it was."""
        with self._lock:
            self._phase = phase
            self._live = self._live if live is None else live

    def source(self, name: str, connected: bool, why: str = "") -> None:
        """A source can be reached, or not, and why not."""
        with self._lock:
            known = self._sources.get(name)
            since_s = known.since_s if known is not None and known.connected == connected else self._at_s()
            self._sources[name] = SourceState(connected, why, since_s)

    def watermark(self, partition: str, mark_us: int) -> None:
        """A partition's own watermark, END when it has ended; one that does not move may be said again."""
        with self._lock:
            known = self._marks.get(partition)
            if known is None or mark_us > known.mark_us:
                self._marks[partition] = MarkState(mark_us, self._at_s())

    def outlet(self, name: str, behind: int, sent: int, failed: int, why: str = "") -> None:
        """Items an outlet has still to send; sent and failed since the start of the run; why it waits, if it does."""
        with self._lock:
            self._outlets[name] = OutletState(behind, sent, failed, why)

    def forget(self) -> None:
        """The dataflow starts again in this process: its sources and partitions are said anew."""
        with self._lock:
            self._sources, self._marks = {}, {}

    def snapshot(self) -> Snapshot:
        """How the run stands now; a copy."""
        with self._lock:
            return Snapshot(
                self._phase,
                self._live,
                self._now_s(),
                self._at_s(),
                dict(self._sources),
                dict(self._marks),
                dict(self._outlets),
            )


_NOT_RUNNING = {"starting": "starting", "draining": "draining, it is about to end", "ended": "at its end"}


def not_ready(seen: Snapshot, *, lag_max_s: float, idle_s: float, behind_max: int) -> list[str]:
    """Why the run is not ready, a sentence each; empty when it is.

    Ready: it runs, every source can be reached, no outlet is more than `behind_max` items behind, and, live, event
    time is less than `lag_max_s` behind the clock. A partition that has not moved for `idle_s` holds no window back,
    so that it does not count there.
    """
    why = []
    if seen.phase != "running":
        why.append(f"the flow is {_NOT_RUNNING[seen.phase]}")
    for name, source in sorted(seen.sources.items()):
        if not source.connected:
            since = f"for {max(seen.at_s - source.since_s, 0):.0f} s"
            why.append(f"the source {name} cannot be reached {since}" + (f": {source.why}" if source.why else ""))
    for name, outlet in sorted(seen.outlets.items()):
        if outlet.behind > behind_max:
            limit = f"{outlet.behind} items behind, more than outlet_behind_max = {behind_max}"
            why.append(f"the outlet {name} is {limit}" + (f": {outlet.why}" if outlet.why else ""))
    if seen.live:
        why += _lagging(seen, lag_max_s, idle_s)
    return why


def _lagging(seen: Snapshot, lag_max_s: float, idle_s: float) -> list[str]:
    awake = [name for name, mark in seen.marks.items() if mark.mark_us < END and seen.at_s - mark.moved_s < idle_s]
    if not awake:
        return []
    last = min(awake, key=lambda name: seen.marks[name].mark_us)
    lag_s = seen.lag_s(last)
    if lag_s is None:
        return [f"nothing has come from {last} yet"]
    if lag_s < lag_max_s:
        return []
    return [f"event time is {lag_s:.0f} s behind the clock, at {last}: ready_lag_max_s is {lag_max_s:g}"]
