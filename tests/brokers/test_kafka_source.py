"""The Kafka source against real brokers."""

import io
import time
from typing import Any

import orjson
import polars as pl
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from flows.connectors.kafka.sending import Sending
from schemas.errors import SourceLost, UsageError
from tests.brokers.certificates import Certificates
from tests.brokers.kafka import PASSWORD, USER, Cluster
from tests.brokers.reading import START_US, Reading, vital

FAST = {"kafka_watch_s": 0.3}


def address(kafka: Cluster, topic: str, more: str = "") -> str:
    return f"kafka://{kafka.bootstrap}?vitals={topic}{more}"


def read(kafka: Cluster, topic: str, more: str = "", **options: Any) -> Reading:
    return Reading(address(kafka, topic, more), until_end=True, **options)


def in_transactions(kafka: Cluster, name: str) -> Producer:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": name, "log_level": 0})
    producer.init_transactions(30)
    return producer


def test_until_end_stops_at_the_offsets_found_at_the_start(kafka: Cluster, topic: str) -> None:
    kafka.create(topic, 2)
    kafka.produce(topic, [vital(second) for second in range(500)], partition=0)
    with read(kafka, topic) as reading:
        kafka.produce(topic, [vital(second) for second in range(500, 600)], partition=0)
        reading.to_end()
        assert reading.rows()["offset"].to_list() == list(range(500))
        assert reading.batches["vitals/0"][-1].finished
        assert [batch.finished for batch in reading.batches["vitals/1"]] == [True]
        assert {batch.now_us for batch in reading.batches["vitals/0"]} == {None}


def test_bad_messages_and_tombstones_cost_themselves_and_are_named_by_offset(kafka: Cluster, topic: str) -> None:
    kafka.create(topic)
    long = vital(3, patient="p" * 70_000)
    pretty = orjson.dumps(orjson.loads(vital(5)), option=orjson.OPT_INDENT_2)
    kafka.produce(topic, [vital(0), None, b"{nonsense", long, vital(4), pretty, b"", vital(7)])
    with read(kafka, topic) as reading:
        reading.to_end()
        assert reading.rows()["offset"].to_list() == [0, 4, 5, 7]
        found = {offset: (reason, raw) for offset, reason, _, raw in reading.rejects()}
        assert found == {
            1: ("missing_field", b""),
            2: ("not_json", b"{nonsense"),
            3: ("too_long", long),
            6: ("not_json", b""),
        }
        assert reading.tally.rows["used"] == 4
        assert reading.tally.rows["rejected"] == 4


def test_the_headers_of_a_refused_message_are_kept(kafka: Cluster, topic: str) -> None:
    """Of one that is refused at once, and of one that was held until others spoke against its clock."""
    kafka.create(topic)
    trace = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    with Sending(kafka.bootstrap) as sending:
        sending.send(topic, vital(0), headers=[("site", b"north")])
        sending.send(topic, b"{nonsense", headers=[trace, ("site", b"\xff"), ("site", None)])
        sending.send(topic, vital(100_000), headers=[("site", b"tomorrow")])
        for second in range(1, 5):
            sending.send(topic, vital(second))
    with read(kafka, topic, settings={"batch_rows_max": 1, "future_lookahead_rows": 2}) as reading:
        reading.to_end()
        beside = {
            offset: orjson.loads(told) for batch in reading.batches["vitals/0"] for offset, told in batch.beside.items()
        }
    assert beside == {
        1: {"headers": [[trace[0], trace[1].decode()], ["site", {"hex": "ff"}], ["site", None]]},
        2: {"headers": [["site", "tomorrow"]]},
    }


def test_a_resumed_partition_goes_on_after_its_last_row_whatever_was_committed(kafka: Cluster, topic: str) -> None:
    kafka.create(topic)
    kafka.produce(topic, [vital(second) for second in range(100)])
    with Reading(address(kafka, topic), settings=FAST | {"batch_rows_max": 40}) as first:
        first.until(lambda: first.count() >= 40)
        states, seen = first.states(), first.rows()["offset"].to_list()
        first.to_end() if first.stop.set() else None
    kafka.produce(topic, [vital(second) for second in range(100, 120)])
    with Reading(address(kafka, topic), states, settings=FAST) as second:
        second.until(lambda: seen[-1] + second.count() >= 119)
        assert seen + second.rows()["offset"].to_list() == list(range(120))


def test_offsets_are_committed_to_be_looked_at(kafka: Cluster, topic: str) -> None:
    kafka.create(topic)
    kafka.produce(topic, [vital(second) for second in range(30)])
    with read(kafka, topic, settings={"kafka_group": f"group-{topic}"}) as reading:
        reading.to_end()
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": f"group-{topic}"})
    (committed,) = consumer.committed([TopicPartition(topic, 0)], timeout=10)
    consumer.close()
    assert committed.offset == 30


def test_aborted_and_compacted_ends_are_ends_all_the_same(kafka: Cluster, topic: str) -> None:
    kafka.create(topic)
    kafka.produce(topic, [vital(second) for second in range(10)])
    producer = in_transactions(kafka, topic)
    producer.begin_transaction()
    producer.produce(topic, vital(99, patient="aborted"))
    producer.flush(30)
    producer.abort_transaction(30)
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "ends"})
    while consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1] < 12:
        time.sleep(0.05)
    consumer.close()
    with read(kafka, topic) as reading:
        reading.to_end()
        assert reading.count() == 10
        assert reading.states()["vitals/0"][1] == 12  # the aborted one and its mark


def test_an_offset_with_gaps_names_its_own_row(kafka: Cluster, topic: str) -> None:
    kafka.create(topic)
    producer = in_transactions(kafka, topic)
    for second in range(3):
        producer.begin_transaction()
        producer.produce(topic, vital(second) if second != 1 else b"bad")
        producer.commit_transaction(30)
    with read(kafka, topic) as reading:
        reading.to_end()
        assert reading.rows()["offset"].to_list() == [0, 4]
        assert [(offset, raw) for offset, _, _, raw in reading.rejects()] == [(2, b"bad")]


def test_arrow_tables_are_rows_named_by_message_and_place(kafka: Cluster, topic: str) -> None:
    def table(seconds: range, **more: Any) -> bytes:
        body = io.BytesIO()
        rows = [orjson.loads(vital(second)) | more for second in seconds]
        pl.DataFrame(rows).write_ipc_stream(body)
        return body.getvalue()

    kafka.create(topic)
    file = io.BytesIO()
    pl.DataFrame([orjson.loads(vital(6))]).write_ipc(file)
    kafka.produce(
        topic,
        [table(range(3)), b"no arrow", None, table(range(3, 6), bed="b1"), file.getvalue(), table(range(7, 8), hr=900)],
    )
    with read(kafka, topic, "&format=arrow") as reading:
        reading.to_end()
        places = [(offset >> 20, offset % 2**20) for offset in reading.rows()["offset"].to_list()]
        assert places == [(0, 0), (0, 1), (0, 2), (3, 0), (3, 1), (3, 2), (4, 0)]
        refused = [(offset / 2**20, reason) for offset, reason, _, _ in reading.rejects()]
        assert sorted(refused) == [(1, "not_json"), (2, "missing_field"), (5, "out_of_range")]
        assert orjson.loads({row[0] >> 20: row[3] for row in reading.rejects()}[5])["hr"] == 900


def test_a_resume_can_stand_in_the_middle_of_a_table(kafka: Cluster, topic: str) -> None:
    body = io.BytesIO()
    pl.DataFrame([orjson.loads(vital(second)) for second in range(10)]).write_ipc_stream(body)
    kafka.create(topic)
    kafka.produce(topic, [body.getvalue(), body.getvalue()])
    with read(kafka, topic, "&format=arrow") as reading:
        version, _, intake, end, topic_id, _ = reading.states()["vitals/0"]
    state = {"vitals/0": (version, 7, intake, end, topic_id, False)}
    with read(kafka, topic, "&format=arrow", states=state) as reading:
        reading.to_end()
        assert reading.rows()["offset"].to_list()[:4] == [7, 8, 9, 2**20]
        assert reading.tally.rows["duplicate"] == 3


def test_bounded_context_comes_whole_and_in_event_time(kafka: Cluster, topic: str) -> None:
    notes = f"{topic}.notes"
    kafka.create(topic)
    kafka.create(notes)
    kafka.produce(topic, [vital(0)])
    times = [START_US // 1000 + after for after in (3000, 1000, 2000)]
    kafka.produce(notes, [orjson.dumps({"ts": ts, "patient": "p1", "note": "n"}) for ts in times])
    with read(kafka, topic, f"&notes={notes}", settings={"batch_rows_max": 2}) as reading:
        reading.to_end()
        (batch,) = reading.batches["notes/0"]
        assert batch.rows["event_us"].to_list() == [1000 * at for at in sorted(times)]
        assert batch.finished


def test_links_are_of_sampled_messages_only_and_few(kafka: Cluster, topic: str) -> None:
    kafka.create(topic)
    for second in range(40):
        flags = "01" if second % 2 else "00"
        parent = f"00-{second + 1:032x}-{second + 1:016x}-{flags}"
        kafka.produce(topic, [vital(second)], headers=[("other", b"x"), ("traceparent", parent)])
    with read(kafka, topic, traced=True) as reading:
        reading.to_end()
        links = [link for batch in reading.batches["vitals/0"] for link in batch.links]
        rows = [row for batch in reading.batches["vitals/0"] for row in batch.link_offsets]
        assert len(reading.batches["vitals/0"]) > 1 or len(links) == 16
        assert {link[-2:] for link in links} == {"01"}
        assert [int(link[3:35], 16) - 1 for link in links] == rows
    with read(kafka, topic) as reading:
        reading.to_end()
        assert not any(batch.links for batch in reading.batches["vitals/0"])


def secured(certificates: Certificates, protocol: str, mechanism: str, password: str = PASSWORD) -> dict[str, str]:
    found = {"security.protocol": protocol}
    if "SSL" in protocol:
        found["ssl.ca.location"] = str(certificates.ca)
    if "SASL" in protocol:
        found |= {"sasl.mechanism": mechanism, "sasl.username": USER, "sasl.password": password}
    return found


@pytest.mark.parametrize(
    ("listener", "protocol", "mechanism"),
    [
        ("tls", "SSL", ""),
        ("sasl", "SASL_PLAINTEXT", "PLAIN"),
        ("sasl_tls", "SASL_SSL", "PLAIN"),
        ("sasl_tls", "SASL_SSL", "SCRAM-SHA-256"),
    ],
)
def test_tls_and_sasl_properties_reach_the_client_untouched(
    kafka: Cluster, topic: str, certificates: Certificates, listener: str, protocol: str, mechanism: str, tmp_path: Any
) -> None:
    kafka.create(topic)
    kafka.produce(topic, [vital(second) for second in range(3)])
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    properties = secured(certificates, protocol, mechanism, f"file:{tmp_path}/password")
    source = f"kafka://{getattr(kafka, listener)}?vitals={topic}"
    with Reading(source, until_end=True, settings={"kafka": properties}) as reading:
        reading.to_end()
        assert reading.count() == 3


def test_what_is_wrong_at_the_start_is_said_in_plain_words(
    kafka: Cluster, topic: str, certificates: Certificates
) -> None:
    kafka.create(topic)
    soon = {"kafka_start_s": 2}
    cases: list[tuple[str, dict[str, Any], str]] = [
        (f"kafka://{kafka.bootstrap}?vitals=no.such", soon, "has no topic no.such"),
        (f"kafka://{kafka.bootstrap}?beds=x", soon, "beds, which this flow does not know"),
        (f"kafka://{kafka.bootstrap}?vitals={topic}&format=xml", soon, "format xml is none of"),
        (f"kafka://{kafka.bootstrap}?vitals={topic}&format=avro", soon, "set kafka_registry"),
        (f"kafka://{kafka.bootstrap}?vitals={topic}", soon | {"kafka": {"no.such": "1"}}, "no.such"),
        (f"kafka://{kafka.bootstrap}?vitals={topic}", soon | {"kafka": {"group.id": "1"}}, "Tidegate sets this"),
        (
            f"kafka://{kafka.sasl}?vitals={topic}",
            soon | {"kafka": secured(certificates, "SASL_PLAINTEXT", "PLAIN", "wrong")},
            "refuses the user or the password",
        ),
        (
            f"kafka://{kafka.tls}?vitals={topic}",
            soon | {"kafka": {"security.protocol": "SSL", "ssl.ca.location": str(certificates.other_ca)}},
            "no TLS connection",
        ),
    ]
    for source, settings, words in cases:
        with pytest.raises(UsageError) as refusal:
            Reading(source, settings=settings)
        assert words in str(refusal.value), str(refusal.value)


def test_a_partition_that_has_nothing_is_connected_and_keeps_no_run_from_being_ready(
    kafka: Cluster, topic: str
) -> None:
    kafka.create(topic, 2)
    kafka.produce(topic, [vital(0)], partition=0)
    with Reading(address(kafka, topic)) as reading:
        assert set(reading.status.snapshot().marks) == {"vitals/0"}  # it has something to read, and is waited for
        reading.until(lambda: reading.count() == 1 and len(reading.batches["vitals/1"]) > 0)
        assert set(reading.status.snapshot().marks) == {"vitals/0"}
        kafka.produce(topic, [vital(1)], partition=1)
        reading.until(lambda: reading.count("vitals/1") == 1)
        assert set(reading.status.snapshot().marks) == {"vitals/0", "vitals/1"}


def test_new_partitions_end_the_flow_where_it_can_be_started_again(kafka: Cluster, topic: str) -> None:
    kafka.create(topic)
    kafka.produce(topic, [vital(0)])
    with Reading(address(kafka, topic), settings=FAST) as reading:
        reading.until(lambda: reading.count() == 1)
        kafka.grow(topic, 3)
        kafka.produce(topic, [vital(1)], partition=2)
        reading.to_end()
        assert "vitals/1, vitals/2" in (reading.opened.changed() or "")
        assert not any(batch.finished for batch in reading.batches["vitals/0"])
        states = reading.states()
    with Reading(address(kafka, topic), states, settings=FAST) as reading:
        reading.until(lambda: reading.count("vitals/2") == 1)
        assert reading.count("vitals/0") == 0
    with Reading(address(kafka, topic), settings=FAST, resumable=False) as reading:
        kafka.grow(topic, 4)
        reading.until(lambda: reading.count("vitals/2") == 1)
        time.sleep(1)
        reading.step()
        assert reading.opened.changed() is None


def test_a_topic_that_vanishes_is_lost_and_said_so(kafka: Cluster, topic: str) -> None:
    kafka.create(topic)
    kafka.produce(topic, [vital(0)])
    with Reading(address(kafka, topic), settings=FAST) as reading:
        reading.until(lambda: reading.count() == 1)
        kafka.delete(topic)
        with pytest.raises(SourceLost, match="was deleted while it was read"):
            reading.until(lambda: False)
        assert not reading.connected()


def test_a_log_that_was_wiped_is_refused_on_resume_and_while_running(kafka: Cluster, topic: str) -> None:
    kafka.create(topic)
    kafka.produce(topic, [vital(second) for second in range(5)])
    with Reading(address(kafka, topic), settings=FAST) as reading:
        reading.until(lambda: reading.count() == 5)
        states = reading.states()
        kafka.delete(topic)
        time.sleep(0.3)
        kafka.create(topic)
        kafka.produce(topic, [vital(second) for second in range(50)])
        with pytest.raises(SourceLost, match=r"made anew|wiped|deleted"):
            reading.until(lambda: False)
    with pytest.raises(UsageError, match="not the one that the recovery folder is of"):
        Reading(address(kafka, topic), states)


def test_what_expired_unread_is_refused_and_never_jumped_over(kafka: Cluster, topic: str) -> None:
    kafka.create(topic)
    kafka.produce(topic, [vital(second) for second in range(20)])
    with Reading(address(kafka, topic), settings={"batch_rows_max": 5}) as reading:
        reading.until(lambda: reading.count() >= 5)
        states = reading.states()
    kafka.expire(topic, 15)
    with pytest.raises(UsageError, match=r"goes on at offset 5, and the topic .* has 15 to 20"):
        Reading(address(kafka, topic), states)


def test_a_new_reader_begins_with_the_oldest_message_there_is(kafka: Cluster, topic: str) -> None:
    kafka.create(topic)
    kafka.produce(topic, [vital(second) for second in range(20)])
    kafka.expire(topic, 15)
    with read(kafka, topic) as reading:
        assert reading.to_end().rows()["offset"].to_list() == [15, 16, 17, 18, 19]
