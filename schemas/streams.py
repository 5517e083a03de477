"""What a stream is: its name, the model of its rows, its key, and what its rows do."""

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field


def measure(unit: str, ge: float, le: float) -> Any:
    """An optional number with its UCUM unit and the inclusive range in which it is believed."""
    return Field(default=None, ge=ge, le=le, json_schema_extra={"unit": unit})


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of row.

    name: also the stem of a replay file and the default topic.
    model: one definition of each field (type, unit, range, required); `ts` and the key are fields of it.
    key: the field by which rows belong together (a patient, a road section, an instrument).
    role: `events` make windows; `context` is joined to them as of event time and never makes one.
    seq: the field that numbers a device's messages, if there is one.
    """

    name: str
    model: type[BaseModel]
    key: str
    role: Literal["events", "context"]
    seq: str | None = None
