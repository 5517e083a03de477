"""A judged window as a decision record: plain values only, the same in every run over the same rows."""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import polars as pl

from operators.domain import Domain, Judgement
from schemas.decisions import RECORD_VERSION, Record, decision_id
from schemas.reading import Abstain, Reading


@lru_cache(maxsize=4096)
def rfc3339(us: int) -> str:
    """Microseconds since the epoch as RFC 3339 in UTC; the fraction only where there is one."""
    text = datetime.fromtimestamp(us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = us % 1_000_000
    return f"{text}.{fraction:06d}Z" if fraction else f"{text}Z"


def text_digest(text: str) -> str:
    """SHA-256 of a text, hex; it stands for the text wherever the text itself must not go."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


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


def text_of(row: Mapping[str, Any], domain: Domain) -> str | None:
    """The text that belongs to a window, or None where there is none or it is too old."""
    if domain.text is None:
        return None
    text, at_us = row.get(domain.text.field), row.get(f"{domain.text.stream}_us")
    if text is None or at_us is None or row["end_us"] - at_us > domain.text.valid_us:
        return None
    return str(text)


_UNREAD: dict[Abstain, dict[str, Any]] = {
    abstain: {"labels": [], "p": {}, "evidence": {}, "abstain": abstain.value} for abstain in Abstain
}


def model_part(reading: Reading) -> dict[str, Any]:
    """A reading as it is printed. Not to be changed: readings that say nothing share theirs."""
    if reading.abstain is not None and not reading.p and not reading.labels:
        return _UNREAD[reading.abstain]
    return {
        "labels": list(reading.labels),
        "p": dict(reading.p),
        "evidence": {label: [list(span) for span in spans] for label, spans in reading.evidence.items()},
        "abstain": reading.abstain.value if reading.abstain else None,
    }


def reading_of(part: Mapping[str, Any]) -> Reading:
    """The inverse of `model_part`."""
    evidence = {label: [(span[0], span[1]) for span in spans] for label, spans in part["evidence"].items()}
    return Reading(tuple(part["labels"]), part["p"], evidence, Abstain(part["abstain"]) if part["abstain"] else None)


def inputs_of(
    row: Mapping[str, Any], domain: Domain, partitions: Sequence[str], text: str | None, model: dict[str, str] | None
) -> dict[str, Any]:
    """What a decision was made from: rows by offset, features and text by digest, the model by name and digest."""
    inputs: dict[str, Any] = {
        "rows": row["rows"],
        "offsets": {partitions[part["partition"]]: [part["first"], part["last"]] for part in row["offsets"]},
        "features_sha256": row["features_sha256"],
        "model": model,
        "text": None,
    }
    if text is not None and domain.text is not None:
        stream = domain.text.stream
        inputs["text"] = {
            "stream": stream,
            "offset": row[f"{stream}_offset"],
            "ts": rfc3339(row[f"{stream}_us"]),
            "sha256": text_digest(text),
        }
    return inputs


def id_of(row: Mapping[str, Any], domain: Domain) -> str:
    """The id of the decision about a window."""
    return decision_id(domain.name, row["key"], row["start_us"], row["end_us"], domain.revision)


def record_of(
    row: Mapping[str, Any],
    domain: Domain,
    judged: Judgement,
    reading: Reading,
    inputs: dict[str, Any],
    revision: int,
) -> Record:
    """An unsealed record of one revision of one decision. It holds what it is given: no one changes that afterwards."""
    return {
        "v": RECORD_VERSION,
        "id": id_of(row, domain),
        "flow": domain.name,
        "key": row["key"],
        "window": [rfc3339(row["start_us"]), rfc3339(row["end_us"])],
        "revision": revision,
        "rule": judged.rule,
        "model": model_part(reading),
        "action": judged.action,
        "raised_by": list(judged.raised_by),
        "proposals": list(judged.proposals),
        "rationale": judged.rationale,
        "inputs": inputs,
    }
