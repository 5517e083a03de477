"""What a dead letter keeps beside its bytes: the record that names the columns of CSV, or a Kafka message's headers."""

from collections.abc import Sequence

import orjson

_OF_MESSAGE = b'{"headers":[['


def packed(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    """A message's headers in their order, as JSON: a value as text, or in hexadecimal where it is no UTF-8."""
    return orjson.dumps({"headers": [[name, _shown(value)] for name, value in headers]})


def of_message(kept: bytes | None) -> bool:
    """Whether it is what `packed` gave, and names no columns."""
    return kept is not None and kept.startswith(_OF_MESSAGE)


def _shown(value: bytes | None) -> str | dict[str, str] | None:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"hex": value.hex()}
