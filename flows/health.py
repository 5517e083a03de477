"""`/healthz`, `/readyz` and `/metrics` over HTTP, on the loopback address unless told otherwise."""

import logging
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flows.metrics import CONTENT_TYPE, Metrics
from flows.status import Status, not_ready
from operators.adapters.tally import Tally
from schemas.errors import UsageError
from schemas.settings import Settings

if TYPE_CHECKING:
    from flows.texts import ModelTexts

log = logging.getLogger(__name__)
PLAIN = "text/plain; charset=utf-8"
TIMEOUT_S = 10
Answer = tuple[int, str, bytes]


class Health:
    """Serves while it is open.

    /healthz: 200 as long as the process answers. /readyz: 200 when the run is ready, else 503 and why, a line each.
    /metrics: Prometheus text.
    """

    def __init__(
        self,
        settings: Settings,
        status: Status,
        tally: Tally,
        texts: "Callable[[], ModelTexts | None]" = lambda: None,
        *,
        port: int,
    ) -> None:
        """Errors: UsageError when the address cannot be used."""
        self._settings, self._status = settings, status
        try:
            self._server = _server(settings.health_host)((settings.health_host, port), _handler(self._answer))
        except OSError as error:
            raise UsageError(
                f"{settings.health_host}:{port} cannot be used for /healthz ({error.strerror}): another program "
                "has it, or the address is not of this machine; set health_port or health_host to another one"
            ) from error
        self._metrics = Metrics(tally, status, texts, lambda: not self._why())
        self.host, self.port = str(self._server.server_address[0]), self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=[0.1], name="health", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._metrics.close()

    def _why(self) -> list[str]:
        return not_ready(
            self._status.snapshot(),
            lag_max_s=self._settings.ready_lag_max_s,
            idle_s=self._settings.idle_timeout_s,
            behind_max=self._settings.outlet_behind_max,
        )

    def _answer(self, path: str) -> Answer:
        if path == "/healthz":
            return 200, PLAIN, b"ok\n"
        if path == "/readyz":
            why = self._why()
            return (503 if why else 200), PLAIN, "".join(f"{line}\n" for line in why or ["ready"]).encode()
        if path == "/metrics":
            return 200, CONTENT_TYPE, self._metrics.text()
        return 404, PLAIN, b"there are /healthz, /readyz and /metrics\n"


def _server(host: str) -> type[ThreadingHTTPServer]:
    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

    return Server


def _handler(answer: Callable[[str], Answer]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT_S  # a client that says nothing holds a thread no longer
        server_version, sys_version = "tidegate", ""

        def do_GET(self) -> None:
            code, kind, body = answer(self.path.partition("?")[0])
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            log.debug(format, *args)

    return Handler
