"""Outlets: where decisions go from the store. The store comes first; each outlet follows it in a thread of its own.

An outlet has a place in the store, kept in the store, which moves once what was sent is acknowledged. So nothing is
lost for one that is down, the others do not wait, and the store itself is what waits for it. `flows.store.outbox`
says what a consumer sees.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn, Protocol, runtime_checkable
from urllib.parse import SplitResult, parse_qsl, urlsplit

from schemas.errors import SinkLost, UsageError
from schemas.settings import Settings

Kind = Literal["decision", "dead_letter"]
NAME_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Item:
    """What an outlet sends at once.

    n: its number in the store, rising within a kind. id: of the decision, or source:offset:reason of a dead letter.
    body: one JSON object; of a decision as `tidegate decisions --json` prints it. traceparent: W3C, where it is traced.
    """

    n: int
    kind: Kind
    id: str
    revision: int
    body: bytes
    traceparent: str | None = None

    @property
    def mark(self) -> str:
        """Tells this item from another that has its number in another store."""
        return hashlib.sha256(self.body).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An item that the far side will never take, and why."""

    item: Item
    why: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A place that the far side keeps: the number of the last item it holds, and that item's mark."""

    n: int
    mark: str


@dataclass(frozen=True, slots=True)
class Pace:
    """How much goes at once. linger_s: less than `rows` waits this long for more."""

    rows: int
    bytes: int
    linger_s: float = 0.0


class OutletDown(SinkLost):
    """Not all of it was acknowledged: what is left is sent again later.

    done: how many items, from the first, are settled; refusals: those among them that were refused.
    retry_after_s: the far side asked to be left alone for so long.
    """

    def __init__(
        self, why: str, done: int = 0, refusals: Sequence[Refusal] = (), retry_after_s: float | None = None
    ) -> None:
        super().__init__(why)
        self.done, self.refusals, self.retry_after_s = done, refusals, retry_after_s


class Outlet(Protocol):
    """Somewhere decisions are sent. Used by one thread.

    name: under which the store keeps its place. dead_letters: whether it wants them. pace: None for the settings' own.
    """

    name: str
    dead_letters: bool = False
    pace: Pace | None = None

    def send(self, items: Sequence[Item]) -> Sequence[Refusal] | None:
        """Returns when ALL are acknowledged, those aside that it gives back as refused.

        Errors: OutletDown when not; what is left is offered again, after a while that grows.
        """

    def close(self) -> None:
        """Let go of what it holds. Nothing that was acknowledged is lost."""


@runtime_checkable
class Remembers(Protocol):
    """An outlet whose far side keeps the place together with what was sent, so that nothing is sent twice."""

    def remembered(self) -> Mapping[Kind, Mark]:
        """What the far side holds, asked at the start and after each failure. Errors: OutletDown."""


class Told(Protocol):
    """Who wants to know how outlets fare. sent, failed: items and attempts since the start."""

    def outlet(self, name: str, behind: int, sent: int, failed: int, why: str = "") -> None:
        """Take note."""


@dataclass(frozen=True, slots=True)
class Address:
    """An outlet's address, taken apart. options: what stands after `?`, or after `#` where `?` is for the far side."""

    text: str
    parts: SplitResult
    options: Mapping[str, str] = field(default_factory=dict)

    def refuse(self, why: str) -> NoReturn:
        """Errors: UsageError with the address in it."""
        raise UsageError(f"the sink {self.text}: {why}")

    def named(self, default: str) -> str:
        """The name it was given, or `default`. Errors: UsageError."""
        name = self.options.get("name", default)
        if not name or len(name) > NAME_CHARS_MAX:
            self.refuse(f"its name must have 1 to {NAME_CHARS_MAX} characters: give name=...")
        return name

    def only(self, *known: str) -> None:
        """Errors: UsageError for an option that is not known, or is empty."""
        for option, value in self.options.items():
            if option not in (*known, "name"):
                self.refuse(f"{option} is no option of it: it takes {', '.join((*known, 'name'))}")
            if not value:
                self.refuse(f"{option} is empty: give it a value, or leave it out")

    def switch(self, option: str) -> bool:
        """An option that is true or false. Errors: UsageError."""
        value = self.options.get(option, "false")
        if value not in ("true", "false"):
            self.refuse(f"{option} is {value}: give true or false")
        return value == "true"


def outlet(address: str, settings: Settings, token: str) -> Outlet:
    """The outlet at `address`; nothing is connected yet. token: of the store that it follows, `outbox.token`.

    Addresses: kafka://HOST:PORT[,HOST:PORT]?decisions=TOPIC[&dead_letters=TOPIC][&transactional=true],
    mqtt://HOST:PORT?decisions=TOPIC[&dead_letters=TOPIC], parquet:FOLDER, http(s)://... (a webhook), stdout:.
    Any of them takes name=NAME, under which the store keeps its place when the address changes; a webhook after #.
    Errors: UsageError.
    """
    scheme = address.partition(":")[0]
    build = _KINDS.get(scheme)
    if build is None or ":" not in address:
        raise UsageError(
            f"the sink {address} is of no known kind: give a file (tidegate.db), or kafka://, mqtt://, parquet:, "
            "https:// or stdout:"
        )
    return build(address, settings, token)


def taken_apart(address: str, options_in: Literal["query", "fragment"] = "query") -> Address:
    """An address with its options. Errors: UsageError when it cannot be read, or holds a password."""
    try:
        parts = urlsplit(address)
        pairs = parse_qsl(getattr(parts, options_in), keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise UsageError(f"the sink {address} cannot be read ({error}): check how it is written") from error
    found = Address(address, parts, dict(pairs))
    if len(found.options) < len(pairs):
        found.refuse("an option stands there twice: leave one out")
    if parts.password:
        # It would be shown wherever the outlet is named.
        raise UsageError("a sink's address must hold no password: put it in a file, and name that in the settings")
    return found


def _kafka(address: str, settings: Settings, token: str) -> Outlet:
    from flows.connectors.outlets.kafka import kafka_outlet

    return kafka_outlet(taken_apart(address), settings, token)


def _mqtt(address: str, settings: Settings, token: str) -> Outlet:
    from flows.connectors.mqtt.outlet import mqtt_outlet

    return mqtt_outlet(address, settings)


def _parquet(address: str, settings: Settings, token: str) -> Outlet:
    from flows.connectors.outlets.parquet import parquet_outlet

    return parquet_outlet(taken_apart(address), settings, token)


def _webhook(address: str, settings: Settings, token: str) -> Outlet:
    from flows.connectors.outlets.webhook import webhook_outlet

    return webhook_outlet(taken_apart(address, "fragment"), settings)


def _stdout(address: str, settings: Settings, token: str) -> Outlet:
    from flows.connectors.outlets.stdout import stdout_outlet

    return stdout_outlet(taken_apart(address))


_KINDS: dict[str, Callable[[str, Settings, str], Outlet]] = {
    "kafka": _kafka,
    "mqtt": _mqtt,
    "mqtts": _mqtt,
    "parquet": _parquet,
    "http": _webhook,
    "https": _webhook,
    "stdout": _stdout,
}


def key_file(path: Path, what: str, bytes_min: int) -> bytes:
    """A secret kept in a file, without the line end an editor puts there. Errors: UsageError."""
    try:
        key = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read ({error.strerror}): check the path") from error
    if len(key) < bytes_min:
        raise UsageError(f"{what} {path} holds {len(key)} bytes: a key has at least {bytes_min}")
    return key
