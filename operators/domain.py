"""What a domain says of itself; the engine knows nothing else about wards, roads or desks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl

from schemas.streams import Stream
from schemas.windows import Agg, WindowSpec


class Judgement(NamedTuple):
    """What was decided about one window: the rule's part as printed, and the gate's outcome. Goes into the record."""

    rule: dict[str, Any]
    action: str
    raised_by: Sequence[str]
    proposals: Sequence[dict[str, str]]
    rationale: str


@dataclass(frozen=True, slots=True)
class Text:
    """Which field of which context stream the language model reads, and for how long a text counts."""

    stream: str
    field: str
    valid_us: int


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A flow: its rows, windows, rule and gate.

    revision: of the rule; part of every decision's id, so change it when the rule changes.
    actions: from least to most urgent; the first means that nothing is to be done.
    carry: fields whose last value stays known over later windows (needs aggregates `<f>.last` and `<f>.last_us`).
    baselines: name -> window column whose trailing median over `baseline_us` is joined as `<name>.baseline`.
    rule: feature frame -> the same frame with the columns that `judge` reads.
    effects: proposal id -> the fields that its acceptance sets, as a row of the context stream `effects_stream`.
    judge: one row of the ruled frame, and the labels the model gave (none where it abstains) -> what is decided.
    Errors: ValueError where two context streams have a field of the same name: both are joined to the same window.
    """

    name: str
    revision: str
    actions: tuple[str, ...]
    streams: tuple[Stream, ...]
    window: WindowSpec
    aggregates: tuple[Agg, ...]
    rule: Callable[[pl.DataFrame], pl.DataFrame]
    judge: Callable[[Mapping[str, Any], Sequence[str]], Judgement]
    carry: tuple[str, ...] = ()
    baselines: Mapping[str, str] = field(default_factory=dict)
    baseline_us: int = 0
    text: Text | None = None
    effects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    effects_stream: str = ""

    def __post_init__(self) -> None:
        fields = [
            name
            for stream in self.streams
            if stream.role == "context"
            for name in stream.model.model_fields
            if name not in ("ts", stream.key, stream.seq)
        ]
        twice = sorted({name for name in fields if fields.count(name) > 1})
        if twice:
            raise ValueError(f"flow {self.name}: two context streams have a field {', '.join(twice)}: rename one")

    def stream(self, name: str) -> Stream:
        """The stream called `name`. Errors: KeyError."""
        return {stream.name: stream for stream in self.streams}[name]
