"""Reading a Kafka source as Bytewax does, partition by partition, without a dataflow."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from flows.connectors.judge import Opened
from flows.connectors.kafka import kafka_source
from flows.registry import load_flow
from flows.status import Status
from operators.adapters.messages import SourceBatch
from operators.adapters.tally import Tally
from schemas.settings import Settings

START_US = 1_700_000_000_000_000


def vital(second: int, patient: str = "p1", hr: float = 80, **more: Any) -> bytes:
    """A message of `vitals`, so many seconds after the start."""
    return orjson.dumps({"ts": START_US // 1000 + second * 1000, "patient": patient, "hr": hr, "seq": second, **more})


class Reading:
    """One opening of a source. states: of partitions, as a recovery store would give them back."""

    def __init__(self, address: str, states: dict[str, Any] | None = None, **options: Any) -> None:
        self.settings = Settings(**options.pop("settings", {}))
        self.tally, self.status, self.stop = Tally(), Status(), threading.Event()
        self.opened: Opened = kafka_source(
            load_flow("ward", self.settings),
            address,
            self.settings,
            Path("no-such-store.db"),
            self.tally,
            self.status,
            self.stop,
            **options,
        )
        self.batches: dict[str, list[SourceBatch]] = {}
        self.parts: dict[str, Any] = {}
        try:
            for name, _ in self.opened.partitions:
                if name == "accepted":
                    continue
                self.batches[name] = []
                self.parts[name] = self.opened.source.build_part("source", name, (states or {}).get(name))
        except BaseException:
            self.close()
            raise
        self.going = set(self.parts)

    def __enter__(self) -> "Reading":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close partitions and source."""
        for part in self.parts.values():
            part.close()
        self.opened.close()

    def step(self) -> None:
        """Ask every partition once."""
        for name in sorted(self.going):
            try:
                self.batches[name] += self.parts[name].next_batch()
            except StopIteration:
                self.going.discard(name)

    def until(self, done: Callable[[], bool], timeout_s: float = 30) -> None:
        """Ask until it is so."""
        end = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < end, f"not within {timeout_s} s: {self.status.snapshot()}"
            self.step()
            time.sleep(0.005)

    def to_end(self, timeout_s: float = 30) -> "Reading":
        """Ask until every partition has ended."""
        self.until(lambda: not self.going, timeout_s)
        return self

    def rows(self, name: str = "vitals/0") -> pl.DataFrame:
        """All rows of a partition so far."""
        return pl.concat([batch.rows for batch in self.batches[name]]) if self.batches[name] else pl.DataFrame()

    def rejects(self, name: str = "vitals/0") -> list[tuple[int, str, str, bytes]]:
        """All refused rows of a partition so far."""
        return [row for batch in self.batches[name] for row in batch.rejects.iter_rows()]

    def count(self, name: str = "vitals/0") -> int:
        """How many rows of a partition came."""
        return sum(batch.rows.height for batch in self.batches[name])

    def states(self) -> dict[str, Any]:
        """What a recovery store would keep now."""
        return {name: part.snapshot() for name, part in self.parts.items()}

    def connected(self, name: str = "kafka") -> bool:
        """What the status says of the source."""
        return self.status.snapshot().sources[name].connected
