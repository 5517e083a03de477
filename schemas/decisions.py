"""The decision record: its shape, its canonical bytes, its identity and its place in a hash chain."""

import hashlib
from typing import Any, NamedTuple

import orjson

Record = dict[str, Any]
"""A decision as one JSON object. Keys:
id, flow, key, window [start, end], revision, rule {action, score, parts, missing},
model {labels, p, evidence, abstain}, action,
raised_by, proposals, rationale, inputs, seq (position in the key's chain, from 0), hash, prev.
Wall-clock figures (latency, time of writing) live beside the record, never in it: a replay gives the same bytes."""

GENESIS = "0" * 64
RECORD_VERSION = 1


def canonical(value: Any) -> bytes:
    """Sorted keys, no white space, shortest floats, UTF-8: one value has one form."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(value: Any) -> str:
    """SHA-256 over the canonical bytes, hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def decision_id(flow: str, key: str, start_us: int, end_us: int, rule_revision: str) -> str:
    """Identity of a decision: the same window under the same rule has the same id in every run."""
    return digest([flow, key, start_us, end_us, rule_revision])[:32]


class Sealed(NamedTuple):
    """A record in its place in a chain, as it is stored: its canonical text, and the parts that it is found by."""

    id: str
    revision: int
    flow: str
    key: str
    start_us: int
    end_us: int
    seq: int
    action: str
    text: str
    hash: str
    prev: str
