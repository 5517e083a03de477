"""From a message to the decision it let be made: the whole flow, live, at a steady 5,000 messages a second.

A window of a second may close with the first message dated after its end and the allowed lateness. Messages are dated
as they are sent, so that the latency is the time from there to the commit of a decision.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from flows.bench.windows import CheckedEvent, domain_of
from flows.run import Control, RunOptions, run_opened
from flows.sources import open_source
from schemas.decisions import Sealed
from schemas.settings import Settings
from schemas.windows import WindowSpec

WINDOW_US = 1_000_000
LATENESS_S = 1.0
WARM_S = 8.0
"""Decisions of the first seconds are not counted: a broker that has just made a topic and its first offsets is busy."""


@dataclass
class Decided:
    """When records were committed, and the ends of their windows, all in microseconds."""

    at: list[tuple[int, list[int]]] = field(default_factory=list)

    def note(self, records: Sequence[Sealed]) -> None:
        """Records were committed just now."""
        self.at.append((time.time_ns() // 1000, [record.end_us for record in records]))


def latencies_ms(decided: Decided, began_us: int) -> list[float]:
    """Of every decision about a window that ended WARM_S after the start or later."""
    from_us, lateness_us = began_us + int(WARM_S * 1e6), int(LATENESS_S * 1e6)
    return [
        (at_us - end_us - lateness_us) / 1e3 for at_us, ends_us in decided.at for end_us in ends_us if end_us >= from_us
    ]


def quantiles(found: Sequence[float]) -> dict[str, float]:
    """p50 and p99, as they are printed. Errors: ValueError where nothing was decided."""
    if not found:
        raise ValueError("no window closed: give it more seconds")
    return {f"latency_p{part}_ms": round(float(np.quantile(found, part / 100)), 2) for part in (50, 99)}


def run(servers: str, topic: str, folder: Path, seconds: float, core: int) -> dict[str, float]:
    """Run the flow over what is sent for so many seconds from `core`; gives the quantiles, and how many decisions."""
    settings = Settings(ts_unit="us", allowed_lateness_s=LATENESS_S)
    domain = replace(domain_of(CheckedEvent), window=WindowSpec("tumbling", length_us=WINDOW_US))
    decided, began = Decided(), [0]
    control = Control(on_records=decided.note)
    store = folder / "latency.db"
    options = RunOptions(
        flow="bench",
        source=f"kafka://{servers}?events={topic}",
        sink=str(store),
        model="none",
        settings=settings,
        recovery=folder / "latency-state",
    )

    def send() -> None:
        began[0] = time.time_ns() // 1000
        subprocess.run(
            [sys.executable, "-m", "flows.bench.kafka.steady", servers, topic, str(seconds), str(core)], check=False
        )
        time.sleep(1)
        control.stop.ask()

    control.starting = threading.Thread(target=send, daemon=True).start
    run_opened(domain, partial(open_source, domain, options, store, control), store, options, control)
    found = latencies_ms(decided, began[0])
    return {**quantiles(found), "latency_decisions": len(found)}


if __name__ == "__main__":
    _, at, of, place, lasting_s, sender, own = sys.argv
    os.sched_setaffinity(0, {int(own)})
    result = run(at, of, Path(place), float(lasting_s), int(sender))
    (Path(place) / "latency.json").write_text(json.dumps(result))
