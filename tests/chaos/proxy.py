"""A TCP proxy in front of a broker: as fast as it is told, cut or silent when it is told."""

import socket
import struct
import threading
import time
from contextlib import suppress

CHUNK = 2048
CONNECT_S = 5.0
RESET = struct.pack("ii", 1, 0)
"""Linger for no time: closing sends RST, as a link that is torn out does once somebody notices."""


class Proxy:
    """Listens on a loopback port of its own and passes everything on to `target`.

    rate: bytes a second from the target to all clients together; None as fast as it goes.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.rate: float | None = None
        self._free_s = 0.0
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._closed, self._cut = threading.Event(), threading.Event()
        self._flows = threading.Event()
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, name=f"proxy {self.port}", daemon=True).start()

    def cut(self) -> None:
        """Tear every connection, and each new one, until `heal`."""
        self._cut.set()
        self._tear()

    def stall(self) -> None:
        """Pass nothing on, and tell nobody, until `heal`."""
        self._flows.clear()

    def heal(self) -> None:
        """Be a good network again."""
        self._cut.clear()
        self._flows.set()

    def close(self) -> None:
        """End."""
        self._closed.set()
        self.heal()
        # Closing a listener does not wake a thread that waits in it; a connection does.
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        self._listener.close()
        self._tear()

    def _tear(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for end in pair:
                _tear(end)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._closed.is_set() or self._cut.is_set():
                _tear(client)
                continue
            threading.Thread(target=self._join, args=[client], daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target), CONNECT_S)
        except OSError:
            _tear(client)
            return
        server.settimeout(None)
        pair = (client, server)
        with self._lock:
            self._pairs.add(pair)
        if self._cut.is_set() or self._closed.is_set():
            self._tear()
        threading.Thread(target=self._pump, args=[pair, client, server, False], daemon=True).start()
        self._pump(pair, server, client, True)

    def _pump(
        self, pair: tuple[socket.socket, socket.socket], here: socket.socket, there: socket.socket, slow: bool
    ) -> None:
        with suppress(OSError):
            while data := here.recv(CHUNK):
                if slow:
                    self._pace(len(data))
                self._flows.wait()
                there.sendall(data)
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            _tear(end)

    def _pace(self, size: int) -> None:
        rate = self.rate
        if rate is None:
            return
        with self._lock:
            now_s = time.monotonic()
            self._free_s = max(self._free_s, now_s) + size / rate
            wait_s = self._free_s - now_s
        time.sleep(wait_s)


def _tear(end: socket.socket) -> None:
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        end.shutdown(socket.SHUT_RDWR)
    end.close()
