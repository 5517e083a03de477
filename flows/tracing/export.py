"""Where spans go: a local file, a collector, or both. The flow never waits: what cannot be sent is dropped."""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import orjson
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from schemas.errors import UsageError
from schemas.settings import Settings

log = logging.getLogger(__name__)
BATCH_MAX = 512
DELAY_MS = 1_000
OTLP_TIMEOUT_S = 5
CLOSE_S = 3.0
"""At the end of a run nobody waits longer than this for a collector."""


class FileExporter(SpanExporter):
    """One span a line, JSON. A file that has reached `bytes_max` is moved to `FILE.1`, in place of the one before.

    Several processes may write to one file. Errors: UsageError when it cannot be written at the start.
    """

    def __init__(self, path: Path, bytes_max: int) -> None:
        self._path, self._bytes_max = path, bytes_max
        try:
            path.open("ab").close()
        except OSError as error:
            raise UsageError(f"the trace_file {path} cannot be written ({error.strerror}): check the path") from error

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        lines = b"".join(orjson.dumps(plain(span)) + b"\n" for span in spans)
        try:
            self._append(lines)
        except OSError:
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def _append(self, lines: bytes) -> None:
        while True:
            with self._path.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                here = os.fstat(file.fileno())
                if not self._path.exists() or self._path.stat().st_ino != here.st_ino:
                    continue  # another process has moved it away meanwhile
                if here.st_size + len(lines) > self._bytes_max and here.st_size:
                    self._path.replace(rotated(self._path))
                    continue
                file.write(lines)
                return


def rotated(path: Path) -> Path:
    """Where a full file of spans is moved to."""
    return path.with_name(f"{path.name}.1")


def plain(span: ReadableSpan) -> dict[str, object]:
    """A span as it stands in a file. Times: ns since the epoch; ids: hex."""
    context = span.get_span_context()
    assert context is not None
    scope = span.instrumentation_scope
    return {
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "name": span.name,
        "kind": span.kind.name,
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes or {}),
        "links": [
            {"trace_id": f"{link.context.trace_id:032x}", "span_id": f"{link.context.span_id:016x}"}
            for link in span.links
        ],
        "schema_url": scope.schema_url if scope else None,
    }


class _Quiet(SpanExporter):
    """Says once that spans cannot be written, and once that they can again, whatever happens in between."""

    def __init__(self, exporter: SpanExporter, where: str) -> None:
        self._exporter, self._where = exporter, where
        self._lost = 0
        self._over = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._exporter.export(spans)
        except Exception:
            result = SpanExportResult.FAILURE
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                log.warning("traces go to %s again; %d spans were dropped", self._where, self._lost)
            self._lost = 0
        else:
            if not self._lost and not self._over:  # of what is cut off at the end whoever cuts it off says so
                log.warning("traces cannot be written to %s: they are dropped, the flow goes on", self._where)
            self._lost += len(spans)
        return result

    def shutdown(self) -> None:
        self._over = True
        self._exporter.shutdown()


def exporters(settings: Settings) -> list[SpanExporter]:
    """Where the settings say that spans go; one at least. Errors: UsageError."""
    found: list[SpanExporter] = []
    if settings.trace_file:
        path = Path(settings.trace_file)
        found.append(_Quiet(FileExporter(path, settings.trace_file_bytes_max), str(path)))
    if settings.trace_otlp_endpoint:
        found.append(_Quiet(_otlp(settings.trace_otlp_endpoint), settings.trace_otlp_endpoint))
    if not found:
        raise UsageError("trace_ratio is set, and spans go nowhere: set trace_file or trace_otlp_endpoint as well")
    return found


def _otlp(endpoint: str) -> SpanExporter:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.hostname:
        raise UsageError(
            f"the trace_otlp_endpoint {endpoint} is no address of a collector: give http://HOST:4318 or "
            "grpc://HOST:4317 (https://, grpcs:// with TLS)"
        )
    # What they would say of each attempt is said once, by us.
    for name in ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        if parts.scheme.startswith("http"):
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

            url = endpoint if parts.path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"
            return Http(endpoint=url, timeout=OTLP_TIMEOUT_S)
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return Grpc(endpoint=parts.netloc, insecure=parts.scheme == "grpc", timeout=OTLP_TIMEOUT_S)
    except ImportError as error:
        raise UsageError(
            f"trace_otlp_endpoint needs a package that is not installed ({error.name}): pip install 'tidegate[otlp]'"
        ) from error


class Pipeline:
    """Ended spans on their way to exporters, each behind a bounded queue and a thread of its own."""

    def __init__(self, found: Sequence[SpanExporter], queue_max: int) -> None:
        self.resource = Resource.create({"service.name": "tidegate", "service.version": _version()})
        batch = min(BATCH_MAX, queue_max)
        self._exporters = found
        self._processors = [BatchSpanProcessor(exporter, queue_max, DELAY_MS, batch) for exporter in found]

    def end(self, span: ReadableSpan) -> None:
        """Take a span. Never waits: where the queue is full, the oldest is dropped."""
        for processor in self._processors:
            processor.on_end(span)

    def flush(self) -> None:
        """Write out what is queued, however long it takes."""
        for processor in self._processors:
            processor.force_flush()

    def close(self, limit_s: float = CLOSE_S) -> None:
        """Write out what is queued and end; what a collector has not taken within the limit is dropped."""
        ending = [threading.Thread(target=each.shutdown, name="traces", daemon=True) for each in self._processors]
        for thread in ending:
            thread.start()
        end_s = time.monotonic() + limit_s
        for thread in ending:
            thread.join(max(end_s - time.monotonic(), 0))
        late = [exporter for exporter, thread in zip(self._exporters, ending, strict=True) if thread.is_alive()]
        for exporter in late:
            exporter.shutdown()  # or it would go on trying behind the back of whoever runs next
        if late:
            log.warning("the last traces could not be written within %g s: they are dropped", limit_s)


def _version() -> str:
    try:
        return version("tidegate")
    except PackageNotFoundError:  # run from a checkout
        return "0"
