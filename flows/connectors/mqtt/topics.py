"""Topics and payloads -> JSON lines that the codec reads.

A stream's topics are written as a filter whose levels may have names: `ward/{bed}/{patient}/hr` is `ward/+/+/hr`, and
its second and third level are the fields `bed` and `patient`. A name is a text field of the stream, or `name`: the
measure; where no level is called so the last one is it. A payload then is

    72                              a value: {"patient": "p1", "bed": "3", "name": "hr", "value": 72, "ts": of arrival}
    {"value": 72, "unit": "/min"}   the same, with its unit, or its own time as `ts`
    {"hr": 72, "ts": ...}           a row, but for what the topic says

Where no level has a name the payload alone is the row. What a topic says counts more than what its payload says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
from paho.mqtt.client import topic_matches_sub

from flows.connectors.mqtt.spool import Message
from schemas.errors import UsageError
from schemas.fields import fields_of
from schemas.streams import Stream

NAME = "name"
UNIT_US = {"s": 1_000_000, "ms": 1_000, "us": 1}
TOPICS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Template:
    """filter: as subscribed to, less what shares it. names: level, counted from 0 -> field."""

    filter: str
    names: dict[int, str]


class Topics:
    """The topics of one stream. ts_unit: of the times that stand in for missing ones. Errors: UsageError."""

    def __init__(self, stream: Stream, templates: Sequence[str], ts_unit: str, line_bytes_max: int) -> None:
        self.filters = [_template(stream, text).filter for text in templates]
        self._templates = [_template(stream, text) for text in templates]
        self._ts_unit, self._line_bytes_max = ts_unit, line_bytes_max
        self._known = lru_cache(TOPICS_MAX)(self._fields)

    def line(self, message: Message) -> bytes:
        """The row of a message, as the dead letters would keep it."""
        payload, known = message.payload, self._known(message.topic)
        if known is None or len(payload) > self._line_bytes_max:
            return payload
        fields, name = known
        try:
            value: Any = orjson.loads(payload)
        except orjson.JSONDecodeError:
            if payload.lstrip()[:1] in (b"{", b"["):
                return payload  # meant to be JSON: the codec says what is wrong with it
            try:
                value = payload.decode("utf-8")
            except UnicodeDecodeError:
                return payload
        if not isinstance(value, dict):
            value = {"value": value}
        if "value" in value:
            value = {"ts": self._ts(message.arrival_us), NAME: name, **value, **fields}
        else:
            value |= fields
        return orjson.dumps(value)

    def _ts(self, us: int) -> int:
        return us * 1_000 if self._ts_unit == "ns" else us // UNIT_US[self._ts_unit]

    def _fields(self, topic: str) -> tuple[dict[str, str], str] | None:
        """What a topic says, and the measure where its payload names none; None where its levels have no names."""
        template = next((each for each in self._templates if topic_matches_sub(each.filter, topic)), None)
        if template is None or not template.names:
            return None
        levels = topic.split("/")
        fields = {name: levels[at] for at, name in template.names.items() if at < len(levels)}
        return fields, fields.pop(NAME, levels[-1])


def _template(stream: Stream, text: str) -> Template:
    levels = text.split("/")
    where = f"the MQTT topic {text} of {stream.name}"
    texts = [name for name, spec in fields_of(stream.model).items() if spec.kind == "str" and not spec.measured]
    names: dict[int, str] = {}
    for at, level in enumerate(levels):
        if level.startswith("{") and level.endswith("}"):
            names[at], levels[at] = level[1:-1], "+"
            if names[at] not in (*texts, NAME):
                raise UsageError(f"{where}: {names[at]} is no text field of it: use {', '.join((*texts, NAME))}")
    if len(set(names.values())) < len(names):
        raise UsageError(f"{where} has a name twice: leave one out")
    wrong = [level for at, level in enumerate(levels) if _misplaced(level, last=at == len(levels) - 1)]
    if wrong or levels[0] == "$share":
        raise UsageError(
            f"{where} is no topic filter: + and # stand for whole levels, # for the last ones; mqtt_clients shares it"
        )
    return Template("/".join(levels), names)


def _misplaced(level: str, *, last: bool) -> bool:
    return any(sign in level for sign in "+#{}\0") and level != "+" and not (level == "#" and last)
