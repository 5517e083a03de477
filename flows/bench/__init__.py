"""`tidegate bench`: speed as ratios against a named baseline in the same run, with spread, versions and machine."""

import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flows.bench import kafka, read, trace, ward, windows
from schemas.errors import UsageError

BENCHES: dict[str, Callable[..., dict[str, Any]]] = {
    "windows": windows.measure,
    "ward": ward.measure,
    "read": read.measure,
    "trace": trace.measure,
    "kafka": kafka.measure,
}
OPTIONS = {"work": "read", "messages": "kafka", "long": "kafka"}
"""Options of one benchmark only."""


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    packages = ("bytewax", "numpy", "onnxruntime", "polars")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "load": os.getloadavg()[0],
    }


def run_bench(name: str, *, repeats: int, peers: bool, **options: Any) -> dict[str, Any]:
    """Run one benchmark pinned to one core. options: of OPTIONS, None where not given.

    Errors: UsageError on an unknown name, or an option of another benchmark.
    """
    if name not in BENCHES:
        raise UsageError(f"there is no benchmark called {name}: give one of {', '.join(BENCHES)}")
    more = {option: value for option, value in options.items() if value is not None}
    for option in more:
        if OPTIONS[option] != name:
            raise UsageError(f"--{option} belongs to `bench {OPTIONS[option]}`: leave it out")
    cores = os.sched_getaffinity(0)
    if name == "kafka":
        more["cores"] = cores  # its broker has one of its own
    os.sched_setaffinity(0, {max(cores)})
    try:
        return {"bench": name, "repeats": repeats, **BENCHES[name](repeats, peers, **more), "machine": machine()}
    finally:
        os.sched_setaffinity(0, cores)
