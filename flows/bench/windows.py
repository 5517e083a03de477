"""`tidegate bench windows`: the work of the design note, ours against offline Polars and Bytewax's own windows.

2 M JSON events of 1,000 keys at 1 Hz each, tumbling windows of 10 s, 15 aggregates of one field, one core. Offline
Polars has all bytes in memory at once, one thread, and no event time to keep; it is what a stream engine is held to.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import bytewax.operators as op
import numpy as np
import orjson
import polars as pl
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSource, run_main
from pydantic import BaseModel, ConfigDict, Field

from flows.bench.peers import ROWS as PEER_ROWS
from flows.bench.peers import disagreement
from flows.bench.peers import measure as measure_peers
from flows.bench.spread import spread
from flows.connectors.files import HeldLines
from flows.connectors.replay import Partition, ReplaySource
from flows.engine import execute
from operators.adapters.messages import Windowed
from operators.adapters.tally import Tally
from operators.adapters.window import WindowLogic, WindowStep
from operators.columnar.codec import Codec
from operators.columnar.intake import IntakeSpec
from operators.columnar.watermark import END
from operators.columnar.windows import late_before_us
from operators.domain import Domain, Judgement
from schemas import streams
from schemas.settings import Settings
from schemas.windows import Agg, AggName, WindowSpec

ROWS, KEYS, WINDOW_US, STEP_US, START_US = 2_000_000, 1_000, 10_000_000, 1_000, 1_767_225_600_000_000
FOLD_ROWS = 40_000
BATCHES = (1_000, 5_000, 20_000)
NATIVE: tuple[AggName, ...] = ("count", "sum", "mean", "var", "std", "min", "max", "first", "last", "last_us", "median")
QUANTILES = (0.05, 0.25, 0.75, 0.95)
LIMITS = {
    "polars_ratio_1000": 0.35,
    "polars_ratio_5000": 0.8,
    "polars_ratio_20000": 1.0,
    "fold_window_ratio": 25.0,
    "checks_cost_ratio": 1.6,
}


class Event(BaseModel):
    """One event, unchecked beyond its types."""

    model_config = ConfigDict(strict=True)

    ts: int
    device: str = Field(min_length=1)
    value: float | None = None


class CheckedEvent(Event):
    """The same with a range and a unit."""

    value: float | None = streams.measure("1", -1e6, 1e6)


class _Count(StatelessSinkPartition[tuple[str, Windowed]]):
    def __init__(self, closed: list[pl.DataFrame]) -> None:
        self._closed = closed

    def write_batch(self, items: list[tuple[str, Windowed]]) -> None:
        self._closed.extend(windowed.frame for _, windowed in items if windowed.frame is not None)


@dataclass(frozen=True, slots=True)
class _Closed(DynamicSink[tuple[str, Windowed]]):
    closed: list[pl.DataFrame]

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Count:
        return _Count(self.closed)


def events(rows: int, first: int = 0) -> list[bytes]:
    """Seeded lines, in order of event time. first: number of the first one; another chunk, the same values again."""
    rng = np.random.default_rng(7)
    keys, values = np.arange(first, first + rows) % KEYS, np.round(rng.normal(50, 10, rows), 2)
    return [
        b'{"ts":%d,"device":"d%04d","value":%.2f}' % (START_US + at * STEP_US, key, value)
        for at, (key, value) in enumerate(zip(keys.tolist(), values.tolist(), strict=True), first)
    ]


def _aggregates() -> tuple[Agg, ...]:
    return (
        *(Agg(name, "value", name) for name in NATIVE),
        *(Agg(f"q{int(q * 100):02d}", "value", "quantile", q) for q in QUANTILES),
    )


def domain_of(model: type[Event]) -> Domain:
    """The flow of this benchmark over one kind of event."""
    return Domain(
        name="bench",
        revision="1",
        actions=("none",),
        streams=(streams.Stream("events", model, key="device", role="events"),),
        window=WindowSpec("tumbling", length_us=WINDOW_US),
        aggregates=_aggregates(),
        rule=lambda frame: frame,
        judge=lambda row, labels: Judgement({}, "none", (), (), ""),
    )


def intake_of(domain: Domain, *, checked: bool) -> IntakeSpec:
    """checked: lateness, duplicates and the future are looked at."""
    return IntakeSpec(
        role="events",
        wait_us=10_000_000 if checked else 0,
        max_future_us=300_000_000 if checked else END // 4,
        lookahead_rows=1_000,
        dedupe_horizon_us=60_000_000 if checked else 0,
        late_before=partial(late_before_us, spec=domain.window)
        if checked
        else lambda event_us: np.full_like(event_us, END),
    )


def ours(lines: list[bytes], batch_rows: int, *, checked: bool) -> tuple[float, pl.DataFrame]:
    """Seconds and the closed windows. checked: ranges, duplicates, lateness, future guard and recovery on."""
    domain, settings, tally = (
        domain_of(CheckedEvent if checked else Event),
        Settings(ts_unit="us", batch_rows_max=batch_rows),
        Tally(),
    )
    stream = domain.streams[0]
    spec = intake_of(domain, checked=checked)
    codec = Codec(stream, ts_unit="us", line_bytes_max=settings.line_bytes_max)
    source = ReplaySource(
        [Partition("events", stream, codec, spec, partial(HeldLines, lines))],
        settings,
        tally,
        speed=0,
        live=False,
    )
    step = WindowStep(domain, [("events", "events")], tally, 30_000_000, ROWS * 2)
    closed: list[pl.DataFrame] = []
    flow = Dataflow("bench")
    batches = op.input("source", flow, source)
    sharded = op.map("shard", batches, lambda batch: ("s0", batch))
    windowed = op.stateful_batch("window", sharded, lambda state: WindowLogic(step, state))
    op.output("sink", windowed, _Closed(closed))  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        recovery = None
        if checked:
            init_db_dir(Path(folder), 1)
            recovery = RecoveryConfig(folder)
        started = time.perf_counter()
        execute(flow, settings, recovery)
        taken = time.perf_counter() - started
    return taken, pl.concat(closed)


def offline(blob: bytes) -> tuple[float, pl.DataFrame]:
    """Seconds and windows of Polars over all bytes at once."""
    value = pl.col("value")
    started = time.perf_counter()
    frame = pl.read_ndjson(blob, schema={"ts": pl.Int64, "device": pl.String, "value": pl.Float64})
    windows = frame.group_by("device", (pl.col("ts") // WINDOW_US * WINDOW_US).alias("start_us")).agg(
        *(getattr(value, name)().alias(name) for name in NATIVE if name != "last_us"),
        pl.col("ts").last().alias("last_us"),
        *(value.quantile(q, "linear").alias(f"q{int(q * 100):02d}") for q in QUANTILES),
    )
    return time.perf_counter() - started, windows


def fold(lines: Sequence[bytes]) -> float:
    """Seconds of Bytewax's `fold_window`, row by row, over the same windows and aggregates."""

    def folder(state: list[tuple[int, float]], row: dict[str, Any]) -> list[tuple[int, float]]:
        state.append((row["ts"], row["value"]))
        return state

    def finish(item: tuple[str, tuple[int, list[tuple[int, float]]]]) -> Any:
        values = np.array([value for _, value in item[1][1]])
        return (
            *(len(values), values.sum(), values.mean(), values.var(), values.std(), values.min(), values.max()),
            *(item[1][1][0], item[1][1][-1], np.quantile(values, (0.5, *QUANTILES))),
        )

    clock: EventClock[dict[str, Any]] = EventClock(
        lambda row: datetime.fromtimestamp(row["ts"] / 1e6, UTC), wait_for_system_duration=timedelta(0)
    )
    windower = TumblingWindower(
        length=timedelta(microseconds=WINDOW_US), align_to=datetime.fromtimestamp(START_US / 1e6, UTC)
    )
    out: list[Any] = []
    flow = Dataflow("fold")
    rows = op.map("decode", op.input("source", flow, TestingSource(lines, batch_size=1_000)), orjson.loads)
    keyed = op.key_on("key", rows, lambda row: str(row["device"]))
    folded = fold_window("fold", keyed, clock, windower, list, folder, lambda a, b: a + b)
    op.output("sink", op.map("finish", folded.down, finish), _Discard(out))
    started = time.perf_counter()
    run_main(flow)
    return time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class _Discard(DynamicSink[Any]):
    out: list[Any]

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition[Any]:
        return _DiscardPartition()


class _DiscardPartition(StatelessSinkPartition[Any]):
    def write_batch(self, items: list[Any]) -> None:
        return None


def same(windows: pl.DataFrame, reference: pl.DataFrame) -> None:
    """The two gave the same answers for the same windows. Errors: AssertionError, naming what differs."""
    difference = disagreement(windows.rename({"key": "device"}), reference, [agg.out for agg in _aggregates()])
    assert difference is None, difference


def measure(repeats: int, peers: bool, rows: int = ROWS) -> dict[str, Any]:
    """Ratios of throughput in one run; above 1 we are faster. `checks_cost_ratio` is time with over time without."""
    lines = events(rows)
    blob = b"\n".join(lines)
    ratios: dict[str, list[float]] = {name: [] for name in LIMITS}
    rates: dict[str, list[float]] = {}

    def note(name: str, taken: float, count: int = rows) -> None:
        rates.setdefault(f"{name}_rows_per_s", []).append(count / taken)

    for repeat in range(repeats):
        base, reference = offline(blob)
        note("polars", base)
        for batch_rows in BATCHES:
            taken, windows = ours(lines, batch_rows, checked=False)
            if repeat == 0:
                same(windows, reference)
            note(f"tidegate_{batch_rows}", taken)
            ratios[f"polars_ratio_{batch_rows}"].append(base / taken)
            if batch_rows == 5_000:
                plain = taken
        full, _ = ours(lines, 5_000, checked=True)
        note("tidegate_5000_checked", full)
        ratios["checks_cost_ratio"].append(full / plain)
        folded = fold(lines[:FOLD_ROWS])
        note("fold_window", folded, FOLD_ROWS)
        ratios["fold_window_ratio"].append((folded / min(FOLD_ROWS, rows)) / (plain / rows))
    spreads = {name: spread(values) for name, values in (ratios | rates).items()}
    few = lines[:PEER_ROWS]  # the peers are far slower
    return {
        **({"peers": measure_peers(few, offline(b"\n".join(few))[1], WINDOW_US)} if peers else {}),
        **{name: figure["median"] for name, figure in spreads.items()},
        "spread": spreads,
        "limits": LIMITS,
        "work": {
            "rows": rows,
            "keys": KEYS,
            "window_s": 10,
            "aggregates": [agg.out for agg in _aggregates()],
            "shards": 1,
        },
    }
