"""`tidegate bench ward`: 500 beds at 1 Hz through the whole flow, paced, in a process of its own."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from flows.bench.spread import spread
from flows.simulators.ward import write_load

BEDS, SECONDS, SPEED = 500, 240, 20
LIMITS = {"core_share": 0.15, "rule_p99_ms": 20.0, "rss_mb": 200.0}


def _once(folder: Path, run: int) -> dict[str, float]:
    out = folder / f"summary-{run}.json"
    command = [sys.executable, "-m", "flows", "run", "ward", "--source", str(folder / "load")]
    command += ["--sink", str(folder / f"{run}.db"), "--speed", str(SPEED), "--summary", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    summary = json.loads(out.read_text())
    assert summary["rows"]["used"] == summary["rows"]["in"], "the load is clean: every row must be used"
    return {
        "core_share": summary["cpu_s"] / SECONDS,
        "rule_p99_ms": summary["latency_ms"]["p99"],
        "rss_mb": summary["max_rss_mb"],
    }


def measure(repeats: int, peers: bool) -> dict[str, Any]:
    """CPU a second of the ward's own time, p99 of window close to rule decision, and memory with the model loaded."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_load(folder / "load", seed=1, beds=BEDS, seconds=SECONDS)
        runs = [_once(folder, run) for run in range(repeats)]
    figures = {name: spread([run[name] for run in runs]) for name in LIMITS}
    return {
        **{name: figure["median"] for name, figure in figures.items()},
        "spread": figures,
        "limits": LIMITS,
        "load": {"beds": BEDS, "seconds": SECONDS, "rows": rows, "measures": 5, "speed": SPEED},
    }
