"""What a way to read is told, and what it took; how ratios come of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

WARM_ROWS = 2_000_000
"""Memory is at its level by then; a slope is taken from there on."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What is read, and where its results go. format: json or arrow; checked: ranges, duplicates, lateness, recovery.

    addresses: of all processes, where it is one of several; index: which. cores: those it may use, empty for its
    parent's.
    """

    servers: str
    topic: str
    messages: int
    folder: str
    format: str = "json"
    checked: bool = False
    shards: int = 1
    addresses: Sequence[str] = ()
    index: int = 0
    cores: Sequence[int] = ()


@dataclass(frozen=True)
class Took:
    """What one run took, start to end. flow_s: of the dataflow alone; broker_s: CPU of the broker meanwhile.

    rss: rows in closed windows, and kB of memory then.
    """

    rows: int
    wall_s: float
    cpu_s: float
    flow_s: float = 0.0
    rss: Sequence[tuple[int, int]] = field(default_factory=list)
    broker_s: float = 0.0


RATIOS = {
    "bare_loop_ratio": ("windows", "bare"),
    "decode_loop_ratio": ("windows", "decoded"),
    "bytewax_source_ratio": ("windows", "bytewax"),
    "arrow_ratio": ("arrow", "windows"),
    "checked_ratio": ("checked", "windows"),
}
"""Throughput of the first over that of the second."""


def ratios(runs: Mapping[str, Sequence[Took]]) -> dict[str, list[float]]:
    """Of each repeat every ratio, by wall time and, with `_cpu` at its end, by CPU time. runs: way -> its repeats."""
    found: dict[str, list[float]] = {}
    for name, (over, under) in RATIOS.items():
        pairs = list(zip(runs[over], runs[under], strict=True))
        found[name] = [(a.rows / a.wall_s) / (b.rows / b.wall_s) for a, b in pairs]
        found[f"{name}_cpu"] = [(a.rows / a.cpu_s) / (b.rows / b.cpu_s) for a, b in pairs]
    return found


def rates(runs: Mapping[str, Sequence[Took]]) -> dict[str, list[float]]:
    """Rows a second, and a second of CPU, of each repeat; and how much of a core the broker used meanwhile."""
    found: dict[str, list[float]] = {}
    for way, repeats in runs.items():
        found[f"{way}_per_s"] = [took.rows / took.wall_s for took in repeats]
        found[f"{way}_per_cpu_s"] = [took.rows / took.cpu_s for took in repeats]
        found[f"{way}_broker_cores"] = [took.broker_s / took.wall_s for took in repeats]
    return found


def together(members: Sequence[Took]) -> Took:
    """Several processes as one: from the first start to the last end of their dataflows."""
    return Took(
        rows=sum(member.rows for member in members),
        wall_s=max(member.wall_s for member in members),
        cpu_s=sum(member.cpu_s for member in members),
        flow_s=max(member.flow_s for member in members),
        broker_s=members[0].broker_s,
    )


def slope_kb_per_m(rss: Sequence[tuple[int, int]]) -> float | None:
    """Growth of memory in kB for a million rows, by least squares after WARM_ROWS; None for fewer than two points."""
    late = np.array([point for point in rss if point[0] >= WARM_ROWS], np.float64)
    if len(late) < 2:
        return None
    return float(np.polyfit(late[:, 0] / 1e6, late[:, 1], 1)[0])
