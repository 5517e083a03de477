"""What must hold when a trial is over."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from flows.connectors.kafka.sending import read_all
from flows.store import outbox
from tests.chaos.faults import Fault
from tests.chaos.published import SlowServer, held, in_files
from tests.chaos.trial import Answer, Trial

OFF_LOG = ("hash", "prev", "inputs")
"""What of a record depends on where its rows stand in the log."""
WAYS = ("used", "late", "rejected", "duplicate")
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Sinks:
    """Where decisions went beside the store. topic: in Kafka, if they went there."""

    outlets: tuple[str, ...]
    topic: str | None
    server: SlowServer | None


def check(trial: Trial, fault: Fault, sinks: Sinks) -> None:
    """All of it; what does not hold is added to the trial's complaints. Errors: Broken where a chain is."""
    found, want = Answer.of(trial.db, trial.summary), trial.undisturbed
    if trial.partial:
        trial.complaints += missing_ids(want.decisions, found.decisions, trial.before)
    else:
        trial.complaints += differences(
            want.decisions, found.decisions, OFF_LOG if fault.redelivers or fault.mqtt else ()
        )
        left, right = ([one[3:] if fault.mqtt else one for one in answer.letters] for answer in (want, found))
        trial.complaints += letters_differ(left, right)
    if fault.one_life and trial.lives - 1 > trial.ends_asked:
        trial.complaints.append(f"the program ended {trial.lives - 1} times; it should have waited")
    if trial.lives == 1:
        trial.complaints += accounted(trial, found)
    stored = held(sorted(found.decisions, key=lambda record: record["seq"]))
    for name, records in _published(trial, sinks):
        if held(records) != stored:
            trial.complaints.append(f"{name}: {len(records)} published are not the {len(found.decisions)} in the store")
        if name in ("exactly", "parquet") and len(records) != len(found.decisions) and not trial.partial:
            trial.complaints.append(f"{name}: {len(records)} published, of {len(found.decisions)} in the store")
    for state in outbox.outlets(trial.db):
        if state.behind or state.refused:
            trial.complaints.append(f"{state.name} is {state.behind} behind, {state.refused} refused: {state.why}")


def differences(want: Sequence[Record], found: Sequence[Record], but: Sequence[str] = ()) -> list[str]:
    """How two sets of decisions differ, the fields in `but` aside; nothing where they do not."""
    left, right = ({(one["id"], one["revision"]): one for one in records} for records in (want, found))
    lost, more = sorted(set(left) - set(right)), sorted(set(right) - set(left))
    told = []
    if lost or more:
        told.append(f"{len(lost)} of {len(left)} decisions are missing {lost[:3]}, {len(more)} are more {more[:3]}")
    for place in sorted(set(left) & set(right)):
        fields = [name for name in left[place] if name not in but and left[place][name] != right[place].get(name)]
        if fields:
            one = fields[0]
            told.append(f"decision {place[0]} differs in {fields}: {left[place][one]}, {right[place].get(one)}")
            break
    return told


def missing_ids(want: Sequence[Record], found: Sequence[Record], before: Sequence[Record]) -> list[str]:
    """Where part of the input is gone: nothing that was decided may be lost, nothing be decided that never was."""
    known, now, then = ({one["id"] for one in records} for records in (want, found, before))
    told = []
    if then - now:
        told.append(f"{len(then - now)} of {len(then)} decisions from before are lost")
    if now - known:
        told.append(f"{len(now - known)} decisions were never made undisturbed")
    if want and want[-1]["id"] not in now:
        told.append("the last decision is missing")
    return told


def letters_differ(want: Sequence[tuple[Any, ...]], found: Sequence[tuple[Any, ...]]) -> list[str]:
    """How two sets of dead letters differ."""
    left, right = Counter(want), Counter(found)
    if left == right:
        return []
    return [f"dead letters: missing {list((left - right).elements())[:3]}, more {list((right - left).elements())[:3]}"]


def accounted(trial: Trial, found: Answer) -> list[str]:
    """Every row has one way out, the same one as undisturbed; those that were sent again are duplicates."""
    want, rows, again = trial.undisturbed, found.rows, len(trial.input.rows)
    assert want.rows is not None
    if rows is None:
        return ["there is no summary"]
    told = []
    if rows["in"] != again or sum(rows[way] for way in WAYS) != rows["in"]:
        told.append(f"{dict(rows)} do not account for {again} rows")
    expected = {**want.rows, "in": again, "duplicate": want.rows["duplicate"] + again - want.rows["in"]}
    if dict(rows) != expected or found.rejected != want.rejected:
        told.append(f"rows went {dict(rows)} {found.rejected}, undisturbed {expected} {want.rejected}")
    return told


def _published(trial: Trial, sinks: Sinks) -> Iterator[tuple[str, list[Record]]]:
    for name in sinks.outlets:
        if name == "parquet":
            yield name, in_files(trial.folder / "files")
        elif sinks.topic is not None and not trial.topic_lost:
            yield name, [orjson.loads(one.value) for one in read_all(trial.cluster.bootstrap, sinks.topic)]
    if sinks.server is not None:
        yield "webhook", sinks.server.records
