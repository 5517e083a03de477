import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from flows.connectors.outlets import Item, OutletDown, outlet
from flows.connectors.outlets.follower import Follower
from flows.connectors.outlets.kafka import KafkaOutlet
from flows.connectors.sqlite import Batch, SqliteStore
from flows.store import decisions
from flows.store.outbox import outlets, token
from schemas.settings import Settings
from tests.brokers.kafka import PASSWORD, USER, Cluster
from tests.unit.outlet_fakes import Heard, filled, follow, until
from tests.unit.sealed import Chains

ROOT = Path(__file__).resolve().parents[2]
QUICK = Settings(outlet_retry_s=0.1, outlet_retry_max_s=0.5, outlet_batch_rows=4, outlet_timeout_s=10)
BIG = "x" * 3000
ONCE = "&transactional=true"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.db"


def to(cluster: Cluster, store: Path, topics: str, settings: Settings = QUICK) -> KafkaOutlet:
    made = outlet(f"kafka://{cluster.bootstrap}?{topics}", settings, token(store))
    assert isinstance(made, KafkaOutlet)
    return made


def read(cluster: Cluster, topic: str, committed: bool = True) -> list[Message]:
    """All that is in the only partition of a topic, as a consumer sees it."""
    isolation = "read_committed" if committed else "read_uncommitted"
    options = {"bootstrap.servers": cluster.bootstrap, "group.id": "test", "isolation.level": isolation}
    consumer = Consumer({**options, "auto.offset.reset": "earliest", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[Message] = []
    try:
        while True:
            message = consumer.poll(10)
            assert message is not None, "the topic did not come to its end"
            if message.error() is not None:
                assert message.error().code() == -191, message.error()  # the end of the partition
                return found
            found.append(message)
    finally:
        consumer.close()


def bodies(messages: list[Message]) -> list[dict[str, object]]:
    return [orjson.loads(message.value() or b"") for message in messages]


@pytest.mark.parametrize("transactional", ["", ONCE])
def test_decisions_and_dead_letters_get_to_their_topics_in_order(
    kafka: Cluster, path: Path, topic: str, transactional: str
) -> None:
    letters = kafka.create(f"{topic}.letters")
    kafka.create(topic)
    filled(path, 9, letters=3)
    _, heard = follow(to(kafka, path, f"decisions={topic}&dead_letters={letters}{transactional}"), path, QUICK, 30)
    sent = read(kafka, topic)
    assert bodies(sent) == list(decisions(path))
    assert [message.key() for message in sent] == [record["id"].encode() for record in decisions(path)]
    assert [body["offset"] for body in bodies(read(kafka, letters))] == [0, 1, 2]
    assert read(kafka, letters)[0].key() == b"vitals:0:0:not_json"
    assert heard.told[-1][1:4] == (0, 12, 0)


def test_a_trace_goes_with_its_decision_and_dead_letters_stay_where_no_topic_is_named(
    kafka: Cluster, path: Path, topic: str
) -> None:
    kafka.create(topic)
    with closing(SqliteStore(path)) as store:
        chains = Chains()
        traced, plain = chains.add("a", 0), chains.add("a", 1)
        store.write(Batch([traced, plain], traces=[(traced[0].hash, "00-aa-bb-01")]), 1)
    follow(to(kafka, path, f"decisions={topic}"), path, QUICK, 30)
    assert [message.headers() for message in read(kafka, topic)] == [[("traceparent", b"00-aa-bb-01")], None]


@pytest.mark.parametrize("transactional", ["", ONCE])
def test_what_a_topic_never_takes_is_refused_alone_and_the_others_keep_their_order(
    kafka: Cluster, path: Path, topic: str, transactional: str
) -> None:
    kafka.create(topic, max_message_bytes="2500")
    properties = {"compression.type": "none"}
    with closing(SqliteStore(path)) as store:
        chains = Chains()
        store.write(Batch([chains.add("a", n, rationale=BIG if n in (2, 5) else "") for n in range(8)]), 1)
    made = to(kafka, path, f"decisions={topic}{transactional}")
    made._sending |= properties
    follow(made, path, QUICK, 30)
    read_as_told: dict[int, object] = {}
    for body in bodies(read(kafka, topic)):
        seq = body["seq"]
        assert isinstance(seq, int)
        read_as_told = {each: held for each, held in read_as_told.items() if each < seq} | {seq: body["id"]}
    assert sorted(read_as_told) == [0, 1, 3, 4, 6, 7]
    if transactional:
        assert [body["seq"] for body in bodies(read(kafka, topic))] == [0, 1, 3, 4, 6, 7]
    state = outlets(path)[0]
    assert (state.sent, state.refused, state.behind) == (6, 2, 0)


def test_a_topic_that_is_not_there_is_a_reason_to_wait_that_is_told(kafka: Cluster, path: Path, topic: str) -> None:
    filled(path, 2)
    heard = Heard()
    settings = Settings(outlet_retry_s=0.1, outlet_retry_max_s=0.2, outlet_timeout_s=2)
    follower = Follower(to(kafka, path, f"decisions={topic}", settings), path, settings, heard)
    follower.start()
    until(lambda: any("nknown topic" in told[4] for told in heard.told), 30)
    kafka.create(topic)
    until(lambda: follower.behind == 0 and heard.told[-1][2] == 2, 30)
    follower.stop()
    follower.join(10)
    assert bodies(read(kafka, topic)) == list(decisions(path))


def test_nothing_is_lost_while_the_broker_is_away(own_kafka: Cluster, path: Path) -> None:
    chains = filled(path, 3)
    settings = Settings(outlet_retry_s=0.1, outlet_retry_max_s=0.5, outlet_timeout_s=3)
    heard = {"plain": Heard(), "once": Heard()}
    followers = []
    for topic, listener in heard.items():
        own_kafka.create(topic)
        made = to(own_kafka, path, f"decisions={topic}{ONCE if topic == 'once' else ''}", settings)
        followers.append(Follower(made, path, settings, listener))
        followers[-1].start()
    with closing(SqliteStore(path)) as store:
        until(lambda: all(each.told and each.told[-1][2] == 3 for each in heard.values()), 30)
        own_kafka.brokers[0].kill()
        store.write(Batch([chains.add("p-01", minute) for minute in range(20, 25)]), 1)
        until(lambda: all(each.told[-1][4] and each.told[-1][1] == 5 for each in heard.values()), 30)
        own_kafka.brokers[0].start()
        own_kafka.wait()
        until(lambda: all(each.told[-1][1:3] == (0, 8) for each in heard.values()), 90)
    for follower in followers:
        follower.stop()
        follower.join(10)
    expected = [record["id"] for record in decisions(path)]
    assert [body["id"] for body in bodies(read(own_kafka, "once"))] == expected
    assert list(dict.fromkeys(body["id"] for body in bodies(read(own_kafka, "plain")))) == expected


KILLED = """
import os, signal, sys
from pathlib import Path
from flows.connectors.outlets import outlet
from flows.connectors.outlets.kafka import KafkaOutlet
from flows.store.outbox import Outbox, token
from tests.brokers.test_kafka_outlet import QUICK
from tests.unit.outlet_fakes import follow
store, address, when = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
batches = [0]
def die(*_):
    batches[0] += 1
    if batches[0] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
def dying(wrapped):
    def call(*arguments):
        die()
        return wrapped(*arguments)
    return call
if when == "sent, not committed":
    KafkaOutlet._commit = dying(KafkaOutlet._commit)
else:
    Outbox.move = dying(Outbox.move)
follow(outlet(address, QUICK, token(store)), store, QUICK, 60)
"""


@pytest.mark.parametrize("when", ["sent, not committed", "committed, place not kept"])
def test_a_kill_at_any_moment_of_a_transaction_sends_each_decision_exactly_once(
    kafka: Cluster, path: Path, topic: str, when: str
) -> None:
    kafka.create(topic)
    filled(path, 11)
    address = f"kafka://{kafka.bootstrap}?decisions={topic}{ONCE}"
    command = [sys.executable, "-c", KILLED, str(path), address, when]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert outlets(path)[0].behind == 7
    seen = len(read(kafka, topic, committed=False))
    assert seen == 8  # two batches are in the log, whether they count or not
    follow(to(kafka, path, f"decisions={topic}{ONCE}"), path, QUICK, 60)
    assert bodies(read(kafka, topic)) == list(decisions(path))


def test_without_transactions_a_kill_repeats_but_loses_nothing(kafka: Cluster, path: Path, topic: str) -> None:
    kafka.create(topic)
    filled(path, 11)
    address = f"kafka://{kafka.bootstrap}?decisions={topic}"
    command = [sys.executable, "-c", KILLED, str(path), address, "committed, place not kept"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    follow(to(kafka, path, f"decisions={topic}"), path, QUICK, 30)
    sequence = [body["seq"] for body in bodies(read(kafka, topic))]
    assert sequence == [*range(8), *range(4, 11)]


def test_an_earlier_process_that_still_lives_can_send_no_more(kafka: Cluster, path: Path, topic: str) -> None:
    kafka.create(topic)
    filled(path, 1)
    old, new = (to(kafka, path, f"decisions={topic}{ONCE}") for _ in range(2))
    old.send([Item(1, "decision", "a", 0, b"{}")])
    assert new.remembered()["decision"].n == 1
    with pytest.raises(OutletDown):
        old.send([Item(2, "decision", "b", 0, b"{}")])
    new.send([Item(2, "decision", "c", 0, b"{}")])
    assert [message.key() for message in read(kafka, topic)] == [b"a", b"c"]
    old.close()
    new.close()


class Stuck:
    """A producer whose call for the places never comes back, as librdkafka's does not when a coordinator goes away."""

    def __init__(self, producer: Producer) -> None:
        self._producer, self.let_go = producer, threading.Event()

    def send_offsets_to_transaction(self, *arguments: object) -> None:
        self.let_go.wait()

    def __getattr__(self, name: str) -> object:
        return getattr(self._producer, name)


def test_a_producer_that_waits_for_ever_is_given_up_and_each_decision_comes_once(
    kafka: Cluster, path: Path, topic: str
) -> None:
    kafka.create(topic)
    filled(path, 3)
    settings = Settings(outlet_retry_s=0.1, outlet_timeout_s=1)
    made = to(kafka, path, f"decisions={topic}{ONCE}", settings)
    made.remembered()
    assert made._producer is not None
    made._producer = stuck = Stuck(made._producer)  # type: ignore[assignment]
    _, heard = follow(made, path, settings, 60)
    stuck.let_go.set()
    assert any("does not answer" in told[4] for told in heard.told)
    assert bodies(read(kafka, topic)) == list(decisions(path))


def test_the_settings_for_kafka_reach_the_client_with_a_password_from_a_file(
    kafka: Cluster, path: Path, topic: str, tmp_path: Path
) -> None:
    kafka.create(topic)
    filled(path, 2)
    (tmp_path / "password").write_text(PASSWORD + "\n")
    assert kafka.certificates is not None
    properties = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": USER,
        "sasl.password": f"file:{tmp_path / 'password'}",
        "ssl.ca.location": str(kafka.certificates.ca),
    }
    settings = Settings(outlet_retry_s=0.1, outlet_timeout_s=5, kafka=properties)
    made = outlet(f"kafka://{kafka.sasl_tls}?decisions={topic}{ONCE}", settings, token(path))
    follow(made, path, settings, 30)
    assert bodies(read(kafka, topic)) == list(decisions(path))
    wrong = Settings(outlet_retry_s=0.1, outlet_timeout_s=2, kafka={**properties, "sasl.password": "wrong"})
    filled(path.with_name("other.db"), 1)
    _, heard = follow(
        outlet(f"kafka://{kafka.sasl_tls}?decisions={topic}", wrong, "t"), path.with_name("other.db"), wrong, 3
    )
    assert any("refuses the user or the password" in told[4] for told in heard.told)
