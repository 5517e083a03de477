"""A real Kafka broker in KRaft mode on free loopback ports, from the jars of Maven Central.

For one machine and a while: the demo, the benchmark and the tests run on it.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from schemas.errors import TidegateError, UsageError

VERSION = "4.1.0"
POM = Path(__file__).with_name("pom.xml")
CLUSTER_ID = "dGlkZWdhdGUtdGVzdHMtMQ"
PROGRAMS = ("java", "mvn")
UP_S = 180
FETCH_S = 600
PLAINTEXT, CONTROLLER = "PLAINTEXT", "CONTROLLER"
_RUNTIME = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=info")


def missing(programs: Sequence[str] = PROGRAMS) -> str | None:
    """Why no broker can be started here, or None."""
    lacking = [program for program in programs if shutil.which(program) is None]
    if not lacking:
        return None
    return f"no Kafka broker without {' and '.join(lacking)}: install it (Debian: default-jre-headless, maven)"


def jars() -> Path:
    """The folder of the broker's jars, fetched once (43 MB) and kept. Errors: UsageError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate" / f"kafka-{VERSION}"
    lib = cache / "lib"
    if not lib.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            command = [
                "mvn",
                "-q",
                "-B",
                "-f",
                str(POM),
                "dependency:copy-dependencies",
                f"-DoutputDirectory={aside}/lib",
            ]
            done = subprocess.run(command, capture_output=True, timeout=FETCH_S)
            if done.returncode:
                said = done.stdout.decode(errors="replace").strip().splitlines()
                why = said[0] if said else f"exit code {done.returncode}"
                raise UsageError(f"Maven did not fetch the jars of Kafka ({why}): check its way to Maven Central")
            (Path(aside) / "lib").rename(lib)
    return lib


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Broker:
    """One broker process, a controller too, with its folder. Started again, it is the same one on the same ports.

    listeners: names of its ports. format_options: more for Kafka's StorageTool.
    """

    def __init__(
        self,
        folder: Path,
        node: int = 1,
        *,
        memory_mb: int = 512,
        listeners: Sequence[str] = (PLAINTEXT, CONTROLLER),
        format_options: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.node, self.folder, self._memory_mb = node, folder, memory_mb
        self._format_options = format_options
        self.ports = {name: free_port() for name in listeners}
        self.log_dir = folder / "data"
        """The broker's own log of messages."""
        self.output = folder / "output.txt"
        self.properties = folder / "server.properties"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """host:port without TLS."""
        return f"127.0.0.1:{self.ports[PLAINTEXT]}"

    def configure(self, brokers: Sequence["Broker"], more: Mapping[str, str] | None = None) -> None:
        """Write its properties. brokers: of its cluster, itself among them; more: properties that win."""
        copies = str(min(len(brokers), 3))
        voters = [f"{other.node}@127.0.0.1:{other.ports[CONTROLLER]}" for other in brokers]
        settings = {
            "process.roles": "broker,controller",
            "node.id": str(self.node),
            "controller.quorum.voters": ",".join(voters),
            "controller.listener.names": CONTROLLER,
            "inter.broker.listener.name": PLAINTEXT,
            **self.listeners((PLAINTEXT, CONTROLLER)),
            "log.dirs": str(self.log_dir),
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": copies,
            "group.initial.rebalance.delay.ms": "0",
            "message.max.bytes": "10000000",
            **(more or {}),
        }
        self.properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def listeners(self, names: Sequence[str]) -> dict[str, str]:
        """The properties that open these of its ports."""
        places = {name: f"{name}://127.0.0.1:{self.ports[name]}" for name in names}
        protocols = [f"{name}:{PLAINTEXT if name == CONTROLLER else name}" for name in names]
        return {
            "listeners": ",".join(places.values()),
            "advertised.listeners": ",".join(place for name, place in places.items() if name != CONTROLLER),
            "listener.security.protocol.map": ",".join(protocols),
        }

    def start(self) -> None:
        """Start the process; returns at once. Errors: TidegateError."""
        assert self.process is None, "it runs already"
        self.format()
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                self._command("kafka.Kafka", str(self.properties)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end it
            )

    def format(self) -> None:
        """Prepare an empty folder. Errors: TidegateError."""
        if self.log_dir.exists():
            return
        tool = ("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(self.properties))
        done = subprocess.run(self._command(*tool, *self._format_options), capture_output=True, cwd=self.folder)
        if done.returncode:
            raise TidegateError(f"Kafka's folder cannot be prepared: {(done.stdout + done.stderr).decode()[-1000:]}")

    def stop(self) -> None:
        """SIGTERM, and wait: what it holds is on disk."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def cpu_s(self) -> float:
        """Processor time it has used, in seconds."""
        assert self.process is not None
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def _command(self, *args: str) -> list[str]:
        return ["java", f"-Xmx{self._memory_mb}m", *_RUNTIME, "-cp", f"{jars()}/*", *args]


@contextmanager
def local_broker(folder: Path) -> Iterator[Broker]:
    """One broker, up on entry and gone on exit. Errors: UsageError where Java or Maven is missing; TidegateError."""
    lacking = missing()
    if lacking:
        raise UsageError(lacking)
    broker = Broker(folder)
    broker.configure([broker])
    try:
        broker.start()
        await_brokers([broker])
        yield broker
    finally:
        broker.kill()


def admin_of(servers: str) -> AdminClient:
    """A new administration client."""
    return AdminClient({"bootstrap.servers": servers, "log_level": 0})


def await_brokers(brokers: Sequence[Broker]) -> None:
    """Wait until as many brokers as run are known to the cluster. Errors: TidegateError."""
    running = [broker for broker in brokers if broker.process is not None]
    admin, end = admin_of(",".join(broker.address for broker in brokers)), time.monotonic() + UP_S
    while time.monotonic() < end:
        for broker in running:
            if broker.process is not None and broker.process.poll() is not None:
                raise TidegateError(f"the Kafka broker ended: {_last_words(broker)}")
        try:
            if len(admin.list_topics(timeout=1).brokers) >= len(running):
                return
        except KafkaException:
            time.sleep(0.1)
    raise TidegateError(f"the Kafka broker gives no answer within {UP_S} s: {_last_words(brokers[0])}")


def _last_words(broker: Broker) -> str:
    return broker.output.read_text(errors="replace")[-3000:]


def make_topic(
    servers: str, topic: str, partitions: int = 1, replicas: int = 1, config: Mapping[str, str] | None = None
) -> str:
    """Make a topic and wait for its leaders; gives its name. Errors: KafkaException, TidegateError."""
    admin = admin_of(servers)
    new = NewTopic(topic, partitions, replicas, config=dict(config or {}))
    admin.create_topics([new])[topic].result(30)
    await_leaders(admin, topic, partitions)
    return topic


def await_leaders(admin: AdminClient, topic: str, partitions: int) -> None:
    """Wait until so many partitions have a leader. Errors: TidegateError."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        known = admin.list_topics(topic, timeout=5).topics[topic].partitions
        if len(known) == partitions and all(part.leader >= 0 for part in known.values()):
            return
        time.sleep(0.05)
    raise TidegateError(f"no leaders for the topic {topic}")
