"""What the outlets published, read back as a consumer would; and a web server that is slow on purpose."""

import random
import threading
import time
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import polars as pl

Chain = dict[int, Mapping[str, Any]]


def held(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Chain]:
    """What holds by the rule of `flows.store.outbox`: flow and key -> seq -> decision."""
    chains: dict[tuple[str, str], Chain] = {}
    for record in records:
        chain = chains.setdefault((record["flow"], record["key"]), {})
        for seq in [seq for seq in chain if seq >= record["seq"]]:
            del chain[seq]
        chain[record["seq"]] = record
    return chains


def in_files(folder: Path) -> list[Mapping[str, Any]]:
    """The decisions of a Parquet outlet, in the order in which they were sent."""
    paths = sorted(folder.glob("decision-*.parquet"), key=lambda path: path.name.split("-")[2:4])
    return [orjson.loads(text) for path in paths for text in pl.read_parquet(path)["record"]]


class SlowServer:
    """Takes decisions slowly. Now and then it answers 503, or takes one and hangs up without an answer."""

    def __init__(self, seed: int) -> None:
        self.records: list[Mapping[str, Any]] = []
        self.requests = 0
        self._chance, self._lock = random.Random(seed), threading.Lock()
        self._slow_s = self._chance.choice((0.005, 0.02, 0.05))
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = server._take(body if self.headers["X-Tidegate-Kind"] == "decision" else None)
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}/decisions"

    def close(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()

    def _take(self, body: bytes | None) -> int | None:
        with self._lock:
            self.requests += 1
            luck, wait_s = self._chance.random(), self._chance.uniform(0, 2 * self._slow_s)
            if self.requests == 10:
                wait_s = 2.0
        time.sleep(wait_s)
        if luck < 0.05:
            return 503
        with self._lock:
            if body is not None:
                self.records.append(orjson.loads(body))
        return None if luck < 0.1 else 204
