"""Where spans go: a file that stays small, a collector over gRPC and HTTP, and nowhere while one is down."""

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import orjson
import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from flows.tracing import Tracing, traced
from flows.tracing.export import OTLP_TIMEOUT_S, FileExporter, Pipeline, exporters
from flows.tracing.spans import Spans
from schemas.errors import UsageError
from schemas.settings import Settings
from tests.unit import otlp_receiver
from tests.unit.otlp_receiver import Received
from tests.unit.sealed import Chains
from tests.unit.traced_flow import KEY, MODEL, memory

ROW = {"key": "a", "start_us": 0, "end_us": 1, "rows": 1}


def some_decisions(tracing: Tracing | None, count: int) -> None:
    assert tracing is not None
    record, _ = Chains().add("a", 0)
    for _ in range(count):
        decision = tracing.decision(ROW, None, 0, 0)
        assert decision is not None
        decision.decided(record, 0, 1, None)


@pytest.mark.parametrize("receiver", [otlp_receiver.over_grpc, otlp_receiver.over_http], ids=["grpc", "http"])
def test_a_collector_gets_every_span(receiver: Callable[[], AbstractContextManager[tuple[str, Received]]]) -> None:
    with receiver() as (endpoint, received):
        with traced(Settings(trace_ratio=1, trace_otlp_endpoint=endpoint), "ward", "folder", MODEL) as tracing:
            some_decisions(tracing, 20)
        spans = received.spans()
    assert sorted(span.name for span, _ in spans) == ["gate ward"] * 20 + ["window ward"] * 20
    assert {schema for _, schema in spans} == {"https://opentelemetry.io/schemas/1.44.0"}
    assert {resource["service.name"] for resource in received.resources()} == {"tidegate"}
    gates = {span.span_id for span, _ in spans if span.name == "gate ward"}
    assert {span.parent_span_id for span, _ in spans if span.name == "window ward"} == gates


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_a_collector_that_does_not_answer_holds_nothing_up_and_is_mentioned_once(
    scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings(trace_ratio=1, trace_otlp_endpoint=f"{scheme}://127.0.0.1:{silent.getsockname()[1]}")
        made = Pipeline(exporters(settings), 64)
        tracing = Spans(made, 1, KEY, "ward", "folder")
        began = time.monotonic()
        some_decisions(tracing, 500)
        assert time.monotonic() - began < 3
        began = time.monotonic()
        with caplog.at_level(logging.WARNING):
            made.close(0.2)
        assert time.monotonic() - began < 2
    said = [record.getMessage() for record in caplog.records if record.name.startswith(("flows", "opentelemetry"))]
    assert said == ["the last traces could not be written within 0.2 s: they are dropped"]
    for thread in set(threading.enumerate()) - before:
        thread.join(OTLP_TIMEOUT_S)
        assert not thread.is_alive(), "what is dropped is not tried again"


def test_a_collector_that_is_down_is_mentioned_once_and_once_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = tmp_path / "away"
    away.mkdir()
    settings = Settings(trace_ratio=1, trace_file=str(away / "spans"))
    (exporter,) = exporters(settings)
    spans = memory(1.0)
    some_decisions(spans.tracing, 1)
    spans.pipeline.flush()
    ended = spans.exporter.get_finished_spans()
    (away / "spans").unlink()
    away.rmdir()
    with caplog.at_level(logging.WARNING):
        assert [exporter.export(ended) for _ in range(3)] == [SpanExportResult.FAILURE] * 3
        away.mkdir()
        assert [exporter.export(ended) for _ in range(3)] == [SpanExportResult.SUCCESS] * 3
    down, back = (record.getMessage() for record in caplog.records)
    assert down == f"traces cannot be written to {away / 'spans'}: they are dropped, the flow goes on"
    assert back == f"traces go to {away / 'spans'} again; 6 spans were dropped"


def test_a_file_of_spans_stays_within_its_bound_and_every_line_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "spans.jsonl"
    settings = Settings(trace_ratio=1, trace_file=str(path), trace_file_bytes_max=20_000, trace_queue_max=16)
    for _ in range(3):
        with traced(settings, "ward", "folder") as tracing:
            for _ in range(10):
                some_decisions(tracing, 4)
                time.sleep(0.002)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["spans.jsonl", "spans.jsonl.1"]
    for file in files:
        assert 0 < file.stat().st_size <= 20_000
        for line in file.read_bytes().splitlines():
            span = orjson.loads(line)
            assert span["end_ns"] >= span["start_ns"] > 0
            assert span["attributes"]["tidegate.step"] in ("gate", "window")


def test_a_full_disk_costs_spans_and_nothing_else() -> None:
    found = memory(1.0)
    some_decisions(found.tracing, 1)
    found.pipeline.flush()
    exporter = FileExporter(Path("/dev/full"), 10_000)
    assert exporter.export(found.exporter.get_finished_spans()) is SpanExportResult.FAILURE


def test_without_the_extra_a_collector_is_refused_in_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme, module in (("grpc", "grpc"), ("http", "http")):
        monkeypatch.setitem(sys.modules, f"opentelemetry.exporter.otlp.proto.{module}.trace_exporter", None)
        with pytest.raises(UsageError, match=r"pip install 'tidegate\[otlp\]'"):
            exporters(Settings(trace_ratio=1, trace_otlp_endpoint=f"{scheme}://127.0.0.1:4317"))
