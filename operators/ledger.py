"""The book of decisions of one shard: judges a window, seals the record into its key's chain, steps the key's alert.

Pure: readings come in as values, time only as the window's own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from operators.alerts import AlertState, step
from operators.domain import Domain
from operators.record import Place, id_of, inputs_json, json_of, model_json, model_part, reading_of, seal
from schemas.decisions import GENESIS, Sealed
from schemas.reading import Abstain, Reading

SNAPSHOT_VERSION = 2
QUIET_MAX_US = 86_400_000_000


@dataclass(slots=True)
class Entry:
    """One key: the head of its chain, the text last read for it (by digest) and its reading, its alert."""

    seq: int = -1  # not known yet: asked for with the first decision
    prev: str = GENESIS
    text_sha: str | None = None
    reading: Reading | None = None
    alert: AlertState | None = None
    seen_us: int = 0  # end of the newest window
    decision: str = ""  # id of the newest decision
    said: str = ""  # the reading as it goes into records


class Drafted(NamedTuple):
    """A record made before its time, and the reading that it was made under."""

    record: Sealed
    reading: Reading


PlaceOf = Callable[[str, str], tuple[int, str]]
"""(key, decision id) -> where that decision stands in the key's chain, or would stand next: its seq, the hash before.

A run that starts anew goes on where the stored chain ends, and makes again in its old place what is stored already.
"""


def from_genesis(key: str, decision: str) -> tuple[int, str]:
    """The place of a key's first decision where nothing is stored."""
    return 0, GENESIS


class Ledger:
    """All keys of a shard. `state` is what `snapshot` gave; a snapshot of another version is a ValueError."""

    def __init__(
        self,
        domain: Domain,
        partitions: Sequence[str],
        model: Mapping[str, str] | None,
        renotify_us: int,
        state: bytes | None = None,
        place: PlaceOf = from_genesis,
    ) -> None:
        self.place = place
        self.domain = domain
        self.partitions = partitions
        self.model = json_of(None if model is None else dict(model))
        self.rank = {action: rank for rank, action in enumerate(domain.actions)}
        self.renotify_us = renotify_us
        self.entries: dict[str, Entry] = {}
        if state is not None:
            version, entries = orjson.loads(state)
            if version != SNAPSHOT_VERSION:
                raise ValueError(f"ledger snapshot version {version}, expected {SNAPSHOT_VERSION}")
            for key, (seq, prev, sha, part, alert, seen_us, decision) in entries.items():
                reading = reading_of(part) if part else None
                said = model_json(reading) if reading else ""
                self.entries[key] = Entry(seq, prev, sha, reading, alert and tuple(alert), seen_us, decision, said)

    def snapshot(self) -> bytes:
        """Plain JSON, versioned."""
        entries = {
            key: [
                e.seq,
                e.prev,
                e.text_sha,
                model_part(e.reading) if e.reading else None,
                e.alert,
                e.seen_us,
                e.decision,
            ]
            for key, e in self.entries.items()
        }
        return orjson.dumps([SNAPSHOT_VERSION, entries])

    def known(self, key: str, text_sha: str) -> Reading | None:
        """How this key's text was read, if it was; by key and not by text alone, so that no other key changes it."""
        entry = self.entries.get(key)
        return entry.reading if entry is not None and entry.text_sha == text_sha else None

    def learn(self, key: str, text_sha: str, reading: Reading) -> None:
        """Keep a reading for the windows of this key to come."""
        entry = self._entry(key)
        entry.text_sha, entry.reading, entry.said = text_sha, reading, model_json(reading)

    def draft(self, row: Mapping[str, Any], text_sha: str | None, reading: Reading, revision: int) -> Drafted:
        """Judge one window under one reading, and seal the record as if its turn were now. Changes nothing."""
        domain, key = self.domain, row["key"]
        entry = self.entries.get(key) or Entry()
        judged = domain.judge(row, reading.acted_on())
        decision = id_of(row, domain)
        seq, prev = self.place(key, decision) if entry.seq < 0 else (entry.seq, entry.prev)
        model = entry.said if reading is entry.reading else model_json(reading)
        inputs = inputs_json(row, domain, self.partitions, text_sha, self.model)
        return Drafted(seal(row, domain, judged, model, inputs, revision, Place(decision, seq, prev)), reading)

    def append(
        self,
        row: Mapping[str, Any],
        text_sha: str | None,
        reading: Reading,
        revision: int,
        drafted: Drafted | None = None,
    ) -> tuple[Sealed, list[dict[str, Any]]]:
        """Judge one window under one reading: the sealed record, and the alert edges it makes.

        drafted: of the same window; made again where its reading was another, or its place has been taken since.
        """
        entry = self._entry(row["key"])
        if drafted is None or not _stands(drafted, entry, reading, revision):
            drafted = self.draft(row, text_sha, reading, revision)
        record = drafted.record
        entry.seq, entry.prev = record.seq + 1, record.hash
        rank = self.rank[record.action]
        if reading.abstain is Abstain.PENDING and entry.alert is not None:
            rank = max(rank, entry.alert[0])  # the rule alone may not end what a note raised; its reading is on its way
        entry.seen_us = max(entry.seen_us, record.end_us)
        return record, self._step(record.key, entry, rank, record.end_us, record.id)

    def tick(self, at_us: int) -> list[dict[str, Any]]:
        """Tell open alerts again whose keys have gone quiet, for a day after the last window at most."""
        alerts: list[dict[str, Any]] = []
        for key, entry in self.entries.items():
            if entry.alert is not None and entry.seen_us < at_us <= entry.seen_us + QUIET_MAX_US:
                alerts += self._step(key, entry, entry.alert[0], at_us, entry.decision)
        return alerts

    def _entry(self, key: str) -> Entry:
        entry = self.entries.get(key)
        if entry is None:
            entry = self.entries[key] = Entry()
        return entry

    def _step(self, key: str, entry: Entry, rank: int, at_us: int, decision: str) -> list[dict[str, Any]]:
        entry.decision = decision
        entry.alert, events = step(entry.alert, rank, at_us, self.renotify_us)
        actions = self.domain.actions
        return [
            {
                "flow": self.domain.name,
                "key": key,
                "kind": event.kind,
                "action": actions[event.rank],
                "at_us": event.at_us,
                "decision_id": decision,
            }
            for event in events
        ]


def _stands(drafted: Drafted, entry: Entry, reading: Reading, revision: int) -> bool:
    record = drafted.record
    in_place = entry.seq < 0 or (record.seq == entry.seq and record.prev == entry.prev)  # the first was asked for
    return in_place and record.revision == revision and drafted.reading == reading
