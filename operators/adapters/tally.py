"""What one run counted. Shared by the worker threads of one process; never part of a decision."""

import threading
from array import array
from collections import Counter
from collections.abc import Mapping

import numpy as np

LATENCIES_MAX = 1_000_000


class Tally:
    """Rows by way out, windows, decisions by action, readings, latencies. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latency_us = array("q")
        self.rows: Counter[str] = Counter(used=0, late=0, rejected=0, duplicate=0)
        self.rejected: Counter[str] = Counter()
        self.windows = 0
        self.decisions: Counter[str] = Counter()
        self.abstained = 0
        self.cached = 0

    def admitted(self, used: int, duplicate: int, rejected: Mapping[str, int]) -> None:
        """Rows of one source batch by way out; `rejected` holds a count for each reason, `late` among them."""
        late = rejected.get("late", 0)
        with self._lock:
            self.rows.update(used=used, duplicate=duplicate, late=late, rejected=sum(rejected.values()) - late)
            self.rejected.update({reason: count for reason, count in rejected.items() if reason != "late"})

    def late_after_all(self, count: int) -> None:
        """Rows taken at first, whose windows an idle timeout had closed meanwhile."""
        with self._lock:
            self.rows.update(used=-count, late=count)

    def closed(self, windows: int) -> None:
        """Windows that closed."""
        with self._lock:
            self.windows += windows

    def decided(self, action: str, replaces: str | None, latency_us: int | None, *, abstained: bool) -> None:
        """A decision, or a revision that `replaces` the action of an earlier one."""
        with self._lock:
            self.decisions[action] += 1
            self.abstained += abstained
            if replaces is not None:
                self.decisions[replaces] -= 1
            if latency_us is not None and len(self._latency_us) < LATENCIES_MAX:
                self._latency_us.append(latency_us)

    def reused(self) -> None:
        """A text whose reading was already at hand."""
        with self._lock:
            self.cached += 1

    def latency_ms(self, quantile: float) -> float | None:
        """Window close to rule decision, or None where nothing was decided."""
        with self._lock:
            if not self._latency_us:
                return None
            return round(float(np.quantile(np.array(self._latency_us), quantile)) / 1000, 3)
