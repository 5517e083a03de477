"""JSON Lines on standard input and output."""

import sys
from collections.abc import Iterator
from typing import Any

import orjson


def say(value: Any) -> None:
    """One value on one line of standard output."""
    sys.stdout.buffer.write(orjson.dumps(value) + b"\n")


def lines() -> Iterator[bytes]:
    """The lines of standard input that hold something."""
    found = (line for line in sys.stdin.buffer if line.strip())
    for first in found:
        yield first.removeprefix(b"\xef\xbb\xbf")  # some editors put one there
        break
    yield from found
