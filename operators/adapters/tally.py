"""What one run counted. Shared by the worker threads of one process; never part of a decision."""

import threading
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence

LATENCIES_MAX = 1_000_000


class Tally:
    """Rows by way out, windows, decisions by action, readings, latencies. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latency_us = array("q")
        self.rows: Counter[str] = Counter(used=0, late=0, rejected=0, duplicate=0)
        self.rejected: Counter[str] = Counter()
        self.overtaken = 0
        self.windows = 0
        self.committed: Counter[tuple[str, int]] = Counter()
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
            self.overtaken += count

    def closed(self, windows: int) -> None:
        """Windows that closed."""
        with self._lock:
            self.windows += windows

    def decided(self, actions: Mapping[str, int], latency_us: Sequence[int], abstained: int, reused: int) -> None:
        """Decisions by action, less those that a revision replaced; texts not acted on, and read before."""
        with self._lock:
            self.decisions.update(actions)
            self.abstained += abstained
            self.cached += reused
            self._latency_us.extend(latency_us[: LATENCIES_MAX - len(self._latency_us)])

    def stored(self, records: Mapping[tuple[str, int], int]) -> None:
        """Records committed to the store, by action and revision; one that was there before counts again."""
        with self._lock:
            self.committed.update(records)

    def latencies_us(self) -> "array[int]":
        """Window close to rule decision, of each decision that counts; a copy."""
        with self._lock:
            return self._latency_us[:]
