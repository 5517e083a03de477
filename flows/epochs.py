"""Keeps the epochs of several workers together, so that none reads ahead of the others and has to wait.

Bytewax counts an epoch of a partition from when that worker's last one ended, and polls the next one only once all
workers are in it. A worker that falls behind once, for a slow batch or a busy core, stays behind. For as long, in every
epoch, the one ahead is not polled and tries again without a pause, at all of a core. Nothing brings them together: a
lead drifts by what polls come late, and stays once it is a whole epoch, in which the one ahead is polled once. So a
partition that had to wait ends its next epoch later, which it can only do by not being polled when that is over.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from flows.connectors.partitions import Partitions, SourcePartition

SLACK = 0.05
"""Part of an epoch that a worker may wait for the others before anything is done: a snapshot takes its time too."""
HOLD_MAX, HOLD_MAX_S = 0.25, 5.0
"""Part of an epoch, and time, that its end is put off by at most. A worker that is busy, not ahead, looks alike: this
bounds what that costs, and how long a run that is asked to end may take."""
EARLY_S = 0.005
"""A poll this close before the end of an epoch is put off too."""


class Lead:
    """How far one partition is ahead of the slowest worker, and until when it is to be left alone. Times: s."""

    def __init__(self, epoch_s: float) -> None:
        self._epoch_s = epoch_s
        self._ended_s: float | None = None
        self._asked_s = 0.0
        self._hold: tuple[float, float] | None = None

    def ended(self, at_s: float) -> None:
        """Its epoch ends."""
        self._ended_s, self._hold = at_s, None

    def polled(self, at_s: float) -> None:
        """It is asked for a batch."""
        ended_s, self._ended_s = self._ended_s, None
        if ended_s is None:
            return
        waited_s = at_s - max(ended_s, self._asked_s)
        if waited_s <= SLACK * self._epoch_s:
            return
        put_off_s = min(waited_s, HOLD_MAX * self._epoch_s, HOLD_MAX_S)
        over_s = ended_s + self._epoch_s
        if over_s - EARLY_S > at_s:
            self._hold = over_s - EARLY_S, over_s + put_off_s
        else:  # a whole epoch ahead: this one ends with this poll, and the next one is to last longer
            self._hold = at_s, at_s + self._epoch_s + put_off_s

    def awake(self, wanted_s: float) -> float:
        """When it is to be polled, if it asks for `wanted_s`."""
        if self._hold is not None and wanted_s >= self._hold[0]:
            wanted_s, self._hold = max(wanted_s, self._hold[1]), None
        self._asked_s = wanted_s
        return wanted_s


def keep_together(source: Partitions, epoch_s: float) -> None:
    """Keep the epochs of a live source's partitions with those of other workers; all workers have to."""
    source.build_part = partial(_built, source.build_part, epoch_s)  # type: ignore[method-assign]


def _built(build: Callable[..., SourcePartition], epoch_s: float, *args: Any) -> SourcePartition:
    part = build(*args)
    _watch(part, Lead(epoch_s))
    return part


def _watch(part: SourcePartition, lead: Lead) -> None:
    part.next_batch = partial(_after, lead.polled, part.next_batch)  # type: ignore[method-assign]
    part.snapshot = partial(_after, lead.ended, part.snapshot)  # type: ignore[method-assign]
    part.next_awake = partial(_awake, lead, part.next_awake)  # type: ignore[method-assign]


def _after(seen: Callable[[float], None], then: Callable[[], Any]) -> Any:
    seen(time.monotonic())
    return then()


def _awake(lead: Lead, wanted: Callable[[], datetime | None]) -> datetime | None:
    at, now, now_s = wanted(), datetime.now(UTC), time.monotonic()
    wanted_s = now_s if at is None else now_s + (at - now).total_seconds()
    awake_s = lead.awake(wanted_s)
    return at if awake_s == wanted_s else now + timedelta(seconds=awake_s - now_s)
