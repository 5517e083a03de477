"""`tidegate trace`: the tree, and what it says where there is none."""

from pathlib import Path

import orjson
import pytest

from flows.store import decisions
from flows.tracing.tree import trace_text
from schemas.errors import UsageError
from tests.unit.traced_flow import KEYS, input_folder, memory, run, traceparent


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "t.db"


@pytest.fixture
def spans(tmp_path: Path, db: Path) -> Path:
    """Of a run where the first message about her, and another one of that batch, are sampled."""
    found = memory(1e-9)
    run(input_folder(tmp_path / "in"), db, found.tracing, {0: traceparent(7), 3: traceparent(8)})
    path = tmp_path / "spans.jsonl"
    lines = [orjson.dumps(span) + b"\n" for span in found.spans()]
    path.with_name("spans.jsonl.1").write_bytes(b"".join(lines[:4]))
    path.write_bytes(b"".join(lines[4:]) + b'{"trace_id": "' + b"0" * 31 + b'7", cut')
    return path


def first(db: Path, key: str) -> str:
    return next(str(record["id"]) for record in decisions(db) if record["key"] == key)


def test_a_decision_is_shown_as_a_tree_with_times_under_the_message_that_began_it(db: Path, spans: Path) -> None:
    lines = trace_text(first(db, KEYS[0]), db, spans).splitlines()
    assert lines[0].startswith(f"trace {7:032x}, from 20")
    assert lines[1].split() == ["after", "took"]
    shown = [line[33:] for line in lines[2:-1]]
    assert [text.split("  ")[0] for text in shown if text.startswith("~")] == ["~ poll rows", "~ process rows"]
    assert shown[2] == f"span {7:016x} of whoever produced it"
    tree = [text for text in shown if not text.startswith(("~", "span"))]
    depth = {text.strip().split("  ")[0]: len(text) - len(text.lstrip()) for text in tree}
    assert depth == {"window test": 2, "gate test": 2, "classify tiny": 4, "commit decisions": 4}
    assert any("revision=1 action=act" in text for text in tree)
    for line in lines[2:-1]:
        if " ms " in line:
            after, _, took, unit = line.split()[:4]
            assert float(after) >= 0 <= float(took)
            assert unit == "ms"
    assert lines[-1] == "~ a batch that one of its messages came in"


def test_a_trace_is_found_by_its_own_id_too(db: Path, spans: Path) -> None:
    assert trace_text(f"{7:032x}", db, spans) == trace_text(first(db, KEYS[0]), db, spans)
    assert "trace" in trace_text(f"{8:032x}", db / "none", spans)


def test_what_cannot_be_shown_is_told_in_plain_words(db: Path, spans: Path, tmp_path: Path) -> None:
    later = [str(record["id"]) for record in decisions(db)][-1]
    for identifier, file, why in (
        ("p-alice", spans, "is no id of a decision"),
        (later, spans, "knows no traced decision"),
        (first(db, KEYS[0]), tmp_path / "none", "there is no file of spans"),
    ):
        with pytest.raises(UsageError, match=why):
            trace_text(identifier, db, file)
    spans.write_bytes(b"")
    spans.with_name("spans.jsonl.1").write_bytes(b"not a span\n")
    with pytest.raises(UsageError, match="they went to a collector, or the file was full"):
        trace_text(first(db, KEYS[0]), db, spans)
