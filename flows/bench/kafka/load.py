"""What `tidegate bench kafka` reads: the events of `bench windows`, in topics."""

import io
from collections.abc import Iterator

import polars as pl

from flows.bench.windows import KEYS, events
from flows.connectors.kafka.sending import Sending

PARTITIONS = 2
CHUNK = 1_000_000
ARROW_ROWS = 5_000
QUEUE = {"queue.buffering.max.messages": 500_000, "queue.buffering.max.kbytes": 1_000_000, "linger.ms": 20}


def key_of(row: int) -> bytes:
    """Message key of an event: its device, which stays in one partition."""
    return b"d%04d" % (row % KEYS)


def chunks(rows: int) -> Iterator[tuple[int, list[bytes]]]:
    """The events in order, a chunk at a time, with the number of each chunk's first."""
    for first in range(0, rows, CHUNK):
        yield first, events(min(CHUNK, rows - first), first)


def fill_json(servers: str, topic: str, rows: int) -> None:
    """A JSON object in each message; devices in turn, half of them in each partition."""
    with Sending(servers, **QUEUE) as sending:
        for first, lines in chunks(rows):
            for row, line in enumerate(lines, first):
                sending.send(topic, line, key_of(row), row % PARTITIONS)


def fill_arrow(servers: str, topic: str, rows: int) -> None:
    """The same events, as tables of ARROW_ROWS."""
    with Sending(servers, **QUEUE) as sending:
        for _, lines in chunks(rows):
            schema = {"ts": pl.Int64, "device": pl.String, "value": pl.Float64}
            frame = pl.read_ndjson(b"\n".join(lines), schema=schema)
            for partition in range(PARTITIONS):
                part = frame.gather_every(PARTITIONS, partition)
                for start in range(0, part.height, ARROW_ROWS):
                    body = io.BytesIO()
                    part[start : start + ARROW_ROWS].write_ipc_stream(body)
                    sending.send(topic, body.getvalue(), partition=partition)
