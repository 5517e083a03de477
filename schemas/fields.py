"""Fields compiled from a pydantic model, so that a column check and the model can never disagree.

The model's own JSON schema is read, which states type, range, choices and length of every field in one public form.
One thing differs: pydantic takes `true` and `1.0` for the choice 1 of a Literal, a column takes whole numbers only.
What columns cannot check (a validator function, a pattern, a nested object) is refused here, at the start.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel

Kind = Literal["float", "int", "str", "bool"]

_KINDS: dict[str, Kind] = {"number": "float", "integer": "int", "string": "str", "boolean": "bool"}
_KNOWN = {
    "type",
    "enum",
    "const",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "title",
    "description",
    "default",
    "unit",
    "anyOf",
}


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One field of a row.

    unit: UCUM, or None where the field is not a measure with a unit.
    ge, le: inclusive range, in `unit`. min_len, max_len: characters.
    required: present and not null; any other field may be absent or null.
    """

    name: str
    kind: Kind
    unit: str | None
    ge: float | None
    le: float | None
    choices: tuple[str, ...] | tuple[int, ...] | None
    required: bool
    min_len: int | None
    max_len: int | None

    @property
    def measured(self) -> bool:
        """Whether a long row may carry it: everything but plain numbers of a message and free text."""
        return self.unit is not None or self.choices is not None or self.kind == "bool"


def fields_of(model: type[BaseModel]) -> dict[str, FieldSpec]:
    """Compile `model` in field order. Errors: TypeError naming the field that a column check cannot express."""
    decorators = model.__pydantic_decorators__
    if (
        decorators.field_validators
        or decorators.model_validators
        or decorators.validators
        or decorators.root_validators
    ):
        raise TypeError(f"{model.__name__} has validator functions: a column check cannot run them")
    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    return {name: _compile(model, name, part, name in required) for name, part in schema.get("properties", {}).items()}


def _compile(model: type[BaseModel], name: str, part: dict[str, Any], required: bool) -> FieldSpec:
    where = f"{model.__name__}.{name}"
    variants = part.get("anyOf", [part])
    values = [variant for variant in variants if variant.get("type") != "null"]
    nullable = len(values) < len(variants)
    if nullable == required or (nullable and part.get("default") is not None):
        raise TypeError(f"{where} must be either required and never null, or `| None` with the default None")
    if len(values) != 1:
        raise TypeError(f"{where} has several types: a column has one")
    value = {**part, **values[0]}
    if "type" not in value or value["type"] not in _KINDS or not set(value) <= _KNOWN:
        beyond = sorted(set(value) - _KNOWN) or [value.get("type", "no single type")]
        raise TypeError(f"{where} uses {', '.join(map(str, beyond))}: a column check cannot express it")
    choices = [value["const"]] if "const" in value else value.get("enum")
    return FieldSpec(
        name=name,
        kind=_KINDS[value["type"]],
        unit=value.get("unit"),
        ge=value.get("minimum"),
        le=value.get("maximum"),
        choices=None if choices is None else tuple(choices),
        required=required,
        min_len=value.get("minLength"),
        max_len=value.get("maxLength"),
    )


assert set(_KINDS.values()) == set(get_args(Kind))
