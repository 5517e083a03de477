"""How a run ends before its sources do."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LAST_S = 1.0
"""What is left to the outlets at least, when the dataflow has taken all of the limit."""
KILLED = 128
"""Exit code of a process that a signal ended at once: this, and the signal's number, as shells have it."""


class Stop:
    """The wish that a run ends. `event` is set then, and every source partition ends where it is, unfinished.

    asked: by a person or a service manager. changed: why the run is to be started again instead, None if it is not.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.asked = False
        self.changed: str | None = None
        self._tell: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def ask(self) -> None:
        """End for good."""
        with self._lock:
            self.asked = True
            self.event.set()
            tell, self._tell = self._tell, []
        for heard in tell:
            heard()

    def on_ask(self, heard: Callable[[], None]) -> None:
        """Have this called once, when it is asked; at once if it was."""
        with self._lock:
            if not self.asked:
                self._tell.append(heard)
                return
        heard()


class Drain:
    """While this context is open, SIGTERM and SIGINT ask `stop`; a run that goes on longer than `limit_s` is ended by
    `give_up`, and so does a second signal at once end it.

    A thread of its own reads the signals, for the main thread may be anywhere in a dataflow. Only for the main thread.
    """

    def __init__(
        self,
        stop: Stop,
        limit_s: float,
        give_up: Callable[[float], None] | None = None,
    ) -> None:
        self._stop, self._limit_s = stop, limit_s
        self._give_up = give_up or ended_by_force
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._ends_s = 0.0

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = [signal.signal(number, lambda *_: None) for number in SIGNALS]
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
        for number, before in zip(SIGNALS, self._before, strict=True):
            signal.signal(number, before)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._write)

    def begin(self) -> None:
        """End the run, within the limit; called again it changes nothing."""
        with self._lock:
            if self._timer is not None:
                return
            self._ends_s = time.monotonic() + self._limit_s
            self._timer = threading.Timer(self._limit_s, self._give_up, [self._limit_s])
            self._timer.daemon = True
            self._timer.start()
        self._stop.ask()

    def done(self) -> float:
        """The dataflow has ended; how much longer the process may take, in seconds."""
        with self._lock:
            if self._timer is None:
                return float("inf")
            self._timer.cancel()
            return max(self._ends_s - time.monotonic(), LAST_S)

    def _listen(self) -> None:
        seen = 0
        while number := os.read(self._read, 1):
            if number[0] not in SIGNALS:
                continue
            seen += 1
            if seen > 1:
                os._exit(KILLED + number[0])
            self.begin()
        os.close(self._read)


def ended_by_force(limit_s: float) -> None:
    """End the process with what is committed, saying so."""
    sys.stderr.write(
        f"tidegate: the flow had not drained {limit_s:g} s after it was asked to end: what is committed stays, start "
        "again with the same --recovery\n"
    )
    sys.stderr.flush()
    os._exit(1)
