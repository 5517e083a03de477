"""Avro in the Confluent wire format, with a registry of our own over HTTP."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import fastavro
import orjson
import pytest

from flows.connectors.kafka import registry
from tests.brokers.kafka import Cluster
from tests.brokers.reading import START_US, Reading

BED = {"type": "record", "name": "Bed", "fields": [{"name": "bed", "type": "string"}]}
VITAL = {
    "type": "record",
    "name": "Vital",
    "fields": [
        {"name": "ts", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "patient", "type": "string"},
        {"name": "hr", "type": ["null", "float"], "default": None},
        {"name": "temp", "type": {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 1}},
    ],
}
WITH_BED = {"type": "record", "name": "InBed", "fields": [*VITAL["fields"][:3], {"name": "place", "type": "Bed"}]}


class Registry(ThreadingHTTPServer):
    """Answers as a schema registry does. answers: path -> what it says; asked: paths; credentials: of the last one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.credentials = ""
        self.broken = False
        self.answers: dict[str, Any] = {
            "/schemas/ids/1": {"schema": json.dumps(VITAL)},
            "/schemas/ids/2": {
                "schema": json.dumps(WITH_BED),
                "references": [{"name": "Bed", "subject": "bed-value", "version": 3}],
            },
            "/subjects/bed-value/versions/3": {"schema": json.dumps(BED)},
            "/schemas/ids/3": {"schema": "{}", "schemaType": "PROTOBUF"},
        }

    @property
    def url(self) -> str:
        return f"http://user:secret@127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version: ClassVar[str] = "HTTP/1.0"
    server: Registry

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.credentials = self.headers.get("Authorization", "")
        answer = self.server.answers.get(self.path)
        self.send_response(503 if self.server.broken else 200 if answer else 404)
        self.end_headers()
        self.wfile.write(orjson.dumps(answer or {"error_code": 40403}))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def schemas() -> Iterator[Registry]:
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def encoded(number: int, schema: Any, record: dict[str, Any], named: dict[str, Any] | None = None) -> bytes:
    body = io.BytesIO(b"\0" + number.to_bytes(4, "big"))
    body.seek(5)
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema, named_schemas=named or {}), record)
    return body.getvalue()


def vital(second: int, **more: Any) -> bytes:
    record = {"ts": START_US // 1000 + second * 1000, "patient": "p1", "hr": 80.0, "temp": _tenths(36.5)} | more
    return encoded(1, VITAL, record)


def _tenths(value: float) -> Any:
    return Decimal(str(value))


def avro(kafka: Cluster, topic: str, schemas: Registry) -> Reading:
    source = f"kafka://{kafka.bootstrap}?vitals={topic}&format=avro"
    return Reading(source, until_end=True, settings={"kafka_registry": schemas.url})


def test_records_are_read_by_the_schema_that_their_id_names(kafka: Cluster, topic: str, schemas: Registry) -> None:
    kafka.create(topic)
    named: dict[str, Any] = {}
    fastavro.parse_schema(BED, named_schemas=named)
    in_bed = {"ts": START_US // 1000, "patient": "p2", "hr": 70.0, "place": {"bed": "b"}}
    kafka.produce(topic, [vital(0), vital(1, hr=None), encoded(2, WITH_BED, in_bed, named)])
    with avro(kafka, topic, schemas) as reading:
        reading.to_end()
        assert reading.rows()["hr"].to_list() == [80.0, None, 70.0]
        assert reading.rows()["temp"].to_list() == [36.5, 36.5, None]
        assert reading.rows()["event_us"].to_list() == [START_US, START_US + 1_000_000, START_US]
        assert reading.rows()["offset"].to_list() == [0, 1, 2]
    assert sorted(schemas.asked) == sorted({*schemas.asked})  # each is asked for once
    assert base64.b64decode(schemas.credentials.removeprefix("Basic ")) == b"user:secret"


def test_what_is_no_record_of_a_known_schema_costs_itself(kafka: Cluster, topic: str, schemas: Registry) -> None:
    kafka.create(topic)
    bad = [
        b"{}",
        b"\0\0\0",
        vital(0)[:-3],
        vital(0) + b"x",
        encoded(9, VITAL, {**_record(), "hr": 1.0}),
        b"\0\0\0\0\3x",
    ]
    kafka.produce(topic, [*bad, None, vital(1, hr=900.0), vital(2)])
    with avro(kafka, topic, schemas) as reading:
        reading.to_end()
        assert reading.rows()["offset"].to_list() == [8]
        refused = {offset: (reason, raw) for offset, reason, _, raw in reading.rejects()}
        assert refused == {
            **{offset: ("not_json", raw) for offset, raw in enumerate(bad)},
            6: ("missing_field", b""),
            7: ("out_of_range", refused[7][1]),
        }
        assert orjson.loads(refused[7][1])["hr"] == 900


def _record() -> dict[str, Any]:
    return {"ts": START_US // 1000, "patient": "p1", "hr": 80.0, "temp": _tenths(36.5)}


def test_a_registry_that_does_not_answer_is_waited_for(
    kafka: Cluster, topic: str, schemas: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "RETRY_S", 0.2)
    kafka.create(topic)
    kafka.produce(topic, [vital(second) for second in range(3)])
    schemas.broken = True
    with avro(kafka, topic, schemas) as reading:
        reading.until(lambda: "vitals/0" in reading.status.snapshot().sources)
        assert not reading.connected("vitals/0")
        assert reading.states()["vitals/0"][1] == 0
        schemas.broken = False
        reading.to_end()
        assert reading.count() == 3
        assert reading.connected("vitals/0")
