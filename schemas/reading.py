"""What a reader says of one text: closed labels, a probability for each, the words that carried them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Abstain(StrEnum):
    """Why the reader's part of a decision is not acted on. Persisted in decision records: never rename."""

    NO_TEXT = "no_text"
    NO_MODEL = "no_model"
    MODEL_REFUSED = "model_refused"
    PENDING = "pending"
    DEADLINE = "deadline"
    BUSY = "busy"
    FAILED = "failed"
    LANGUAGE = "language"
    TOO_LONG = "too_long"
    LOW_CONFIDENCE = "low_confidence"


Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Reading:
    """One text as a reader understood it.

    labels: the best guess, in the domain's label order, also where the reader abstains.
    p: probability of every label of the domain, 0..1; empty where no model ran.
    evidence: for each given label the half-open character spans [start, end) of the text that carried it.
    abstain: why the labels must not be acted on, or None.
    unsure: the labels that the set of possible answers leaves open, in the domain's order; none where it is one answer.
    """

    labels: Sequence[str] = ()
    p: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, Sequence[Span]] = field(default_factory=dict)
    abstain: Abstain | None = None
    unsure: Sequence[str] = ()

    def acted_on(self) -> tuple[str, ...]:
        """The labels the gate may use."""
        return () if self.abstain else tuple(self.labels)
