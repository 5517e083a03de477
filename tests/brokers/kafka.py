"""Kafka clusters for tests: brokers that can be broken, TLS and SASL listeners, messages sent and topics changed.

with Cluster(folder) as cluster:           # or Cluster(folder, nodes=3, certificates=make_certificates(...))
    Producer({"bootstrap.servers": cluster.bootstrap})
    cluster.brokers[0].kill()
    cluster.brokers[0].start()             # same port, same log
"""

import base64
import secrets
import shutil
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from flows.connectors.kafka import broker as local
from tests.brokers.certificates import Certificates

USER, PASSWORD = "tidegate", "a-password-for-tests"
SASL, SSL, SASL_SSL = "SASL_PLAINTEXT", "SSL", "SASL_SSL"
LISTENERS = (local.PLAINTEXT, local.CONTROLLER, SASL, SSL, SASL_SSL)
SCRAM = ("--add-scram", f"SCRAM-SHA-256=[name={USER},password={PASSWORD}]")


def missing() -> str | None:
    """Why no broker can be started here, or None."""
    return local.missing((*local.PROGRAMS, "openssl"))


class Broker(local.Broker):
    """A broker that can also be paused and made to forget."""

    def __init__(self, node: int, folder: Path, memory_mb: int) -> None:
        super().__init__(folder, node, memory_mb=memory_mb, listeners=LISTENERS, format_options=SCRAM)

    def format_like(self, other: local.Broker) -> None:
        """Prepare an empty folder as a copy of another's, which saves the start of a virtual machine."""
        if self.log_dir.exists():
            return
        shutil.copytree(other.log_dir, self.log_dir)
        meta = self.log_dir / "meta.properties"
        own = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
        lines = [line for line in meta.read_text().splitlines() if not line.startswith(("node.id", "directory.id"))]
        meta.write_text("\n".join([*lines, f"node.id={self.node}", f"directory.id={own}"]) + "\n")

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Forget all messages, topics and offsets of a broker that is stopped."""
        assert self.process is None, "stop it first"
        shutil.rmtree(self.log_dir)


def add_listener(settings: dict[str, str], name: str, listens: str, advertised: str) -> None:
    """A listener more, without TLS; both addresses as host:port."""
    settings["listeners"] += f",{name}://{listens}"
    settings["advertised.listeners"] += f",{name}://{advertised}"
    settings["listener.security.protocol.map"] += f",{name}:PLAINTEXT"


class Cluster:
    """Brokers that are all controllers too. As a context it is up on entry and gone on exit.

    certificates: with them there are TLS (`tls`) and SASL over TLS (`sasl_tls`) listeners too; SASL without TLS
    (`sasl`) always. Mechanisms PLAIN and SCRAM-SHA-256, user USER, password PASSWORD. settings: more of the brokers'.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 1,
        certificates: Certificates | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.certificates = certificates
        self.brokers = [
            Broker(node, folder / f"broker-{node}", 512 if nodes == 1 else 320) for node in range(1, nodes + 1)
        ]
        for broker in self.brokers:
            broker.configure(self.brokers, self._settings(broker) | dict(settings or {}))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def bootstrap(self) -> str:
        """host:port,... of all brokers, without TLS."""
        return self._addresses(local.PLAINTEXT)

    @property
    def tls(self) -> str:
        """host:port,... with TLS, no user."""
        return self._addresses(SSL)

    @property
    def sasl(self) -> str:
        """host:port,... with a user, without TLS."""
        return self._addresses(SASL)

    @property
    def sasl_tls(self) -> str:
        """host:port,... with a user, over TLS."""
        return self._addresses(SASL_SSL)

    @property
    def admin(self) -> AdminClient:
        """A new administration client."""
        return local.admin_of(self.bootstrap)

    def start(self) -> None:
        """Start every broker and wait until the cluster answers."""
        first, *others = self.brokers
        first.format()
        for broker in others:
            broker.format_like(first)
        for broker in self.brokers:
            broker.start()
        self.wait()

    def wait(self) -> None:
        """Wait until as many brokers as run are known to the cluster."""
        local.await_brokers(self.brokers)

    def stop(self) -> None:
        """Stop every broker in good order."""
        for broker in self.brokers:
            broker.stop()

    def kill(self) -> None:
        """Kill every broker."""
        for broker in self.brokers:
            broker.kill()

    def create(self, topic: str, partitions: int = 1, replicas: int = 1, **config: str) -> str:
        """Make a topic and wait for its leaders; gives its name. config: as `retention_ms="1000"`."""
        renamed = {key.replace("_", "."): value for key, value in config.items()}
        return local.make_topic(self.bootstrap, topic, partitions, replicas, renamed)

    def grow(self, topic: str, partitions: int) -> None:
        """More partitions for a topic, `partitions` in all."""
        admin = self.admin
        admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(30)
        local.await_leaders(admin, topic, partitions)

    def leader(self, topic: str, partition: int = 0) -> Broker:
        """The broker that leads a partition."""
        admin = self.admin
        node = admin.list_topics(topic, timeout=10).topics[topic].partitions[partition].leader
        return next(broker for broker in self.brokers if broker.node == node)

    def delete(self, topic: str) -> None:
        """Delete a topic."""
        admin = self.admin
        admin.delete_topics([topic])[topic].result(30)

    def expire(self, topic: str, before: int, partition: int = 0) -> None:
        """Let the messages before an offset go, as retention does."""
        admin, at = self.admin, TopicPartition(topic, partition, before)
        admin.delete_records([at])[at].result(30)

    def produce(
        self,
        topic: str,
        values: Iterable[bytes | None],
        partition: int = 0,
        headers: list[tuple[str, str | bytes | None]] | None = None,
    ) -> None:
        """Send messages to one partition in this order, and wait until they are there."""
        properties = {"linger.ms": 5, "message.max.bytes": 10_000_000, "log_level": 0}
        producer = Producer({"bootstrap.servers": self.bootstrap, **properties})
        for value in values:
            while True:
                try:
                    producer.produce(topic, value, partition=partition, headers=headers or [])
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(60) == 0, "messages were not acknowledged within 60 s"

    def _addresses(self, listener: str) -> str:
        return ",".join(f"127.0.0.1:{broker.ports[listener]}" for broker in self.brokers)

    def _settings(self, broker: Broker) -> dict[str, str]:
        settings = {
            **broker.listeners(LISTENERS if self.certificates else LISTENERS[:3]),
            "log.retention.check.interval.ms": "1000",
            "log.initial.task.delay.ms": "500",
            "log.segment.delete.delay.ms": "100",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
        }
        modules = "org.apache.kafka.common.security"
        for name in ("sasl_plaintext", "sasl_ssl"):
            login = f'{modules}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
            settings[f"listener.name.{name}.plain.sasl.jaas.config"] = login
            settings[f"listener.name.{name}.scram-sha-256.sasl.jaas.config"] = (
                f"{modules}.scram.ScramLoginModule required;"
            )
        if self.certificates:
            settings |= {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(self.certificates.key_and_cert),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.certificates.ca),
            }
        return settings
