"""The keyword baselines: word lists written by hand and a simple rule for negation. What a model has to beat."""

from collections.abc import Callable, Mapping
from typing import Final

from models.train.keywords import desk, roadside, ward

__all__ = ["keyword_labels"]

_DOMAINS: Final[Mapping[str, Callable[[str], tuple[str, ...]]]] = {
    "ward": ward.labels,
    "roadside": roadside.labels,
    "desk": desk.labels,
}


def keyword_labels(text: str, domain: str) -> tuple[str, ...]:
    """Labels of the text by rule: any number for the ward, one for each field in `FIELDS`' order for the others.

    domain: a key of `schemas.texts.FIELDS`; anything else raises KeyError.
    """
    return _DOMAINS[domain](text)
