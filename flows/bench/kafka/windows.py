"""Kafka to windows to SQLite: our source and window step, a row for each closed window. In one process or several."""

import os
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event as Stop

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from flows.bench.kafka.took import Spec
from flows.bench.windows import CheckedEvent, Event, domain_of
from flows.connectors.kafka import kafka_source
from flows.engine import execute
from flows.recovery import recovery_of
from flows.status import Status
from operators.adapters import steps
from operators.adapters.messages import DeadLetters, Draft, SourceBatch, Windowed
from operators.adapters.tally import Tally
from operators.adapters.window import WindowLogic, WindowStep
from operators.columnar.shard import split_by_shard
from schemas.settings import Settings

STORE = "windows"
PLACE = ("key", "start_us", "end_us")
READY_POLL_S = 0.01
TCP_LISTEN = "0A"
PAGE_BYTES, WAL_PAGES = 16_384, 1_000
"""A window's row is some 160 bytes and comes with thousands of others: larger pages and fewer checkpoints."""
UNCHECKED, CHECKED = (0.0, 0.0, 1e9), (10.0, 60.0, 300.0)
"""Allowed lateness, how far back duplicates are looked for, and how far ahead of its clock a row may be; in seconds."""


@dataclass
class Ran:
    """What a run did. rows: read here; flow_s: of the dataflow alone; rss: rows in closed windows, and kB then."""

    rows: int = 0
    flow_s: float = 0.0
    rss: list[tuple[int, int]] = field(default_factory=list)


class _Table(StatefulSinkPartition[Windowed, None]):
    def __init__(self, path: Path, columns: tuple[str, ...], ran: Ran) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"CREATE TABLE windows ({', '.join(columns)})")
        self._insert = f"INSERT INTO windows VALUES ({', '.join('?' * len(columns))})"
        self._columns, self._ran, self._closed = columns, ran, 0

    def write_batch(self, values: list[Windowed]) -> None:
        self._db.execute("BEGIN")
        for windowed in values:
            assert windowed.frame is not None
            columns = (windowed.frame[name].to_list() for name in self._columns)
            self._db.executemany(self._insert, zip(*columns, strict=True))
            self._closed += int(windowed.frame["count"].sum())
        self._db.execute("COMMIT")
        self._ran.rss.append((self._closed, _rss_kb()))

    def snapshot(self) -> None:
        return None

    def close(self) -> None:
        self._db.close()


@dataclass(frozen=True, slots=True)
class _Store(FixedPartitionedSink[Windowed, None]):
    path: Path
    columns: tuple[str, ...]
    ran: Ran
    here: bool

    def list_parts(self) -> list[str]:
        return [STORE] if self.here else []

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _Table:
        return _Table(self.path, self.columns, self.ran)


def run_windows(spec: Spec) -> Ran:
    """Read the topic to its end; the windows go to `windows.db` in the spec's folder."""
    folder, ran, tally = Path(spec.folder), Ran(), Tally()
    domain = domain_of(CheckedEvent if spec.checked else Event)
    lateness_s, back_s, ahead_s = CHECKED if spec.checked else UNCHECKED
    settings = Settings(
        ts_unit="us",
        shards=spec.shards,
        allowed_lateness_s=lateness_s,
        dedupe_horizon_s=back_s,
        max_future_s=ahead_s,
    )
    opened = kafka_source(
        domain,
        f"kafka://{spec.servers}?events={spec.topic}&format={spec.format}",
        settings,
        folder / "no.db",
        tally,
        Status(),
        Stop(),
        until_end=True,
        resumable=spec.checked,
    )
    step = WindowStep(domain, opened.partitions, tally, int(settings.idle_timeout_s * 1e6), settings.open_rows_max)
    columns = (*PLACE, *(aggregate.out for aggregate in domain.aggregates))

    def to_shards(batch: SourceBatch) -> Iterable[tuple[str, SourceBatch]]:
        for shard, rows in enumerate(split_by_shard(batch.rows, settings.shards)):
            yield steps.shard_key(shard), replace(batch, rows=rows)

    def closed(item: tuple[str, Windowed | Draft | DeadLetters]) -> tuple[str, Windowed] | None:
        return (STORE, item[1]) if isinstance(item[1], Windowed) else None

    flow = Dataflow("bench")
    batches = op.input("source", flow, opened.source)
    windowed = op.stateful_batch(
        "window", op.flat_map("shard", batches, to_shards), lambda state: WindowLogic(step, state)
    )
    op.output(
        "sink", op.filter_map("closed", windowed, closed), _Store(folder / "windows.db", columns, ran, not spec.index)
    )
    recovery = recovery_of(folder / "state") if spec.checked else None
    _meet(folder, spec)
    started = time.perf_counter()
    execute(flow, settings, recovery, spec.addresses, spec.index)
    ran.flow_s = time.perf_counter() - started
    opened.close()
    ran.rows = sum(tally.rows.values())
    return ran


def _meet(folder: Path, spec: Spec) -> None:
    """Wait until all processes have come so far, and the first listens: it is asked for again only after a second."""
    (folder / f"ready-{spec.index}").touch()
    while len(list(folder.glob("ready-*"))) < len(spec.addresses):
        time.sleep(READY_POLL_S)
    while spec.index and not _listens(int(spec.addresses[0].rpartition(":")[2])):
        time.sleep(READY_POLL_S)


def _listens(port: int) -> bool:
    """Whether someone does on this machine; a connection to see would be taken for the other process."""
    sockets = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(int(at.rpartition(":")[2], 16) == port and state == TCP_LISTEN for _, at, _, state, *_ in sockets)


def _rss_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
