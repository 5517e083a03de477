"""Sources and outlets, by their addresses, as a span names them."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from flows.tracing import names

INJECTED = ("kafka", "mqtt", "webhook")
"""Outlets that hand a trace on."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where messages come from or go to. topics: of each stream, or of `decisions` and `dead_letters`."""

    system: str
    topics: Mapping[str, str]
    server: Mapping[str, str | int]

    def topic(self, name: str) -> str:
        """What messages of this name are sent to or come from."""
        return self.topics.get(name, name)


def place(address: str) -> Place:
    """The place at an address: of a broker its name and topics, of a file no more than that it is one."""
    scheme, colon, _ = address.partition(":")
    if not colon or scheme in ("parquet", "stdout"):
        return Place(scheme if colon else "file", {}, {})
    parts = urlsplit(address)
    system = {"http": "webhook", "https": "webhook", "mqtts": "mqtt"}.get(scheme, scheme)
    server: dict[str, str | int] = {}
    if "," not in parts.netloc and parts.hostname:
        server[names.SERVER] = parts.hostname
        if parts.port is not None:
            server[names.PORT] = parts.port
    return Place(system, {} if system == "webhook" else dict(parse_qsl(parts.query)), server)
