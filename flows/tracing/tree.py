"""`tidegate trace`: the spans of one decision, from the local file, as a tree with times."""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from flows.connectors.sqlite import in_plain_words, open_existing
from flows.tracing import names
from schemas.errors import UsageError

Plain = dict[str, Any]
"""A span as it stands in the file."""
_ID = re.compile("[0-9a-f]{32}")
_SHOWN = (
    names.MESSAGES,
    names.USED,
    names.REFUSED,
    names.LATE,
    names.LAG,
    names.ROWS,
    names.REVISION,
    names.ACTION,
    names.LABELS,
    names.ABSTAIN,
    names.PARTITION,
    names.ERROR,
)


def trace_text(identifier: str, db: Path, spans: Path) -> str:
    """What the command prints for a decision's id, or a trace's. db: the store that has the decision.

    Errors: UsageError where there is no such decision, it was not traced, or its spans are not in the file; SinkLost.
    """
    if not _ID.fullmatch(identifier):
        raise UsageError(f"{identifier} is no id of a decision: `tidegate decisions` lists them, 32 letters and digits")
    traces = _traces_of(identifier, db)
    found = [(trace, list(_spans_of(trace, spans))) for trace in traces or [identifier]]
    shown = [_tree(trace, held) for trace, held in found if held]
    if shown:
        return "\n\n".join(shown)
    if traces:
        raise UsageError(
            f"the spans of trace {traces[0]} are not in {spans}: they went to a collector, or the file was full "
            "and has been replaced (trace_file_bytes_max)"
        )
    raise UsageError(
        f"{db} knows no traced decision {identifier}, and {spans} no such trace: check the id and --db; a run traces "
        "sampled messages, and a share of the others (trace_ratio)"
    )


def _traces_of(decision: str, db: Path) -> list[str]:
    if not db.exists():
        return []
    with closing(open_existing(db, "rw")) as opened, in_plain_words(db):
        rows = opened.execute(
            "SELECT t.traceparent FROM decisions d JOIN traces t ON t.hash = d.hash WHERE d.id = ? ORDER BY d.revision",
            (decision,),
        ).fetchall()
    return list(dict.fromkeys(traceparent.split("-")[1] for (traceparent,) in rows))


def _spans_of(trace: str, spans: Path) -> Iterator[Plain]:
    """The spans of a trace, and those that link it, from the file and the one before it."""
    files = [path for path in (spans.with_name(f"{spans.name}.1"), spans) if path.exists()]
    if not files:
        raise UsageError(f"there is no file of spans {spans}: give the trace_file of the run as --file")
    wanted = trace.encode()
    for path in files:
        try:
            with path.open("rb") as file:
                lines = [line for line in file if wanted in line]
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error.strerror}): check the path") from error
        for line in lines:
            try:
                span = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue  # cut short when the power went
            if isinstance(span, dict) and "span_id" in span:
                yield span


def _tree(trace: str, spans: Sequence[Plain]) -> str:
    spans = sorted(spans, key=lambda span: span["start_ns"])
    start_ns = spans[0]["start_ns"]
    linked = [span for span in spans if span["trace_id"] != trace]
    own = {span["span_id"]: span for span in spans if span["trace_id"] == trace}
    below: dict[str | None, list[Plain]] = {}
    for span in own.values():
        below.setdefault(span["parent_id"] if span["parent_id"] in own else None, []).append(span)
    lines: list[str] = []

    def add(span: Plain, before: str) -> None:
        after_ms, took_ms = (span["start_ns"] - start_ns) / 1e6, (span["end_ns"] - span["start_ns"]) / 1e6
        lines.append(f"{after_ms:12.3f} ms {took_ms:12.3f} ms  {before}{span['name']}{_about(span)}")

    def walk(span: Plain, depth: int) -> None:
        add(span, "  " * depth)
        for child in below.get(span["span_id"], ()):
            walk(child, depth + 1)

    for span in linked:
        add(span, "~ ")
    roots = below.get(None, [])
    outer = sorted({span["parent_id"] for span in roots if span["parent_id"]})
    for parent in outer:
        lines.append(f"{'':31}  span {parent} of whoever produced it")
    for span in roots:
        walk(span, 1 if span["parent_id"] else 0)
    began = datetime.fromtimestamp(start_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    legend = ["~ a batch that one of its messages came in"] if linked else []
    return "\n".join([f"trace {trace}, from {began}", f"{'after':>15} {'took':>15}", *lines, *legend])


def _about(span: Plain) -> str:
    about = span["attributes"]
    shown = [f"{name.rsplit('.', 1)[-1]}={_plain(about[name])}" for name in _SHOWN if about.get(name) not in (None, [])]
    return f"  {' '.join(shown)}" if shown else ""


def _plain(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
