"""What all seeds share: brokers behind proxies, kept alive from one seed to the next; and each seed's input."""

import random
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from confluent_kafka import KafkaException

from flows.connectors.kafka import broker as local
from flows.connectors.kafka.sending import Sending
from flows.simulators.ward import simulate_ward
from tests.brokers.kafka import Broker, Cluster, add_listener
from tests.brokers.mosquitto import Mosquitto
from tests.brokers.mqtt_clients import Publisher
from tests.chaos.proxy import Proxy

PROXIED = "PROXIED"
STREAMS = ("vitals", "notes", "settings")
MINUTES = 5
LAST: Mapping[str, Any] = {"ts": "2026-03-02T08:08:00.000Z", "patient": "last", "bed": "last", "hr": 70}
"""A patient nobody knows, minutes later: closes every window before."""
TOPIC = "chaos/vitals"
DELAY_S = 8.0
"""How far behind a newer row a redelivered or reordered one comes: less than the lateness that is allowed."""


class ProxiedCluster(Cluster):
    """Brokers that can also be reached through a proxy each, which they name to whoever comes that way."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.proxies: dict[int, Proxy] = {}
        super().__init__(folder, nodes)

    @property
    def proxied(self) -> str:
        """host:port,... of all brokers, through their proxies."""
        return ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.proxies.values())

    def kill(self) -> None:
        """Kill every broker and end every proxy."""
        super().kill()
        for proxy in self.proxies.values():
            proxy.close()

    def pace(self, rate: float | None) -> None:
        """Bytes a second from each broker."""
        for proxy in self.proxies.values():
            proxy.rate = rate

    def heal(self) -> None:
        """Good networks, no limits, every broker up."""
        self.pace(None)
        for proxy in self.proxies.values():
            proxy.heal()
        for broker in self.brokers:
            if broker.process is None or broker.process.poll() is not None:
                broker.kill()
                broker.start()
        self.wait()

    def _settings(self, broker: Broker) -> dict[str, str]:
        settings = super()._settings(broker)
        port = local.free_port()
        proxy = self.proxies[broker.node] = Proxy(port)
        add_listener(settings, PROXIED, f"127.0.0.1:{port}", f"127.0.0.1:{proxy.port}")
        return settings


class Site:
    """Clusters of one and of three brokers, each started when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clusters: dict[int, ProxiedCluster] = {}

    def cluster(self, nodes: int) -> ProxiedCluster:
        """The cluster of so many brokers, sound."""
        if nodes in self._clusters:
            self._clusters[nodes].heal()
        else:
            made = self._clusters[nodes] = ProxiedCluster(self._folder / f"kafka-{nodes}", nodes)
            made.start()
        return self._clusters[nodes]

    def close(self) -> None:
        """End them all."""
        for cluster in self._clusters.values():
            cluster.kill()


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """A site, gone on exit."""
    made = Site(folder)
    try:
        yield made
    finally:
        made.close()


class Link:
    """A broker of its own, the proxy through which the program reaches it, and who publishes past that proxy."""

    def __init__(self, folder: Path) -> None:
        self.broker = Mosquitto(folder)
        self.broker.start()
        self.proxy = Proxy(self.broker.port)

    def close(self) -> None:
        """End both."""
        self.proxy.close()
        self.broker.kill()

    @property
    def source(self) -> str:
        """The address of the flow's source."""
        return f"mqtt://127.0.0.1:{self.proxy.port}?vitals={TOPIC}"

    def publish(self, rows: Sequence[bytes]) -> None:
        """The broker has them afterwards."""
        with Publisher(self.broker.port) as publisher:
            publisher.send([(TOPIC, row) for row in rows])


class Sent(NamedTuple):
    """A message and where it goes. ts_s: event time in seconds, 0 where it cannot be read."""

    stream: str
    partition: int
    line: bytes
    ts_s: float


@dataclass
class Input:
    """A seed's rows in the order of sending; clean: without the simulator's faulty, late and repeated ones."""

    rows: list[Sent]
    clean: list[Sent] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(len(row.line) for row in self.rows if row.stream == "vitals")


def simulated(folder: Path, seed: int, beds: int, partitions: int) -> Input:
    """A small ward. A patient is always in the same partition of the vitals."""
    manifest = simulate_ward(folder, seed=seed, beds=beds, minutes=MINUTES)
    faulty = {number for numbers in manifest.lines.values() for number in numbers}
    found = Input([])
    for stream in STREAMS:
        for number, line in enumerate((folder / f"{stream}.jsonl").read_bytes().splitlines(), 1):
            row = _sent(stream, line, partitions if stream == "vitals" else 1)
            found.rows.append(row)
            if stream != "vitals" or number not in faulty:
                found.clean.append(row)
    return found


def _sent(stream: str, line: bytes, partitions: int) -> Sent:
    try:
        row = orjson.loads(line)
        ts_s, key = datetime.fromisoformat(row["ts"]).timestamp(), row["patient"].encode()
    except (ValueError, KeyError):
        ts_s, key = 0.0, b""
    return Sent(stream, zlib.crc32(key) % partitions, line, ts_s)


def replay_folder(folder: Path, rows: Input) -> Input:
    """The vitals, and a last row, as files for an undisturbed run, and as what is to be published.

    Without the row of tomorrow: a replay tells it by its neighbours, a live source by a clock that is months ahead.
    """
    folder.mkdir()
    last = Sent("vitals", 0, orjson.dumps(LAST), datetime.fromisoformat(LAST["ts"]).timestamp())
    found = [row for row in rows.rows if row.stream == "vitals" and row.ts_s < last.ts_s]
    found.append(last)
    (folder / "vitals.jsonl").write_bytes(b"".join(row.line + b"\n" for row in found))
    return Input(found)


def redelivered(rows: Sequence[Sent], chance: random.Random) -> list[Sent]:
    """The same vitals with one in eight sent again later, and one in four behind newer ones."""
    placed: list[tuple[float, int, Sent]] = []
    for nth, row in enumerate(rows):
        late_s = chance.uniform(0, DELAY_S) if chance.random() < 0.25 else 0.0
        placed.append((row.ts_s + late_s, nth, row))
        if row.stream == "vitals" and chance.random() < 0.125:
            placed.append((row.ts_s + chance.uniform(0, DELAY_S), nth, row))
    return [row for _, _, row in sorted(placed, key=lambda one: one[:2])]


@dataclass
class Topics:
    """One seed's topics."""

    cluster: ProxiedCluster
    prefix: str
    partitions: int
    sent_in_one: int
    names: dict[str, str] = field(default_factory=dict)

    def create(self, more: Sequence[str] = ()) -> None:
        """Make a topic for each stream, and for each of `more`."""
        for stream in (*STREAMS, *more):
            self.create_one(stream)

    def create_one(self, stream: str) -> None:
        """Make one of them."""
        name = self.names[stream] = f"{self.prefix}.{stream}"
        nodes = len(self.cluster.brokers)
        self.cluster.create(name, self.partitions if stream == "vitals" else 1, nodes, min_insync_replicas="1")

    def send(self, rows: Sequence[Sent], only: Sequence[str] = STREAMS) -> None:
        """Send rows in their order, few in one batch of the broker's."""
        tuned = {"batch.num.messages": self.sent_in_one, "compression.type": "none"}
        with Sending(self.cluster.bootstrap, **tuned) as sending:
            for row in rows:
                if row.stream in only:
                    sending.send(self.names[row.stream], row.line, partition=row.partition)

    def delete(self) -> None:
        """Remove them all."""
        for name in self.names.values():
            with suppress(KafkaException):
                self.cluster.delete(name)

    def source(self, servers: str) -> str:
        """The address of the flow's source."""
        return f"kafka://{servers}?" + "&".join(f"{stream}={self.names[stream]}" for stream in STREAMS)


def counts(rows: Sequence[Sent]) -> Mapping[tuple[str, int], int]:
    """How many rows each partition has."""
    found: dict[tuple[str, int], int] = defaultdict(int)
    for row in rows:
        found[row.stream, row.partition] += 1
    return found
