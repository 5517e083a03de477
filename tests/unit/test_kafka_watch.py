"""What the Kafka source concludes from the brokers' answers, and its addresses: without a broker."""

import pytest
from confluent_kafka import KafkaError, KafkaException

from flows.connectors.kafka.client import Cluster, Found, Topic, client_properties, parse_address
from flows.connectors.kafka.watch import GONE_AFTER, Watch
from flows.status import Status
from schemas.errors import SourceLost, UsageError
from schemas.settings import Settings

S = 1_000_000


class Answers(Cluster):
    """Brokers that say what the test wants; None: they do not answer."""

    def __init__(self) -> None:
        self.says: dict[str, Found | None] | None = {"t": Found("id", 2)}

    def find(self, topics: object, timeout_s: float) -> dict[str, Found | None]:
        if self.says is None:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        return self.says

    def why(self, error: KafkaException) -> str:
        return "no broker answers"


class Watched:
    def __init__(self, on_new: bool = True) -> None:
        self.at_s, self.brokers, self.status = 1000.0, Answers(), Status()
        self.watch = Watch(
            self.brokers,
            {"t": Found("id", 2)},
            {"t": "vitals"},
            self.status,
            every_s=2,
            on_new=on_new,
            clock_us=lambda: int(self.at_s * S),
        )

    def ask(self, says: Found | None, after_s: float = 2) -> None:
        self.at_s += after_s
        self.brokers.says = {"t": says}
        self.watch.ask()

    def away(self, after_s: float = 2) -> None:
        self.at_s += after_s
        self.brokers.says = None
        self.watch.ask()

    @property
    def connected(self) -> bool:
        return self.status.snapshot().sources["kafka"].connected


def test_trouble_heard_by_a_partition_stops_the_clock_before_the_brokers_are_asked() -> None:
    watched = Watched()
    watched.ask(Found("id", 2))
    watched.watch.doubt()
    before_us = watched.watch.clock_us()
    watched.at_s += 1.9
    assert watched.watch.clock_us() == before_us
    watched.ask(Found("id", 2), 0.1)
    watched.at_s += 5
    assert watched.watch.clock_us() == before_us + 5 * S


def test_the_clock_stands_still_while_a_partition_has_no_leader_though_the_brokers_answer() -> None:
    watched = Watched()
    watched.ask(Found("id", 2, [1]))
    assert not watched.connected
    before_us = watched.watch.clock_us()
    for _ in range(5):
        watched.ask(Found("id", 2, [1]))
        assert watched.watch.clock_us() == before_us
    watched.ask(Found("id", 2))
    watched.at_s += 5
    assert (watched.connected, watched.watch.clock_us()) == (True, before_us + 5 * S)


def test_an_end_is_believed_unless_the_brokers_have_another_topic_of_that_name() -> None:
    watched = Watched()
    watched.watch.confirm()
    watched.brokers.says = None
    watched.watch.confirm()  # nobody contradicts
    watched.brokers.says = {"t": Found("another", 2)}
    with pytest.raises(SourceLost, match="deleted and made anew"):
        watched.watch.confirm()


def test_the_clock_of_silence_stands_still_while_the_brokers_are_away_and_never_goes_back() -> None:
    watched = Watched()
    watched.ask(Found("id", 2))
    watched.at_s += 1
    assert watched.watch.clock_us() == 1003 * S
    watched.away()
    assert not watched.connected
    watched.at_s += 60
    assert watched.watch.clock_us() == 1003 * S
    watched.ask(Found("id", 2))
    assert watched.connected
    watched.at_s += 5
    assert watched.watch.clock_us() == 1007 * S  # 70 s, less the 65 from the last answer to the next
    assert watched.watch.answered_us == 1067 * S


def test_a_topic_is_gone_only_when_several_answers_in_a_row_lack_it() -> None:
    watched = Watched()
    for _ in range(2):
        for _ in range(GONE_AFTER - 1):
            watched.ask(None)
        watched.watch.check()
        assert not watched.connected
        watched.ask(Found("id", 2))
        assert watched.connected
    for _ in range(GONE_AFTER):
        watched.ask(None)
    with pytest.raises(SourceLost, match="the topic t was deleted"):
        watched.watch.check()


@pytest.mark.parametrize(
    ("says", "words"), [(Found("other", 2), "made anew"), (Found("id", 1), "vitals/1 .* vanished")]
)
def test_a_topic_that_is_another_or_has_fewer_partitions_is_lost(says: Found, words: str) -> None:
    watched = Watched()
    watched.ask(says)
    assert not watched.connected
    with pytest.raises(SourceLost, match=words):
        watched.watch.check()


def test_new_partitions_are_told_once_and_change_the_flow_where_it_can_be_changed() -> None:
    for on_new in (True, False):
        watched = Watched(on_new)
        watched.ask(Found("", 4))  # an answer without ids
        assert watched.watch.changed == ("the topic t has new partitions: vitals/2, vitals/3" if on_new else None)
        watched.watch.check()


def test_a_partition_without_leader_is_no_connection_and_no_loss() -> None:
    watched = Watched()
    watched.ask(Found("id", 2, [1]))
    assert watched.status.snapshot().sources["kafka"].why == "partition 1 of t has no leader"
    watched.watch.check()


def test_an_address_names_topics_and_how_their_messages_are_written() -> None:
    streams = ["vitals", "notes"]
    address = parse_address("kafka://a:1,b:2?vitals=v&notes=n&format=arrow&notes.format=json", streams)
    assert address.servers == "a:1,b:2"
    assert address.topics == (Topic("vitals", "v", "arrow"), Topic("notes", "n", "json"))
    for bad in ("kafka://a:1", "kafka:///?vitals=v", "kafka://u:p@a:1?vitals=v", "kafka://a:1?vitals=v&notes=v"):
        with pytest.raises(UsageError, match="the source kafka:"):
            parse_address(bad, streams)


def test_a_missing_secret_is_said_with_its_property() -> None:
    with pytest.raises(UsageError, match=r"\[kafka\] sasl.password: the file /no/such cannot be read"):
        client_properties("a:1", Settings(kafka={"sasl.password": "file:/no/such"}))


def test_brokers_that_do_not_answer_at_the_start_are_lost_for_now_which_is_no_wrong_usage() -> None:
    cluster = Cluster("127.0.0.1:1", Settings())
    try:
        with pytest.raises(SourceLost, match=r"^no broker answers at 127\.0\.0\.1:1 .*: check the address"):
            cluster.wait(["vitals"], 0.6)
        with pytest.raises(SourceLost, match="the end of a topic cannot be found"):
            cluster.ends({"vitals": 1}, 0.6)
    finally:
        cluster.close()


def test_a_leader_that_moves_while_the_ends_are_asked_for_is_waited_for() -> None:
    cluster, answers = Cluster("127.0.0.1:1", Settings()), iter([KafkaError._DESTROY, None])

    class Moving:
        def get_watermark_offsets(self, *asked: object, timeout: float) -> tuple[int, int]:
            failure = next(answers)
            if failure is not None:
                raise KafkaException(KafkaError(failure))
            return 2, 7

    consumer, cluster._consumer = cluster._consumer, Moving()  # type: ignore[assignment]
    assert cluster.ends({"vitals": 1}, 10) == {("vitals", 0): (2, 7)}
    consumer.close()


def test_a_user_that_the_brokers_refuse_is_wrong_usage() -> None:
    class Refusing(Cluster):
        def find(self, topics: object, timeout_s: float) -> dict[str, Found | None]:
            raise KafkaException(KafkaError(KafkaError._AUTHENTICATION))

    cluster = Refusing("127.0.0.1:1", Settings())
    try:
        with pytest.raises(UsageError, match="refuses the user or the password"):
            cluster.wait(["vitals"], 30)
    finally:
        cluster.close()
