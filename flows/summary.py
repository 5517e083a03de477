"""What a run did, in numbers; of several processes, together."""

import resource
import time
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flows.status import OutletState
from flows.texts import ModelTexts
from operators.adapters.tally import Tally

WAYS = ("used", "late", "rejected", "duplicate")


@dataclass(slots=True)
class Counts:
    """What one process counted. latency_us: of each decision that counts; rss_mb: at most, of this process."""

    rows: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    windows: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    cached: int = 0
    abstained: int = 0
    latency_us: "array[int]" = field(default_factory=lambda: array("q"))
    wall_s: float = 0.0
    cpu_s: float = 0.0
    rss_mb: float = 0.0

    def add(self, other: "Counts") -> None:
        """Count what another process did, at the same time."""
        self.rows.update(other.rows)
        self.rejected.update(other.rejected)
        self.windows += other.windows
        self.decisions.update(other.decisions)
        self.calls += other.calls
        self.cached += other.cached
        self.abstained += other.abstained
        self.latency_us.extend(other.latency_us)
        self.wall_s = max(self.wall_s, other.wall_s)
        self.cpu_s += other.cpu_s
        self.rss_mb += other.rss_mb


def counted(tally: Tally, texts: ModelTexts, started: tuple[float, float]) -> Counts:
    """What this process did. started: the monotonic clock and its processor time at the start, in seconds."""
    pool = texts.pool
    return Counts(
        rows=Counter(tally.rows),
        rejected=Counter(tally.rejected),
        windows=tally.windows,
        decisions=Counter(tally.decisions),
        calls=pool.calls if pool else 0,
        cached=tally.cached + (pool.cached if pool else 0),
        abstained=tally.abstained,
        latency_us=tally.latencies_us(),
        wall_s=time.monotonic() - started[0],
        cpu_s=time.process_time() - started[1],
        rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def summary(counts: Counts, actions: Sequence[str], outlets: Mapping[str, OutletState]) -> dict[str, Any]:
    """As `--summary` writes it. Outlets: where there are any, what each has sent, and what waits for it."""
    rows = {way: counts.rows[way] for way in WAYS}
    found = {
        "rows": {"in": sum(rows.values()), **rows},
        "rejected": dict(sorted(counts.rejected.items())),
        "windows": counts.windows,
        "decisions": {action: counts.decisions[action] for action in actions},
        "model": {"calls": counts.calls, "cached": counts.cached, "abstained": counts.abstained},
        "latency_ms": {"p50": _latency_ms(counts, 0.5), "p99": _latency_ms(counts, 0.99)},
        "wall_s": round(counts.wall_s, 3),
        "cpu_s": round(counts.cpu_s, 3),
        "max_rss_mb": round(counts.rss_mb, 1),
    }
    if outlets:
        found["outlets"] = {
            name: {"sent": state.sent, "failed": state.failed, "behind": state.behind}
            for name, state in sorted(outlets.items())
        }
    return found


def _latency_ms(counts: Counts, quantile: float) -> float | None:
    if not counts.latency_us:
        return None
    return round(float(np.quantile(np.frombuffer(counts.latency_us, np.int64), quantile)) / 1000, 3)
