"""What the steps tell whoever traces a run, and how sampled messages find their windows.

Nothing here enters a decision. Where a run is not traced, there is no tracer and no batch has links: nothing is called.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl

from operators.adapters.messages import Linked, LinkedWindows, SourceBatch
from schemas.decisions import Sealed
from schemas.reading import Reading
from schemas.windows import WindowSpec

LINKS_MAX = 16
"""Sampled messages that one batch, and one decision, is linked to."""
FOLLOWED_MAX = 4
"""Those of one batch that are followed to their decisions. A batch of thousands has many: each makes three spans, and
what tracing costs has to stay a small part of what the batch does."""
OPEN_MAX = 4096
"""Sampled messages in the open windows of a shard; past it the oldest are no longer followed."""


class Read(NamedTuple):
    """A text that was read for a decision, and from when to when (monotonic, ns)."""

    text: str
    reading: Reading
    began_ns: int
    ended_ns: int


class Trace(Protocol):
    """One decision that is traced, over all its revisions."""

    def decided(self, record: Sealed, began_ns: int, ended_ns: int, read: Read | None) -> str:
        """One revision has left the gate (monotonic, ns); gives its W3C traceparent."""


class Tracer(Protocol):
    """Decides which decisions are traced."""

    def decision(self, row: Mapping[str, Any], linked: Linked | None, arrived_ns: int, closed_ns: int) -> Trace | None:
        """The trace of a window that has closed, or None where it is not traced.

        linked: its sampled messages. arrived_ns: when the rows came that closed it; closed_ns: now (monotonic).
        """


class Way(NamedTuple):
    """A traced record's way through the gate.

    began_ns: when its window had closed, or where a text is read for it, when that began. read: that reading.
    """

    trace: Trace
    began_ns: int
    read: Read | None = None


class _Open(NamedTuple):
    key: str
    event_us: int
    traceparent: str
    arrived_ns: int


class OpenLinks:
    """The sampled messages among the rows of open windows. No state: a run that resumes follows those that come."""

    def __init__(self, spec: WindowSpec) -> None:
        # How far before the newest end a row's last window has closed; not known where windows follow their rows.
        self._over_us = {"tumbling": 0, "sliding": spec.length_us}.get(spec.kind)
        self._open: deque[_Open] = deque(maxlen=OPEN_MAX)

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, batch: SourceBatch) -> None:
        """Follow the first sampled messages among these rows, whose offsets rise."""
        wanted, rows = np.array(batch.link_offsets[:FOLLOWED_MAX], np.int64), batch.rows
        offsets = rows["offset"].to_numpy()
        places = np.searchsorted(offsets, wanted)
        here = offsets[np.minimum(places, len(offsets) - 1)] == wanted  # not one that was refused, or of another shard
        keys, event_us = rows["key"], rows["event_us"]  # so few are quicker one by one
        for at, traceparent, mine in zip(places.tolist(), batch.links, here.tolist(), strict=False):
            if mine:
                self._open.append(_Open(keys[at], event_us[at], traceparent, batch.received_ns))

    def closed(self, windows: pl.DataFrame) -> LinkedWindows:
        """Those of these windows that have closed (columns key, start_us, end_us)."""
        keys = list({link.key for link in self._open})
        key, start_us, end_us = windows["key"], windows["start_us"].to_numpy(), windows["end_us"].to_numpy()
        spans: dict[str, list[tuple[int, int]]] = {}
        for at in key.is_in(keys).arg_true().to_list():
            spans.setdefault(key[at], []).append((int(start_us[at]), int(end_us[at])))
        found: dict[str, dict[tuple[int, int], Linked]] = {}
        still: list[_Open] = []
        newest_us = int(end_us.max(initial=0))
        for link in self._open:
            holds = [span for span in spans.get(link.key, ()) if span[0] <= link.event_us < span[1]]
            for span in holds:
                of_key = found.setdefault(link.key, {})
                known = of_key.get(span, Linked((), link.arrived_ns))
                if len(known.traceparents) < LINKS_MAX:
                    of_key[span] = Linked((*known.traceparents, link.traceparent), known.arrived_ns)
            if not holds if self._over_us is None else link.event_us >= newest_us - self._over_us:
                still.append(link)
        self._open = deque(still, OPEN_MAX)
        return found
