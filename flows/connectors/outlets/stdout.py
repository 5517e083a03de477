"""Decisions on standard output, one JSON object a line."""

import sys
from collections.abc import Sequence
from typing import BinaryIO

from flows.connectors.outlets import Address, Item, Outlet, OutletDown


class StdoutOutlet(Outlet):
    """Writes lines; acknowledged means handed to whoever reads them."""

    def __init__(self, name: str, dead_letters: bool, out: BinaryIO) -> None:
        self.name, self.dead_letters, self._out = name, dead_letters, out

    def send(self, items: Sequence[Item]) -> None:
        """Write and flush. Errors: OutletDown when nobody reads any more."""
        try:
            self._out.write(b"".join(item.body + b"\n" for item in items))
            self._out.flush()
        except (OSError, ValueError) as error:  # the second: it was closed
            raise OutletDown(f"standard output cannot be written ({error}): start again with a reader") from error

    def close(self) -> None:
        """Standard output is not ours to close."""


def stdout_outlet(address: Address) -> StdoutOutlet:
    """`stdout:`, with `?dead_letters=true` for those too. Errors: UsageError."""
    address.only("dead_letters")
    if address.parts.netloc or address.parts.path:
        address.refuse("nothing comes after it: give stdout:")
    return StdoutOutlet(address.named("stdout"), address.switch("dead_letters"), sys.stdout.buffer)
