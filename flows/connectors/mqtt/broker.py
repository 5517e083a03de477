"""A broker's address, and how every client of ours connects to it: MQTT 5, TLS, user and password."""

import logging
import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from schemas.errors import UsageError
from schemas.settings import Settings

log = logging.getLogger(__name__)

CONNECT_S = 5.0
WRONG = {
    132: "it does not speak MQTT 5",
    133: "it does not take our client id: change mqtt_client_id",
    134: "user or password is wrong: check the user in the address, and mqtt_password",
    135: "user or password is wrong, or may not connect: check the user in the address, and mqtt_password",
    138: "it has banned us",
    140: "it wants another kind of authentication than user and password",
}
"""Reason codes of a refused connection that no waiting mends, and what to do."""


class Refused(Exception):
    """The broker answered, and does not let us in."""

    def __init__(self, code: int, name: str) -> None:
        super().__init__(WRONG.get(code, f"it refuses the connection ({name})"))
        self.code = code  # of its CONNACK


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a broker is and what it is told. session_s: how long it keeps what comes for us while we are away."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    tls: ssl.SSLContext | None
    keepalive_s: int
    session_s: int
    inflight_max: int

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self.host}:{self.port}"

    def client(self, client_id: str, *, manual_ack: bool = False) -> mqtt.Client:
        """A client that is not connected yet. manual_ack: a message is acknowledged only where we say so."""
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=mqtt.MQTTv5,
            manual_ack=manual_ack,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(self.inflight_max)
        if self.user:
            client.username_pw_set(self.user, self.password or None)
        if self.tls is not None:
            client.tls_set_context(self.tls)
        return client

    def connect(self, client: mqtt.Client, *, keep_session: bool) -> None:
        """Open the connection and ask to be let in; the answer comes to `on_connect`. Errors: OSError."""
        told = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        told.ReceiveMaximum = self.inflight_max
        told.SessionExpiryInterval = self.session_s if keep_session else 0
        client.connect(self.host, self.port, self.keepalive_s, clean_start=not keep_session, properties=told)

    def check(self) -> None:
        """Errors: UsageError where the broker, asked once, says that we do not fit. One that is away is no error."""
        client = self.client("")  # an id of the broker's choice: our own sessions stay as they are
        try:
            self.connect(client, keep_session=False)
            wait_for_answer(client, CONNECT_S)
        except Refused as refused:
            if refused.code in WRONG:
                raise UsageError(f"the MQTT broker {self.address} does not let us in: {refused}") from refused
            log.warning("the MQTT broker %s does not let us in yet (%s): it is tried again", self.address, refused)
        except ssl.SSLError as error:
            raise UsageError(
                f"no TLS with the MQTT broker {self.address} ({said(error)}): check the port, and mqtt_tls_ca"
            ) from error
        except socket.gaierror as error:
            if error.errno == socket.EAI_NONAME:
                raise UsageError(f"no host {self.host} is known: check the MQTT address") from error
            log.warning("the MQTT broker %s cannot be reached yet (%s)", self.address, said(error))
        except OSError as error:
            log.warning("the MQTT broker %s cannot be reached yet (%s): it is tried again", self.address, said(error))
        finally:
            client.disconnect()


def said(error: BaseException) -> str:
    """An error in few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not believed: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def wait_for_answer(client: mqtt.Client, limit_s: float) -> None:
    """Serve a connection until it is let in. Errors: Refused; OSError (TimeoutError too) where it is lost."""
    answer: list[Any] = []
    before: Any = client.on_connect

    def heard(client: mqtt.Client, data: Any, flags: Any, code: Any, told: Any) -> None:
        answer.append(code)
        if before is not None:
            before(client, data, flags, code, told)

    client.on_connect = heard
    try:
        serve(client, limit_s, lambda: bool(answer))
    except ConnectionError:
        if not answer:
            raise
    finally:
        client.on_connect = before
    if answer[0].is_failure:
        raise Refused(answer[0].value, str(answer[0]))


def serve(client: mqtt.Client, limit_s: float, done: Callable[[], bool]) -> None:
    """Run a connection in this thread until `done()`. Errors: ConnectionError when lost, TimeoutError."""
    end = time.monotonic() + limit_s
    while not done():
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        step(client, min(left, 0.1))


def step(client: mqtt.Client, wait_s: float) -> None:
    """Wait for the connection, read what one call reads, write what waits. Errors: ConnectionError when lost."""
    opened = client.socket()
    if opened is None:
        raise ConnectionResetError("the connection was closed")
    pending = getattr(opened, "pending", None)
    if pending is None or not pending():
        select.select([opened], [opened] if client.want_write() else [], [], wait_s)
    for served in (client.loop_read(), client.loop_write(), client.loop_misc()):
        if served != mqtt.MQTT_ERR_SUCCESS:
            raise ConnectionResetError(mqtt.error_string(served).rstrip("."))


@dataclass(frozen=True, slots=True)
class Address:
    """`mqtt[s]://[USER@]HOST[:PORT]?NAME=VALUE&...` taken apart; a name may stand there more than once."""

    text: str
    scheme: str
    host: str
    port: int | None
    user: str
    options: dict[str, list[str]]

    @classmethod
    def parse(cls, text: str) -> "Address":
        """`+` and `#` mean themselves here: they belong to topic filters. Errors: UsageError."""
        scheme, _, rest = text.partition("://")
        where, _, options = rest.partition("?")
        try:
            parts = urlsplit(f"//{where}")
            host, port, user = parts.hostname or "", parts.port, unquote(parts.username or "")
        except ValueError as error:
            raise UsageError(f"the MQTT address {text} cannot be read ({error}): give mqtt://HOST:PORT?...") from error
        if scheme not in ("mqtt", "mqtts") or not host or parts.path.strip("/"):
            raise UsageError(f"the MQTT address {text} cannot be read: give mqtt://HOST:PORT?... (mqtts:// with TLS)")
        if parts.password is not None:
            # It would be shown wherever the address is named.
            raise UsageError("an MQTT address must hold no password: set mqtt_password to file:PATH")
        found: dict[str, list[str]] = {}
        for pair in filter(None, options.split("&")):
            name, _, value = pair.partition("=")
            if not value:
                raise UsageError(f"the MQTT address {text}: {name} is empty: give it a value, or leave it out")
            found.setdefault(unquote(name), []).append(unquote(value))
        return cls(text, scheme, host, port, user, found)

    def broker(self, settings: Settings) -> Broker:
        """The broker there, under these settings. Errors: UsageError."""
        tls = self.scheme == "mqtts" or bool(settings.mqtt_tls_ca)
        return Broker(
            host=self.host,
            port=self.port or (8883 if self.scheme == "mqtts" else 1883),
            user=self.user,
            password=_secret(settings.mqtt_password),
            tls=_tls(settings) if tls else None,
            keepalive_s=settings.mqtt_keepalive_s,
            session_s=settings.mqtt_session_s,
            inflight_max=settings.mqtt_inflight_max,
        )


def _secret(value: str) -> str:
    if not value.startswith("file:"):
        return value
    path = Path(value.removeprefix("file:"))
    try:
        return path.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"mqtt_password: the file {path} cannot be read ({said(error)}): check the path") from error


def _tls(settings: Settings) -> ssl.SSLContext:
    ca, cert, key = settings.mqtt_tls_ca, settings.mqtt_tls_cert, settings.mqtt_tls_key
    try:
        context = ssl.create_default_context(cafile=ca or None)
        if cert:
            context.load_cert_chain(cert, key or None)
    except OSError as error:
        names = ", ".join(filter(None, (ca, cert, key)))
        raise UsageError(f"mqtt_tls_ca, _cert, _key ({names}) cannot be used ({said(error)}): check them") from error
    return context
