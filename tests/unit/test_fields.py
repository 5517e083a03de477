"""Fields: compiled once from the model, and checked over columns exactly as pydantic checks one row."""

from typing import Any, Literal

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from operators.columnar.codec import Codec
from schemas.fields import FieldSpec, fields_of
from schemas.streams import Stream, measure
from schemas.ward import SETTINGS, VITALS, Setting, Vital

TS_MS = 1_700_000_000_000


class Odd(BaseModel):
    """Every kind of field that a column check can express."""

    model_config = ConfigDict(strict=True)

    ts: int
    device: str = Field(min_length=1, max_length=4)
    level: float = Field(ge=-1.5)
    count: int | None = Field(default=None, ge=-3, le=3)
    state: Literal["on", "off"] | None = None
    grade: Literal[1, 2, 3]
    flag: bool
    ratio: float | None = measure("%", 0, 1)
    free: float | None = None


ODD = Stream("odd", Odd, key="device", role="events")

NUMBERS = st.one_of(
    st.integers(-5, 320),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(-5, 320, allow_nan=False).map(lambda number: round(number, 1)),
    st.floats(allow_nan=False, allow_infinity=False),
)
NO_NUMBERS = st.sampled_from([None, "", "a", "1", [1], {"a": 1}])
SCRAPS = st.one_of(NUMBERS, st.booleans(), NO_NUMBERS)


def right(spec: FieldSpec) -> st.SearchStrategy[Any]:
    """Values that the field takes, its bounds among them."""
    if spec.choices is not None:
        return st.sampled_from(spec.choices)
    bounds = [bound for bound in (spec.ge, spec.le) if bound is not None] or [1]
    return {
        "float": st.sampled_from(bounds) | st.floats(spec.ge or 0, spec.le or 100),
        "int": st.integers(int(spec.ge or 0), int(spec.le or 9)),
        "str": st.text("aé[", min_size=spec.min_len or 0, max_size=min(spec.max_len or 9, 9)),
        "bool": st.booleans(),
    }[spec.kind]


def odd(spec: FieldSpec) -> st.SearchStrategy[Any]:
    """Values that it may not take. A number in a text field is taken as its digits on purpose (identifiers come as
    numbers), so that text gets none here; pydantic takes `true` and `1.0` for the choice 1, which a column of integers
    does not, so that such choices get neither."""
    if spec.kind == "str" and spec.choices is None:
        return (
            st.booleans()
            | NO_NUMBERS
            | st.sampled_from(["", "x" * (spec.max_len or 9), "x" * ((spec.max_len or 9) + 1)])
        )
    if spec.kind == "int" and spec.choices is not None:
        return st.integers(-5, 5) | NO_NUMBERS
    steps = [-1, 1] if spec.kind == "int" else [-0.001, 0.001]
    beyond = [bound + step for bound in (spec.ge, spec.le) if bound is not None for step in steps]
    return st.sampled_from(beyond) | SCRAPS if beyond else SCRAPS


def any_row(stream: Stream) -> st.SearchStrategy[dict[str, Any]]:
    """Rows that are sound but for at most two fields, and sometimes lack one."""
    specs = {name: spec for name, spec in fields_of(stream.model).items() if name != "ts"}
    sound = st.fixed_dictionaries(
        {"ts": st.just(TS_MS), **{name: right(spec) for name, spec in specs.items() if spec.required}},
        optional={name: right(spec) for name, spec in specs.items() if not spec.required},
    )
    change = st.one_of([st.tuples(st.just(name), odd(spec)) for name, spec in specs.items()])
    lost = st.sampled_from([None, None, None, *specs])
    return st.builds(
        lambda row, changes, name: {key: item for key, item in (row | dict(changes)).items() if key != name},
        sound,
        st.lists(change, max_size=2),
        lost,
    )


def pydantic_accepts(model: type[BaseModel], line: bytes) -> bool:
    try:
        model.model_validate_json(line)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("stream", [VITALS, SETTINGS, ODD], ids=lambda stream: stream.name)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_columns_accept_exactly_the_rows_that_pydantic_accepts(stream: Stream, data: st.DataObject) -> None:
    rows = data.draw(st.lists(any_row(stream), min_size=1, max_size=12))
    lines = [orjson.dumps(row) for row in rows]
    decoded = Codec(stream, ts_unit="ms", line_bytes_max=4096).decode_lines(lines, 0)
    assert decoded.rows["offset"].to_list() == [
        at for at, line in enumerate(lines) if pydantic_accepts(stream.model, line)
    ]
    assert decoded.rows.height + decoded.rejects.height == len(rows)


def test_a_field_has_one_definition_and_the_model_is_it() -> None:
    fields = fields_of(Vital)
    assert fields["hr"] == FieldSpec("hr", "float", "/min", 10, 300, None, False, None, None)
    assert fields["patient"] == FieldSpec("patient", "str", None, None, None, None, True, 1, 128)
    assert fields["acvpu"].choices == ("A", "C", "V", "P", "U")
    assert fields_of(Setting)["spo2_scale"] == FieldSpec(
        "spo2_scale", "int", None, None, None, (1, 2), True, None, None
    )
    assert list(fields) == list(Vital.model_fields)


def test_only_measures_may_come_as_long_rows() -> None:
    measured = {name for name, spec in fields_of(Vital).items() if spec.measured}
    assert {"hr", "temp", "acvpu", "oxygen", "gcs_eye"} <= measured
    assert not measured & {"ts", "patient", "bed", "seq"}


class Patterned(BaseModel):
    code: str = Field(pattern="^A")


class Positive(BaseModel):
    price: float = Field(gt=0)


class Nested(BaseModel):
    inner: Positive


class Mixed(BaseModel):
    either: int | str


class Defaulted(BaseModel):
    level: float = 1.0


class Validated(BaseModel):
    level: float

    @field_validator("level")
    @classmethod
    def _even(cls, level: float) -> float:
        return level


@pytest.mark.parametrize(
    "model", [Patterned, Positive, Nested, Mixed, Defaulted, Validated], ids=lambda model: model.__name__
)
def test_what_columns_cannot_check_is_refused_at_the_start(model: type[BaseModel]) -> None:
    with pytest.raises(TypeError, match=model.__name__):
        fields_of(model)


def test_a_choice_of_whole_numbers_takes_nothing_that_only_equals_one() -> None:
    lines = [
        b'{"ts":1700000000000,"patient":"p","by":"x","spo2_scale":%s}' % value for value in (b"1", b"true", b"1.0")
    ]
    decoded = Codec(SETTINGS, ts_unit="ms", line_bytes_max=4096).decode_lines(lines, 0)
    assert decoded.rows["offset"].to_list() == [0]
