"""The whole of `tidegate bench kafka`: broker, topics, every way in turn, answers compared."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from flows.bench.kafka import load
from flows.bench.kafka.took import Spec, Took, rates, ratios, slope_kb_per_m, together
from flows.bench.peers import ROWS as PEER_MESSAGES
from flows.bench.peers import disagreement
from flows.bench.spread import spread
from flows.bench.windows import KEYS, events, offline, same
from flows.connectors.kafka.broker import Broker, local_broker, make_topic
from schemas.errors import TidegateError

MESSAGES = 2_000_000
LONG_MESSAGES = 10_000_000
LATENCY_S = 30.0
TIMEOUT_S = 1200
SHARDS_OF_TWO = 2
JSON, ARROW, STEADY, FEW, LONG = "events", "events.arrow", "events.steady", "events.few", "events.long"
HALVES = ("events.half.0", "events.half.1")
LIMITS = {
    "bare_loop_ratio": 0.5,
    "bytewax_source_ratio": 1.0,
    "arrow_ratio": 5.0,
    "quix_ratio": 30.0,
    "two_process_ratio": 1.7,
}
NO_QUIX = "not installed: pip install 'tidegate[peers]'"


class _Bench:
    """A broker with its topics, and the core that reads from it."""

    def __init__(self, broker: Broker, folder: Path, own: int, others: Set[int]) -> None:
        self.broker, self.folder, self.own, self.others = broker, folder, own, others
        self._count = 0

    def fill(self, topic: str, messages: int, form: str = "json") -> None:
        """Make a topic, and send the events to it; from all cores."""
        make_topic(self.broker.address, topic, load.PARTITIONS)
        with pinned(self.others | {self.own}):
            (load.fill_arrow if form == "arrow" else load.fill_json)(self.broker.address, topic, messages)

    def take(self, way: str, topic: str, messages: int, processes: int = 1, **more: Any) -> tuple[Took, Path]:
        """Run one way, in so many processes; what it took, and the folder with what it wrote."""
        spec = self._spec(topic, messages, addresses=_free_addresses(processes) if processes > 1 else [], **more)
        return self._take(way, [replace(spec, index=index) for index in range(processes)], messages), Path(spec.folder)

    def take_apart(self, topics: Sequence[str], messages: int) -> Took:
        """A process for each topic, on a core of its own, which know nothing of each other. messages: in each topic."""
        return self._take("windows", [self._spec(topic, messages) for topic in topics], messages * len(topics))

    def _spec(self, topic: str, messages: int, **more: Any) -> Spec:
        self._count += 1
        folder = self.folder / f"run-{self._count}"
        folder.mkdir()
        return Spec(servers=self.broker.address, topic=topic, messages=messages, folder=str(folder), **more)

    def _take(self, way: str, specs: Sequence[Spec], messages: int) -> Took:
        cores = [self.own, *sorted(self.others - {self.own})]
        pinned_specs = [replace(spec, cores=[cores[nth % len(cores)]]) for nth, spec in enumerate(specs)]
        before_s = self.broker.cpu_s()
        self.run(*(("ways", way, json.dumps(asdict(spec))) for spec in pinned_specs))
        used_s = self.broker.cpu_s() - before_s
        took = [Took(**json.loads((Path(spec.folder) / f"took-{spec.index}.json").read_bytes())) for spec in specs]
        result = took[0] if len(took) == 1 else together(took)
        if result.rows != messages:
            raise TidegateError(f"{way} read {result.rows} of {messages} rows: its time says nothing")
        return replace(result, broker_s=used_s)

    def run(self, *commands: Sequence[str]) -> None:
        """Programs of this package at once, on our core where they do not choose. Errors: TidegateError."""
        log = self.folder / "log.txt"
        with log.open("wb") as output, pinned({self.own}):
            started = [
                subprocess.Popen(
                    [sys.executable, "-m", f"flows.bench.kafka.{module}", *arguments],
                    stdout=output,
                    stderr=output,
                )
                for module, *arguments in commands
            ]
            try:
                codes = [process.wait(TIMEOUT_S) for process in started]
            finally:
                for process in started:
                    process.kill()
                    process.wait()
        if any(codes):
            raise TidegateError(f"{' '.join(commands[0][:2])} failed: {log.read_text(errors='replace')[-2000:]}")


@contextmanager
def pinned(cores: Set[int]) -> Iterator[None]:
    """This thread, and what it starts, keeps to these cores meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _free_addresses(count: int) -> list[str]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [f"127.0.0.1:{server.getsockname()[1]}" for server in held]
    finally:
        for server in held:
            server.close()


def stored(folder: Path) -> pl.DataFrame:
    """The windows that a run wrote: key, start_us, end_us and the aggregates."""
    with sqlite3.connect(folder / "windows.db") as db:
        asked = db.execute("SELECT * FROM windows")
        return pl.DataFrame(asked.fetchall(), [name for name, *_ in asked.description], orient="row")


def measure(
    repeats: int, peers: bool, *, cores: Set[int], messages: int = MESSAGES, long: bool = False
) -> dict[str, Any]:
    """Ratios of throughput; above 1 the first is faster. cores: those that may be used. Errors: UsageError where no
    broker can be started; TidegateError where a way fails or reads something else.
    """
    own = max(cores)
    others = set(cores) - {own} or {own}
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-")))
        with pinned(others):
            broker = held.enter_context(local_broker(folder / "broker"))
        bench = _Bench(broker, folder, own, others)
        result = _figures(bench, repeats, messages)
        result |= _latency(bench)
        if peers:
            result |= _quix(bench, result, min(messages, PEER_MESSAGES))
        if long:
            result |= _long(bench, LONG_MESSAGES)
    return {
        **result,
        "limits": LIMITS,
        "work": {
            "messages": messages,
            "bytes": len(events(1)[0]),
            "keys": KEYS,
            "partitions": load.PARTITIONS,
            "compression": "lz4",
            "window_s": 10,
            "aggregates": 15,
            "arrow_rows": load.ARROW_ROWS,
            "core": own,
            "broker_cores": sorted(others),
            "versions": {package: version(package) for package in ("bytewax", "confluent-kafka", "polars")},
        },
    }


def _figures(bench: _Bench, repeats: int, messages: int) -> dict[str, Any]:
    bench.fill(JSON, messages)
    bench.fill(ARROW, messages, "arrow")
    for half in HALVES:
        bench.fill(half, messages // len(HALVES))
    _, reference = offline(b"\n".join(line for _, lines in load.chunks(messages) for line in lines))
    runs: dict[str, list[Took]] = {}
    of_two: dict[str, list[float]] = {}
    for repeat in range(repeats):
        for way in ("bare", "decoded", "bytewax"):
            runs.setdefault(way, []).append(bench.take(way, JSON, messages)[0])
        for way, topic, more in (
            ("windows", JSON, {}),
            ("arrow", ARROW, {"format": "arrow"}),
            ("checked", JSON, {"checked": True}),
        ):
            took, wrote = bench.take("windows", topic, messages, **more)
            runs.setdefault(way, []).append(took)
            if repeat == 0:
                same(stored(wrote), reference)
        both, wrote = bench.take("windows", JSON, messages, 2, shards=SHARDS_OF_TWO)
        if repeat == 0:
            same(stored(wrote), reference)
        apart = bench.take_apart(HALVES, messages // len(HALVES))
        for key, value in (
            ("two_process_ratio", runs["windows"][-1].flow_s / both.flow_s),
            ("two_apart_ratio", runs["windows"][-1].flow_s / apart.flow_s),
            ("two_process_broker_cores", both.broker_s / both.flow_s),
        ):
            of_two.setdefault(key, []).append(value)
    spreads = {key: spread(values) for key, values in {**ratios(runs), **of_two}.items()}
    spreads |= {key: spread(values, 2) for key, values in rates(runs).items()}
    return {**{key: figure["median"] for key, figure in spreads.items()}, "spread": spreads}


def _latency(bench: _Bench) -> dict[str, Any]:
    make_topic(bench.broker.address, STEADY, load.PARTITIONS)
    sender = min(bench.others)
    bench.run(("latency", bench.broker.address, STEADY, str(bench.folder), str(LATENCY_S), str(sender), str(bench.own)))
    found: dict[str, Any] = json.loads((bench.folder / "latency.json").read_bytes())
    return found


def _quix(bench: _Bench, ours: Mapping[str, float], messages: int) -> dict[str, Any]:
    """Quix Streams over the first messages; its start is not counted, and ours is. ours: rates."""
    if find_spec("quixstreams") is None:
        return {"quix": NO_QUIX}
    bench.fill(FEW, messages)
    bench.run(("quix", bench.broker.address, FEW, str(messages), str(bench.folder)))
    took = json.loads((bench.folder / "quix.json").read_bytes())
    answers = pl.read_ndjson(bench.folder / "quix.jsonl")
    _, reference = offline(b"\n".join(events(messages)))
    names = [name for name in answers.columns if name in reference.columns and name not in ("device", "start_us")]
    # The last window of a device is not closed: no message of that device follows.
    closed = reference.filter(pl.col("start_us") < pl.col("start_us").max())
    result = {"version": version("quixstreams"), "messages": messages, "windows": answers.height, "compared": names}
    wrong = disagreement(answers, closed, names)
    if wrong is not None:
        return {"quix": {**result, "wrong": wrong}}
    theirs = {f"per_{unit}": took["messages"] / took[f"{kind}_s"] for unit, kind in (("s", "wall"), ("cpu_s", "cpu"))}
    return {
        "quix": {**result, **took, **theirs},
        "quix_ratio": round(ours["windows_per_s"] / theirs["per_s"], 1),
        "quix_ratio_cpu": round(ours["windows_per_cpu_s"] / theirs["per_cpu_s"], 1),
    }


def _long(bench: _Bench, messages: int) -> dict[str, Any]:
    """Memory over many messages."""
    bench.fill(LONG, messages)
    took, _ = bench.take("windows", LONG, messages)
    slope = slope_kb_per_m(took.rss)
    return {
        "rss_slope_kb_per_m": None if slope is None else round(slope, 1),
        "rss_mb_max": round(max(kb for _, kb in took.rss) / 1024, 1),
        "rss_messages": messages,
        "long_per_s": round(took.rows / took.wall_s),
    }
