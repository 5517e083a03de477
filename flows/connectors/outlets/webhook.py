"""Decisions to a web server: one signed POST each, in order, over a connection that stays open.

One decision a request, so that a server which refuses one has not refused others, and may answer each by itself.
What it gets beside the JSON body:
  Idempotency-Key        ID:REVISION:MARK, the same whenever this decision is sent again. The mark is part of it because
                         a restart may replace a revision that was sent (`flows.store.outbox`): that is another request.
  X-Tidegate-Signature   t=SECONDS,v1=HEX: HMAC-SHA256 with the shared key over "SECONDS." and the body. A receiver
                         compares, and refuses a time that is too far from its own.
  X-Tidegate-Kind        decision or dead_letter
  traceparent            where the decision is traced
Answers: 2xx is an acknowledgement. Another 4xx than those below refuses this one: it is noted in the store and not sent
again. 401, 403, 404, 405, 407, 410 (the address or the key is wrong, not the decision), 408, 425, 429, 3xx and 5xx:
sent again later, at the earliest after what Retry-After says. A redirect is never followed: it could lead elsewhere.
"""

import hashlib
import hmac
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path

from flows.connectors.outlets import Address, Item, Outlet, OutletDown, Pace, Refusal, key_file
from schemas.settings import Settings

NOT_ITS_FAULT = frozenset({401, 403, 404, 405, 407, 408, 410, 425, 429})
"""Of 4xx: those that say nothing about the one decision that was sent."""
ROWS_MAX = 20
"""Requests after which the store is told: what a kill makes come again."""
KEY_BYTES_MIN = 16
ANSWER_BYTES_MAX = 65_536
RETRY_AFTER_S_MAX = 3600.0


def signature(key: bytes, at_s: int, body: bytes) -> str:
    """What the header X-Tidegate-Signature holds."""
    return f"t={at_s},v1={hmac.new(key, b'%d.' % at_s + body, hashlib.sha256).hexdigest()}"


class WebhookOutlet(Outlet):
    """A web server. Its certificate is checked against the system's authorities (or those in SSL_CERT_FILE)."""

    def __init__(
        self, name: str, address: Address, key: bytes, timeout_s: float, now_s: Callable[[], float] = time.time
    ) -> None:
        self.name, self.pace = name, Pace(ROWS_MAX, 10 * ANSWER_BYTES_MAX)
        self._parts, self._key, self._timeout_s, self._now_s = address.parts, key, timeout_s, now_s
        self._target = (address.parts.path or "/") + (f"?{address.parts.query}" if address.parts.query else "")
        self._open: HTTPConnection | None = None

    def send(self, items: Sequence[Item]) -> Sequence[Refusal]:
        """POST them one after the other. Errors: OutletDown, with how many are settled."""
        refusals: list[Refusal] = []
        for done, item in enumerate(items):
            try:
                status, headers = self._post(item)
            except (OSError, HTTPException) as error:
                self.close()
                raise OutletDown(f"{self._server} cannot be reached ({_said(error)})", done, refusals) from error
            if 200 <= status < 300:
                continue
            if 400 <= status < 500 and status not in NOT_ITS_FAULT:
                refusals.append(Refusal(item, f"{self._server} answers {status}"))
                continue
            why = f"{self._server} answers {status}"
            if 300 <= status < 400:
                why += f", a redirect to {headers.get('Location', 'nowhere')[:200]}: give that address if it is right"
            raise OutletDown(why, done, refusals, self._retry_after_s(headers))
        return refusals

    def close(self) -> None:
        """Close the connection."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _post(self, item: Item) -> tuple[int, Message]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "tidegate",
            "Idempotency-Key": f"{item.id}:{item.revision}:{item.mark}",
            "X-Tidegate-Kind": item.kind,
            "X-Tidegate-Signature": signature(self._key, int(self._now_s()), item.body),
        }
        if item.traceparent is not None:
            headers["traceparent"] = item.traceparent
        fresh = self._open is None
        try:
            answer = self._ask(item.body, headers)
        except (ConnectionError, HTTPException):
            # A server may close a connection that was idle; what it got it knows again by the key.
            self.close()
            if fresh:
                raise
            answer = self._ask(item.body, headers)
        if len(answer.read(ANSWER_BYTES_MAX + 1)) > ANSWER_BYTES_MAX or answer.will_close:
            self.close()
        return answer.status, answer.headers

    def _ask(self, body: bytes, headers: Mapping[str, str]) -> HTTPResponse:
        if self._open is None:
            self._open = self._connection()
        self._open.request("POST", self._target, body, dict(headers))
        return self._open.getresponse()

    def _connection(self) -> HTTPConnection:
        host = self._parts.hostname or ""
        if self._parts.scheme == "https":
            return HTTPSConnection(
                host, self._parts.port, timeout=self._timeout_s, context=ssl.create_default_context()
            )
        return HTTPConnection(host, self._parts.port, timeout=self._timeout_s)

    @property
    def _server(self) -> str:
        return f"{self._parts.scheme}://{self._parts.netloc}"

    def _retry_after_s(self, headers: Message) -> float | None:
        """Seconds or a date, as HTTP has it; what is neither counts as not there."""
        text = headers.get("Retry-After", "").strip()
        try:
            if text.isdecimal():
                seconds = float(text[:9])
            else:
                moment = parsedate_to_datetime(text)
                seconds = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - self._now_s()
        except (ValueError, OverflowError):
            return None
        return min(max(seconds, 0.0), RETRY_AFTER_S_MAX)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def webhook_outlet(address: Address, settings: Settings) -> WebhookOutlet:
    """`https://HOST/PATH`. Its name shows no path or query: they may hold a secret. Errors: UsageError."""
    address.only()
    parts = address.parts
    try:
        port = parts.port
    except ValueError:
        address.refuse("its port is no number from 1 to 65535: check it")
    if not parts.hostname or port == 0:
        address.refuse("there is no host in it: give https://HOST/PATH")
    if parts.username:
        address.refuse("it holds a user: requests are signed, leave it out")
    if not settings.outlet_webhook_key_file:
        address.refuse("there is no key to sign with: set outlet_webhook_key_file to a file that holds it")
    key = key_file(Path(settings.outlet_webhook_key_file), "the key file", KEY_BYTES_MIN)
    rest = hashlib.sha256(f"{parts.path}?{parts.query}".encode()).hexdigest()[:8]
    name = address.named(f"{parts.scheme}://{parts.netloc}/{rest}")
    return WebhookOutlet(name, address, key, settings.outlet_timeout_s)
