"""The real program, traced into a file, and `tidegate trace` over it."""

import json
from pathlib import Path

import pytest

from tests.flow.conftest import Tidegate, records

pytestmark = pytest.mark.flow


def test_a_traced_run_decides_the_same_and_shows_where_a_decisions_time_went(
    tidegate: Tidegate, ward: Path, tmp_path: Path
) -> None:
    config, spans = tmp_path / "traced.toml", tmp_path / "spans.jsonl"
    config.write_text(f'trace_ratio = 1.0\ntrace_file = "{spans}"\n')
    tidegate("run", "ward", "--source", ward, "--sink", tmp_path / "plain.db")
    assert not spans.exists()
    tidegate("run", "ward", "--source", ward, "--sink", tmp_path / "t.db", "--config", config)
    made = records(tidegate, tmp_path / "t.db")
    assert made == records(tidegate, tmp_path / "plain.db")
    read = next(record for record in made if record["revision"])
    shown = tidegate("trace", read["id"], "--db", tmp_path / "t.db", "--config", config).stdout
    for name in ("gate ward", "window ward", "classify ", "commit decisions"):
        assert name in shown
    said = spans.read_text()
    assert not [record["key"] for record in made if f'"{record["key"]}"' in said]
    schemas = {json.loads(line)["schema_url"] for line in said.splitlines()}
    assert schemas == {"https://opentelemetry.io/schemas/1.44.0", "https://opentelemetry.io/schemas/gen-ai/1.42.0"}
    done = tidegate("trace", "0" * 32, "--db", tmp_path / "t.db", "--file", spans, code=2)
    assert "knows no traced decision" in done.stderr
    assert "give --file" in tidegate("trace", read["id"], "--db", tmp_path / "t.db", code=2).stderr
