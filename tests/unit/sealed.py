"""Sealed records for tests of the store, chained as the gate chains them."""

from typing import Any

from flows.connectors.sqlite import Timed, instant_us
from schemas.decisions import GENESIS, Record, Sealed, canonical, decision_id, digest

SCALE_2 = {"id": "spo2_scale_2", "text": "score SpO2 on scale 2"}
SENSOR = {"id": "check_sensor", "text": "check the sensor first"}


def instant(minute: int) -> str:
    """RFC 3339 of a minute of a day in 2026."""
    return f"2026-01-02T{minute // 60:02d}:{minute % 60:02d}:00Z"


def unsealed(key: str, minute: int, revision: int = 0, flow: str = "ward", **parts: Any) -> Record:
    """The decision over the minute that begins at `minute`."""
    record: Record = {
        "id": decision_id(flow, key, minute * 60_000_000, minute * 60_000_000 + 60_000_000, "rule/1"),
        "flow": flow,
        "key": key,
        "window": [instant(minute), instant(minute + 1)],
        "revision": revision,
        "rule": {"action": "nurse", "score": 2, "parts": {"temp": 0.1, "rr": 2}, "missing": []},
        "model": {"labels": [], "p": {"opioid": 0.25}, "evidence": {}, "abstain": "no_text", "unsure": []},
        "action": "nurse",
        "raised_by": [],
        "proposals": [],
        "rationale": "NEWS2 2: respiration 22/min, 38.1 °C",
        "inputs": {"rows": 60},
    }
    return {**record, **parts}


def seal(record: Record, seq: int, prev: str) -> Record:
    """The record in its place; the dull way to what `operators.record` puts together."""
    sealed = {**record, "seq": seq, "prev": prev}
    return {**sealed, "hash": digest(sealed)}


def sealed(record: Record) -> Sealed:
    """A record that has its place, as the store takes it."""
    start_us, end_us = map(instant_us, record["window"])
    identity = (record["id"], record["revision"], record["flow"], record["key"], start_us, end_us, record["seq"])
    return Sealed(*identity, record["action"], canonical(record).decode(), record["hash"], record["prev"])


class Chains:
    """Seals records one after the other, a chain for each flow and key."""

    def __init__(self) -> None:
        self.heads: dict[tuple[str, str], tuple[int, str]] = {}

    def add(self, key: str, minute: int, revision: int = 0, flow: str = "ward", **parts: Any) -> Timed:
        """The next record of this key, with a latency."""
        seq, prev = self.heads.get((flow, key), (-1, GENESIS))
        record = seal(unsealed(key, minute, revision, flow, **parts), seq + 1, prev)
        self.heads[flow, key] = (seq + 1, record["hash"])
        return sealed(record), 1500

    def copy(self) -> "Chains":
        """What a recovery snapshot would hold."""
        twin = Chains()
        twin.heads = dict(self.heads)
        return twin


def intact(record: Record) -> bool:
    """Whether a record still has the hash it was sealed with."""
    return bool(record.get("hash") == digest({name: part for name, part in record.items() if name != "hash"}))
