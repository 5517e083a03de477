"""Outlets and listeners that tests of outlets look into."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from flows.connectors.outlets import Item, Outlet, OutletDown, Pace
from flows.connectors.outlets.follower import Follower
from flows.connectors.sqlite import Batch, DeadLetter, SqliteStore
from schemas.settings import Settings
from tests.unit.sealed import Chains

QUICK = Settings(outlet_retry_s=0.01, outlet_retry_max_s=0.02, outlet_batch_rows=3)


class Heard:
    """What a run's status was told, in order: name, behind, sent, failed, why."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int, int, str]] = []

    def outlet(self, name: str, behind: int, sent: int, failed: int, why: str = "") -> None:
        """Take note."""
        self.told.append((name, behind, sent, failed, why))


class FakeOutlet(Outlet):
    """Takes everything, but first fails as often as there are `failures`."""

    def __init__(
        self,
        name: str = "fake",
        failures: Sequence[Exception] = (),
        dead_letters: bool = False,
        pace: Pace | None = None,
    ) -> None:
        self.name, self.dead_letters, self.pace = name, dead_letters, pace
        self.failures = list(failures)
        self.batches: list[list[Item]] = []
        self.closed = False

    def send(self, items: Sequence[Item]) -> None:
        """Take them, or fail."""
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, OutletDown):
                self.batches.append(list(items[: failure.done]))
            raise failure
        self.batches.append(list(items))

    def close(self) -> None:
        """Take note."""
        self.closed = True

    @property
    def items(self) -> list[Item]:
        """All that it took, in order."""
        return [item for batch in self.batches for item in batch]


def filled(path: Path, decisions: int, letters: int = 0) -> Chains:
    """A store with this many of each; gives the chains, to go on from."""
    chains = Chains()
    store = SqliteStore(path)
    store.write(Batch([chains.add("p-01", minute) for minute in range(decisions)], letters_of(letters)), 1)
    store.close()
    return chains


def letters_of(count: int) -> list[DeadLetter]:
    """Dead letters at the offsets from 0."""
    return [DeadLetter("ward", "vitals", "vitals:0", offset, "not_json", "line", b"{\xff") for offset in range(count)]


def follow(outlet: Outlet, path: Path, settings: Settings = QUICK, limit_s: float = 5) -> tuple[Follower, Heard]:
    """Drive `outlet` until it has all that the store holds, `limit_s` at most."""
    heard = Heard()
    follower = Follower(outlet, path, settings, heard)
    follower.start()
    follower.finish()
    follower.join(limit_s)
    follower.stop()
    follower.join(5)
    assert not follower.is_alive()
    return follower, heard


def until(what: Callable[[], bool], limit_s: float = 5) -> None:
    """Wait until it is so. Errors: AssertionError when it does not come."""
    end = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


@dataclass
class Request:
    """What a web server was asked."""

    path: str
    headers: dict[str, str]
    body: bytes
    connection: tuple[str, int]


@dataclass
class WebServer:
    """A real HTTP server. answers: status and headers of the next answers, then 200."""

    address: str
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    delay_s: float = 0
    hang_up: bool = False
    """Close each connection after an answer, without saying so."""


@contextmanager
def web_server() -> Iterator[WebServer]:
    """One on a free loopback port."""

    class _Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.requests.append(Request(self.path, dict(self.headers), body, self.client_address))
            time.sleep(made.delay_s)
            status, headers = made.answers.pop(0) if made.answers else (200, {})
            self.send_response(status)
            for name, value in {"Content-Length": "2", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"{}")
            self.close_connection = made.hang_up

        def do_GET(self) -> None:
            made.requests.append(Request(self.path, dict(self.headers), b"", self.client_address))
            self.send_error(405)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class _Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that hangs up is what some tests are about."""

    server = _Server(("127.0.0.1", 0), _Handler)
    made = WebServer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
