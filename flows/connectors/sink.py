"""The decision store as a Bytewax sink: one partition, so that one worker writes."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bytewax.outputs import FixedPartitionedSink, Sink, StatefulSinkPartition

from flows.connectors.sqlite import Batch, DeadLetter, SqliteStore
from flows.tracing import Tracing
from operators.adapters.messages import DeadLetters, Decided
from operators.adapters.steps import SINK_KEY
from schemas.decisions import Sealed

OnRecords = Callable[[Sequence[Sealed]], None]
OnRefused = Callable[[DeadLetters], None]
RecordSink = Sink[tuple[str, Decided | DeadLetters]]


class _StorePartition(StatefulSinkPartition[Decided | DeadLetters, None]):
    def __init__(
        self,
        path: Path,
        flow: str,
        on_records: OnRecords | None,
        tracing: Tracing | None,
        refused: OnRefused | None,
    ) -> None:
        self._store = SqliteStore(path)
        self._flow = flow
        self._on_records = on_records
        self._tracing = tracing
        self._refused = refused

    def write_batch(self, values: list[Decided | DeadLetters]) -> None:
        batch = Batch()
        for value in values:
            if isinstance(value, Decided):
                batch.records.extend(value.records)
                batch.alerts.extend(value.alerts)
                batch.traces.extend(value.traces)
            elif self._refused is not None:
                self._refused(value)
            else:
                batch.dead_letters.extend(
                    DeadLetter._make((self._flow, value.stream, value.source, *row, value.beside.get(row[0])))
                    for row in value.rejects.iter_rows()
                )
        began_ns = time.monotonic_ns()
        self._store.write(batch, time.time_ns() // 1000)
        if self._tracing is not None and batch.traces:
            self._tracing.committed(batch.traces, began_ns, len(batch.records))
        if self._on_records is not None and batch.records:
            self._on_records([record for record, _ in batch.records])

    def snapshot(self) -> None:
        return None  # everything written is committed and written again harmlessly

    def close(self) -> None:
        self._store.close()


class StoreSink(FixedPartitionedSink[Decided | DeadLetters, None]):
    """Writes to one SQLite file. here: this process has it, no other one of a cluster. refused: takes the dead letters,
    which are not written then.

    Errors: SinkLost when the file cannot be written any more.
    """

    def __init__(
        self,
        path: Path,
        flow: str,
        on_records: OnRecords | None = None,
        *,
        here: bool = True,
        tracing: Tracing | None = None,
        refused: OnRefused | None = None,
    ) -> None:
        self._path = path
        self._flow = flow
        self._on_records = on_records
        self._here = here
        self._tracing = tracing
        self._refused = refused

    def list_parts(self) -> list[str]:
        return [SINK_KEY] if self._here else []

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _StorePartition:
        return _StorePartition(self._path, self._flow, self._on_records, self._tracing, self._refused)
