"""What topics and payloads become: the rows that the codec reads."""

import json
from typing import Any

import pytest

from flows.connectors.judge import codec_of
from flows.connectors.mqtt.broker import Address
from flows.connectors.mqtt.source import LINKS_MAX, Passed, links
from flows.connectors.mqtt.spool import Message
from flows.connectors.mqtt.topics import Topics
from schemas.errors import UsageError
from schemas.settings import Settings
from schemas.ward import NOTES, VITALS

AT_US = 1_772_438_400_123_456
AT_MS = AT_US // 1000


def line(template: str, topic: str, payload: bytes, ts_unit: str = "ms") -> bytes:
    return Topics(VITALS, [template], ts_unit, 100).line(Message(AT_US, 1, topic, payload))


def row(template: str, topic: str, payload: bytes) -> Any:
    return json.loads(line(template, topic, payload))


def test_a_bare_number_gets_its_measure_patient_and_bed_from_the_topic_and_its_time_from_its_arrival() -> None:
    expected = {"ts": AT_MS, "bed": "3", "patient": "p1", "name": "hr", "value": 72}
    assert row("ward/{bed}/{patient}/hr", "ward/3/p1/hr", b"72") == expected
    assert row("ward/{bed}/{patient}/+", "ward/3/p1/hr", b" 72 ") == expected
    assert row("{name}/{bed}/{patient}/x", "hr/3/p1/x", b"72") == expected


@pytest.mark.parametrize(
    ("unit", "ts"), [("s", AT_US // 1_000_000), ("ms", AT_MS), ("us", AT_US), ("ns", AT_US * 1000)]
)
def test_the_time_of_arrival_is_written_in_the_unit_that_is_expected(unit: str, ts: int) -> None:
    assert json.loads(line("ward/{patient}/hr", "ward/p1/hr", b"72", unit))["ts"] == ts


def test_a_value_may_bring_its_own_time_and_unit() -> None:
    payload = b'{"value": 98.6, "ts": 1772438400000, "unit": "degF"}'
    assert row("ward/{patient}/{name}", "ward/p1/temp", payload) == {
        "ts": 1772438400000, "patient": "p1", "name": "temp", "value": 98.6, "unit": "degF",
    }  # fmt: skip


def test_a_whole_row_keeps_its_fields_and_the_topic_counts_more() -> None:
    payload = b'{"ts": 1, "hr": 72, "patient": "somebody else"}'
    assert row("ward/{bed}/{patient}/all", "ward/3/p1/all", payload) == {
        "ts": 1, "hr": 72, "bed": "3", "patient": "p1",
    }  # fmt: skip


def test_a_row_without_a_time_gets_none_as_nobody_knows_when_it_was() -> None:
    assert "ts" not in row("ward/{patient}/all", "ward/p1/all", b'{"hr": 72}')


def test_a_topic_without_names_leaves_the_payload_as_it_is() -> None:
    assert line("ward/#", "ward/3/p1/hr", b'{"hr" : 72 }') == b'{"hr" : 72 }'


@pytest.mark.parametrize("payload", [b'{"hr": 7', b"\xff\xfe", b"7" * 101, b"[1, 2"])
def test_what_cannot_be_read_or_is_too_long_stays_as_it_came(payload: bytes) -> None:
    assert line("ward/{patient}/hr", "ward/p1/hr", payload) == payload


@pytest.mark.parametrize(
    ("payload", "reason", "detail"),
    [
        (b"seventy", "wrong_type", "hr cannot be seventy"),
        (b"NaN", "wrong_type", "hr cannot be NaN"),
        (b"[72]", "wrong_type", "hr cannot be [72]"),
        (b"", "wrong_type", "hr cannot be "),
        (b"null", "missing_field", "hr has no value"),
        (b"700", "out_of_range", "hr 700 /min is outside 10..300"),
        (b'{"hr": 7', "not_json", ""),
        (b"7" * 101, "too_long", "101 bytes; the limit is 100"),
    ],
)
def test_a_bad_payload_costs_its_own_row_with_the_reason(payload: bytes, reason: str, detail: str) -> None:
    lines = [line("ward/{patient}/{name}", "ward/p1/hr", each) for each in (b"71", payload, b"73")]
    decoded = codec_of(VITALS, Settings(line_bytes_max=100), None).decode_lines(lines, 7)
    assert decoded.rows["hr"].to_list() == [71.0, 73.0]
    assert decoded.rejects["offset"].to_list() == [8]
    assert decoded.rejects["reason"].to_list() == [reason]
    assert detail in decoded.rejects["detail"][0]


def test_a_measure_that_is_no_number_keeps_its_type() -> None:
    lines = [
        line("ward/{patient}/{name}", "ward/p1/acvpu", b"C"),
        line("ward/{patient}/{name}", "ward/p1/acvpu", b'"C"'),
        line("ward/{patient}/{name}", "ward/p1/oxygen", b"true"),
    ]
    found = [json.loads(each)["value"] for each in lines]
    assert found == ["C", "C", True]


def test_filters_are_the_templates_with_signs_for_names() -> None:
    topics = Topics(VITALS, ["ward/{bed}/{patient}/hr", "icu/#"], "ms", 100)
    assert topics.filters == ["ward/+/+/hr", "icu/#"]
    assert json.loads(topics.line(Message(AT_US, 1, "ward/3/p1/hr", b"72")))["bed"] == "3"
    assert topics.line(Message(AT_US, 1, "icu/3/p1/hr", b"72")) == b"72"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("ward/{hr}", "hr is no text field of it: use patient, bed"),
        ("ward/{nobody}", "nobody is no text field"),
        ("ward/{bed}/{bed}", "has a name twice"),
        ("ward/#/hr", "is no topic filter"),
        ("ward/x+", "is no topic filter"),
        ("ward/{bed", "is no topic filter"),
        ("$share/group/ward", "mqtt_clients shares it"),
    ],
)
def test_a_template_that_cannot_be_is_refused(template: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Topics(VITALS, [template], "ms", 100)


def test_notes_take_their_patient_from_the_topic() -> None:
    made = Topics(NOTES, ["notes/{patient}"], "ms", 100).line(
        Message(AT_US, 1, "notes/p1", b'{"ts": 5, "note": "on oxygen"}')
    )
    assert json.loads(made) == {"ts": 5, "note": "on oxygen", "patient": "p1"}


def test_signs_of_filters_mean_themselves_in_an_address() -> None:
    address = Address.parse("mqtt://nurse%40ward@[::1]:1884?vitals=ward/+/#&vitals=icu/%7Bbed%7D&status=s")
    assert (address.user, address.host, address.port) == ("nurse@ward", "::1", 1884)
    assert address.options == {"vitals": ["ward/+/#", "icu/{bed}"], "status": ["s"]}


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("mqtt://user:secret@host?vitals=x", "must hold no password"),
        ("mqtt://host:notaport?vitals=x", "cannot be read"),
        ("mqtt://?vitals=x", "cannot be read"),
        ("mqtt://host/path?vitals=x", "cannot be read"),
        ("mqtt://host?vitals=", "vitals is empty"),
    ],
)
def test_an_address_that_cannot_be_is_refused(address: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        Address.parse(address)
    assert "secret" not in str(raised.value)


def test_the_spool_keeps_what_the_last_three_snapshots_need_and_each_for_a_while() -> None:
    now_s = 0.0
    passed = Passed(keep_s=10, clock_s=lambda: now_s)
    floors = []
    for number in range(8):
        now_s = number * 5.0
        passed.note(number * 100)
        floors.append(passed.floor())
    assert floors == [None, None, 0, 100, 200, 300, 400, 500]
    now_s += 1_000
    assert passed.floor() is None


def test_many_snapshots_in_a_short_time_are_thinned_out() -> None:
    now_s = 0.0
    passed = Passed(keep_s=16, clock_s=lambda: now_s)
    for number in range(1_000):
        now_s = number * 0.1
        passed.note(number)
        floor = passed.floor()
        assert floor is None or floor <= number - 160
    assert len(passed._marks) <= 20


def test_links_are_of_the_first_sampled_messages() -> None:
    head = "00-4bf92f3577b34da6a3ce929d0e0e4736-"
    traces = ["", *(f"{head}{number:016x}-0{number % 2}" for number in range(100))]
    found, offsets = links([Message(AT_US, 1, "t", b"1", trace) for trace in traces], 1000)
    sampled = range(1, 2 * LINKS_MAX, 2)
    assert found == tuple(f"{head}{number:016x}-01" for number in sampled)
    assert offsets == tuple(1001 + number for number in sampled)
