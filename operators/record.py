"""A judged window as a sealed decision record: plain values only, the same in every run over the same rows."""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import polars as pl

from operators.domain import Domain, Judgement
from schemas.decisions import RECORD_VERSION, Sealed, canonical, decision_id
from schemas.reading import Abstain, Reading


@lru_cache(maxsize=4096)
def rfc3339(us: int) -> str:
    """Microseconds since the epoch as RFC 3339 in UTC; the fraction only where there is one."""
    text = datetime.fromtimestamp(us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = us % 1_000_000
    return f"{text}.{fraction:06d}Z" if fraction else f"{text}Z"


class Words(NamedTuple):
    """A text, and its SHA-256, hex, which stands for it wherever the text itself must not go."""

    text: str
    sha256: str


def words(text: str) -> Words:
    """A text with its digest."""
    return Words(text, hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())


def with_digests(windows: pl.DataFrame, domain: Domain) -> pl.DataFrame:
    """Add `features_sha256`: of each row as one JSON line, the text itself left out (it has a digest of its own)."""
    left_out = domain.text.field if domain.text else None
    lines = io.BytesIO()
    windows[[name for name in windows.columns if name != left_out]].write_ndjson(lines)
    digests = [hashlib.sha256(line).hexdigest() for line in lines.getvalue().splitlines()]
    return windows.hstack([pl.Series("features_sha256", digests, pl.String)])


def rows_of(windows: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Each row by column name, one at a time: all of them at once are more than a small processor's cache holds."""
    names = windows.columns
    columns = [column.to_list() for column in windows.get_columns()]
    return (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))


def text_of(row: Mapping[str, Any], domain: Domain) -> Words | None:
    """The text that belongs to a window, or None where there is none or it is too old."""
    if domain.text is None:
        return None
    text, at_us = row.get(domain.text.field), row.get(f"{domain.text.stream}_us")
    if text is None or at_us is None or row["end_us"] - at_us > domain.text.valid_us:
        return None
    return words(text)


def model_part(reading: Reading) -> dict[str, Any]:
    """A reading as it is printed."""
    return {
        "labels": list(reading.labels),
        "p": dict(reading.p),
        "evidence": {label: [list(span) for span in spans] for label, spans in reading.evidence.items()},
        "abstain": reading.abstain.value if reading.abstain else None,
        "unsure": list(reading.unsure),
    }


def reading_of(part: Mapping[str, Any]) -> Reading:
    """The inverse of `model_part`."""
    evidence = {label: [(span[0], span[1]) for span in spans] for label, spans in part["evidence"].items()}
    abstain = Abstain(part["abstain"]) if part["abstain"] else None
    return Reading(tuple(part["labels"]), part["p"], evidence, abstain, tuple(part["unsure"]))


def json_of(value: Any) -> str:
    """The canonical form, as text."""
    return canonical(value).decode()


_name = lru_cache(maxsize=4096)(json_of)  # of what comes again and again: keys, actions, partitions


def model_json(reading: Reading) -> str:
    """`model_part` as JSON."""
    if reading.abstain is not None and not (reading.labels or reading.p or reading.evidence):
        return _unread(reading.abstain)
    return json_of(model_part(reading))


@lru_cache
def _unread(abstain: Abstain) -> str:
    return json_of(model_part(Reading(abstain=abstain)))


def inputs_json(
    row: Mapping[str, Any], domain: Domain, partitions: Sequence[str], text_sha: str | None, model: str
) -> str:
    """What a decision was made from: rows by offset, features and text by digest, the model by name and digest."""
    parts = sorted(row["offsets"], key=lambda part: partitions[part["partition"]])
    rows = ",".join([f"{_name(partitions[part['partition']])}:[{part['first']},{part['last']}]" for part in parts])
    text = "null"
    if text_sha is not None and domain.text is not None:
        stream = domain.text.stream
        offset, at = row[f"{stream}_offset"], rfc3339(row[f"{stream}_us"])
        text = f'{{"offset":{offset},"sha256":"{text_sha}","stream":{_name(stream)},"ts":"{at}"}}'
    digest = row["features_sha256"]
    return f'{{"features_sha256":"{digest}","model":{model},"offsets":{{{rows}}},"rows":{row["rows"]},"text":{text}}}'


def id_of(row: Mapping[str, Any], domain: Domain) -> str:
    """The id of the decision about a window."""
    return decision_id(domain.name, row["key"], row["start_us"], row["end_us"], domain.revision)


class Place(NamedTuple):
    """Which decision, and where it stands in its key's chain: its number, and the hash of the record before."""

    decision: str
    seq: int
    prev: str


def seal(
    row: Mapping[str, Any], domain: Domain, judged: Judgement, model: str, inputs: str, revision: int, at: Place
) -> Sealed:
    """One revision of one decision, in its place in its key's chain; its hash covers all of it but the hash.

    model, inputs: as JSON. The text is `canonical` of the record, put together from parts: a dictionary of dictionaries
    for each of a ward's decisions, made to be written once, took longer than all that is in it.
    """
    key, start_us, end_us = row["key"], row["start_us"], row["end_us"]
    before = f'{{"action":{_name(judged.action)},"flow":{_name(domain.name)},'
    after = (
        f'"id":"{at.decision}","inputs":{inputs},"key":{_name(key)},"model":{model},"prev":"{at.prev}",'
        f'"proposals":{_list(judged.proposals)},"raised_by":{_list(judged.raised_by)},'
        f'"rationale":{json_of(judged.rationale)},"revision":{revision},"rule":{json_of(judged.rule)},"seq":{at.seq},'
        f'"v":{RECORD_VERSION},"window":["{rfc3339(start_us)}","{rfc3339(end_us)}"]}}'
    )
    hash_ = hashlib.sha256(f"{before}{after}".encode()).hexdigest()
    text = f'{before}"hash":"{hash_}",{after}'
    return Sealed(
        at.decision, revision, domain.name, key, start_us, end_us, at.seq, judged.action, text, hash_, at.prev
    )


def _list(values: Sequence[Any]) -> str:
    return json_of(list(values)) if values else "[]"
