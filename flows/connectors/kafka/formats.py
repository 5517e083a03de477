"""What messages hold: JSON, Arrow IPC, Avro -> rows as the judge takes them. A bad message costs itself only.

How an offset names a row. JSON and Avro: one row in a message, and the row's offset is the message's. Arrow: a message
holds a table, and row r of the message at offset m is m * 2**20 + r; so a row has one name wherever reading began, and
offsets rise. A refused message as a whole goes by its row 0.

What a refused row keeps: of JSON the message as it came. Of Arrow and Avro a JSON object of its fields, which can be
sent again as it is; where a message cannot be read at all, the message as it came.
"""

import io
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Protocol

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from flows.connectors.files import Chunk
from flows.connectors.judge import Offsets, Piece
from flows.connectors.kafka.client import Topic
from flows.connectors.kafka.registry import Registry
from operators.columnar.checks import REJECTS
from schemas.errors import UsageError
from schemas.settings import Settings

ROW_BITS = 20
"""Bits of a row's offset that count rows inside an Arrow message."""
ROWS_MAX = 1 << ROW_BITS
TOMBSTONE = "a tombstone: the message has no value"
Values = Sequence[bytes | None]
Fault = tuple[int, str, str, bytes]
"""Offset, reason, detail, raw bytes of a message that is out."""


class Format(Protocol):
    """Messages of one topic -> rows. row_bits: how far a message's offset is shifted to be that of its first row."""

    row_bits: int

    def pieces(self, values: Values, offsets: Offsets) -> list[Piece]:
        """Rows in order; offsets: of the messages, (n,). Errors: RegistryDown."""


def format_of(topic: Topic, settings: Settings) -> Format:
    """How the messages of a topic are read. Errors: UsageError."""
    if topic.format == "arrow":
        return Arrow(settings.kafka_message_bytes_max)
    if topic.format == "avro":
        if not settings.kafka_registry:
            raise UsageError(f"the topic {topic.name} holds Avro: set kafka_registry to the schema registry's address")
        return Avro(Registry(settings.kafka_registry), settings.kafka_message_bytes_max)
    return Json()


class Json:
    """One JSON object in a message."""

    row_bits = 0

    def pieces(self, values: Values, offsets: Offsets) -> list[Piece]:
        if None not in values:
            return [Piece(Chunk(values), offsets)]  # type: ignore[arg-type]
        there = [(value, offset) for value, offset in zip(values, offsets.tolist(), strict=True) if value is not None]
        gone = [(offset, *_NO_VALUE) for value, offset in zip(values, offsets.tolist(), strict=True) if value is None]
        return [Piece(Chunk([value for value, _ in there]), _array([at for _, at in there]), _rejects(gone))]


class Avro:
    """One Avro record in a message, in the Confluent wire format: a zero byte, the schema's id, the record."""

    row_bits = 0

    def __init__(self, registry: Registry, bytes_max: int) -> None:
        self._registry, self._bytes_max = registry, bytes_max

    def pieces(self, values: Values, offsets: Offsets) -> list[Piece]:
        lines: list[bytes] = []
        kept: list[int] = []
        faults: list[Fault] = []
        for value, offset in zip(values, offsets.tolist(), strict=True):
            fault = _unfit(value, self._bytes_max)
            if value is not None and fault is None:
                try:
                    lines.append(orjson.dumps(self._registry.decode(value), default=_plain))
                    kept.append(offset)
                    continue
                except (ValueError, TypeError) as error:  # orjson's errors are these too
                    fault = ("not_json", f"not an Avro record: {error}")
            assert fault is not None
            faults.append((offset, *fault, value or b""))
        return [Piece(Chunk(lines), _array(kept), _rejects(faults))]


class Arrow:
    """A table in a message: Arrow IPC, stream or file."""

    row_bits = ROW_BITS

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max

    def pieces(self, values: Values, offsets: Offsets) -> list[Piece]:
        tables: list[tuple[pl.DataFrame, int]] = []
        faults: list[Fault] = []
        for value, offset in zip(values, offsets.tolist(), strict=True):
            fault = _unfit(value, self._bytes_max)
            if value is not None and fault is None:
                try:
                    table = _table(value)
                    if table.height <= ROWS_MAX:
                        tables.append((table, offset << ROW_BITS))
                        continue
                    fault = ("too_long", f"{table.height} rows; the limit is {ROWS_MAX} in a message")
                except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as error:
                    fault = ("not_json", f"not an Arrow IPC table: {str(error)[:200]}")
            assert fault is not None
            faults.append((offset << ROW_BITS, *fault, value or b""))
        pieces = [Piece(rejects=_rejects(faults))] if faults else []
        return pieces + [_stacked(group) for group in _alike(tables)]


_NO_VALUE = ("missing_field", TOMBSTONE, b"")


def _unfit(value: bytes | None, bytes_max: int) -> tuple[str, str] | None:
    if value is None:
        return _NO_VALUE[:2]
    if len(value) > bytes_max:
        return "too_long", f"{len(value)} bytes; the limit is kafka_message_bytes_max = {bytes_max}"
    return None


def _table(value: bytes) -> pl.DataFrame:
    read: Callable[..., pl.DataFrame] = pl.read_ipc if value.startswith(b"ARROW1") else pl.read_ipc_stream
    return read(io.BytesIO(value))


def _alike(tables: Sequence[tuple[pl.DataFrame, int]]) -> list[list[tuple[pl.DataFrame, int]]]:
    """Neighbours with the same columns, so that each group is decoded at once."""
    groups: list[list[tuple[pl.DataFrame, int]]] = []
    for table, first in tables:
        if groups and groups[-1][-1][0].schema == table.schema:
            groups[-1].append((table, first))
        else:
            groups.append([(table, first)])
    return groups


def _stacked(group: Sequence[tuple[pl.DataFrame, int]]) -> Piece:
    offsets = np.concatenate([np.arange(first, first + table.height) for table, first in group])
    return Piece(Chunk((), pl.concat([table for table, _ in group], rechunk=True)), offsets)


def _array(offsets: Sequence[int]) -> NDArray[np.int64]:
    return np.array(offsets, np.int64)


def _rejects(faults: Sequence[Fault]) -> pl.DataFrame:
    return pl.DataFrame(faults, REJECTS, orient="row")


def _plain(value: object) -> object:
    """What JSON has no form for: bytes as text, decimals as numbers, all else as it is written."""
    if isinstance(value, Decimal):
        return float(value)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
