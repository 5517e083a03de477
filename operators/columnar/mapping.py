"""Mapping files (TOML): how somebody else's archive becomes rows of ours.

    [streams.vitals]
    file = "vitals.csv.gz"                  # in the source folder
    time = "key"                            # event time runs per key ("partition": through the whole file)
    columns = { ts = "time", key = "subject_id", name = "name", value = "value", unit = "unit" }
    clock = { format = "%Y-%m-%d %H:%M:%S", zone = "UTC" }
    [streams.vitals.names]                  # source name -> our field
    temp_f = { field = "temp", unit = "degF" }      # unit: of rows that give none
    FiO2 = { field = "fio2", scale = 100 }          # scale: factor on the value
    [streams.vitals.checked]                # not used by the flow, but checked, so that no name is lost silently
    alarm_hr_high = { ge = 10, le = 300, unit = "/min" }

A name in neither table is rejected as unknown. Every table but `file` may be left out: the defaults are our own names.
"""

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from schemas.errors import UsageError

ELAPSED = "elapsed HH:MM"
FIRST_US = 631_152_000_000_000  # 1990-01-01
END_US = 7_258_118_400_000_000  # 2200-01-01, exclusive


def _instant_us(value: str) -> int:
    """An ISO 8601 instant or date, UTC where it names no zone, in microseconds. Errors: ValueError."""
    moment = datetime.fromisoformat(value)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1_000_000


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Columns(_Strict):
    """What the source calls the columns of a row; None: our own name (`key`: the stream's)."""

    ts: str = "ts"
    key: str | None = None
    name: str = "name"
    value: str = "value"
    unit: str = "unit"


class Clock(_Strict):
    """How `ts` is written.

    format: None (RFC 3339 or an integer), a strptime pattern, or `elapsed HH:MM` since `epoch`.
    zone: IANA name for times that carry none; a local time that a clock change skips or repeats is rejected.
    since, before: instants that are believed, half-open; archives with shifted dates need their own.
    """

    format: str | None = None
    zone: str | None = None
    epoch: str | None = None
    since: str | None = None
    before: str | None = None

    @field_validator("zone")
    @classmethod
    def _zone_exists(cls, zone: str | None) -> str | None:
        try:
            return zone and ZoneInfo(zone).key
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{zone!r} is not a time zone; write one like 'Europe/Berlin' or 'UTC'") from error

    @field_validator("epoch", "since", "before")
    @classmethod
    def _is_instant(cls, value: str | None) -> str | None:
        if value is not None:
            _instant_us(value)
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.format == ELAPSED) != (self.epoch is not None):
            raise ValueError(f"`epoch` and the format '{ELAPSED}' belong together")
        if self.format not in (None, ELAPSED) and self.zone is None and "%z" not in str(self.format):
            raise ValueError("a format without %z needs a `zone`")
        return self

    @property
    def epoch_us(self) -> int:
        """Start of elapsed time."""
        return _instant_us(self.epoch) if self.epoch else 0

    @property
    def bounds_us(self) -> tuple[int, int]:
        """Believed instants, half-open."""
        return (
            _instant_us(self.since) if self.since else FIRST_US,
            _instant_us(self.before) if self.before else END_US,
        )


class Name(_Strict):
    """A source name that becomes a field. unit: of rows that give none. scale: factor on the value, before its unit."""

    field: str
    unit: str | None = None
    scale: float = Field(1.0, gt=0)


class Checked(_Strict):
    """A source name that makes no measure, with the inclusive range in which its value is plausible."""

    ge: float
    le: float
    unit: str | None = None


class Layout(_Strict):
    """One stream of a mapping. names, checked: None where rows use our own names."""

    file: str
    time: Literal["partition", "key"] = "partition"
    columns: Columns = Columns()
    clock: Clock = Clock()
    names: dict[str, Name] | None = None
    checked: dict[str, Checked] = {}

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        both = sorted(set(self.names or ()) & set(self.checked))
        if both:
            raise ValueError(f"{', '.join(both)} is in both `names` and `checked`: choose one")
        return self


class Mapping(_Strict):
    """A mapping file as read. streams: stream name -> layout."""

    title: str = ""
    streams: dict[str, Layout] = Field(min_length=1)

    @classmethod
    def load(cls, name: str, shipped: Path) -> "Mapping":
        """Read the TOML file `name`, or the mapping of that name in the folder `shipped`.

        Errors: UsageError that names the file and the entry.
        """
        path = Path(name) if name.endswith(".toml") else shipped / f"{name}.toml"
        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            known = ", ".join(sorted(found.stem for found in shipped.glob("*.toml")))
            raise UsageError(f"no mapping {name}: give the path of a .toml file, or one of: {known}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"the mapping file {path} is not TOML ({error}): mend that line") from error
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise UsageError(
                f"{where} in the mapping file {path}: {first['msg'].removeprefix('Value error, ')}"
            ) from error
