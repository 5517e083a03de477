"""What a reader may say of a text, domain by domain: closed labels, these strings, in this order, nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from schemas import ward


@dataclass(frozen=True, slots=True)
class TextField:
    """One question put to a text. many: any number of the labels may hold; otherwise exactly one does.

    No label occurs in two fields of a domain, so that a label alone says which question it answers.
    """

    name: str
    labels: tuple[str, ...]
    many: bool = False


FIELDS: Final[Mapping[str, tuple[TextField, ...]]] = {
    "ward": (TextField("labels", ward.LABELS, many=True),),
    "roadside": (
        TextField(
            "kind",
            (
                "collision",
                "breakdown",
                "debris",
                "roadworks",
                "closure",
                "signal_fault",
                "weather",
                "flooding",
                "event",
                "congestion",
                "other",
            ),
        ),
        TextField("blocked", ("none", "shoulder", "some_lanes", "all_lanes", "unknown")),
        TextField("status", ("active", "planned", "cleared")),
    ),
    "desk": (
        TextField(
            "topic",
            (
                "earnings",
                "guidance",
                "deal",
                "legal",
                "management",
                "product",
                "incident",
                "analyst",
                "capital",
                "macro",
                "other",
            ),
        ),
        TextField("direction", ("negative", "neutral", "positive", "mixed")),
        TextField("certainty", ("confirmed", "rumour", "denied")),
    ),
}
"""decisions.md, label for label."""
