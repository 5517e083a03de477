"""One flow in several processes, which Bytewax connects. The first has the store, the recovery store and the outlets.

`run_together` starts the others on this machine and ends with them. A link, a socket pair, joins each to the first:
by it the options go there and the counts come back, and when either end is gone the other knows.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

from flows.engine import PeerLost
from flows.run import Control, Member, RunOptions, run_counted
from flows.summary import Counts
from schemas.errors import TidegateError, UsageError

log = logging.getLogger(__name__)
LOOPBACK = "127.0.0.1"
END_S = 30.0
"""How long the first process waits for the others, once its own part has ended."""
BLAME_S = 5.0
CAUSE_S = 1.0
"""How long the cause of a failure may be heard of later than what follows from it."""
STOP = "stop"


@dataclass(frozen=True, slots=True)
class Done:
    """A process has ended in order. changed: why the run is to be started again, None if it is not."""

    counts: Counts
    changed: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """A process cannot go on. follows: because another one is gone, which says more."""

    why: str
    exit_code: int
    follows: bool = False


def run_together(options: RunOptions, processes: int, control: Control) -> Counts:
    """Run a flow in `processes` processes of this machine, of which this is the first. Errors: as `run_flow`."""
    elsewhere = Counts()
    while True:
        member = Member(addresses=_free_addresses(processes))
        with _Others(replace(options, member=member), control) as others:
            control.on_fault, control.starting = others.fault, others.start
            try:
                counts = run_counted(others.options, control)
            except PeerLost:
                others.blame()
                raise
            why = control.stop.changed
            for done in others.ended():
                elsewhere.add(done.counts)
                why = why or done.changed
        if why is None or control.stop.asked:
            counts.add(elsewhere)
            return counts
        log.warning("%s: the flow is started again from its recovery store", why)
        control.stop.changed = None
        control.status.forget()


def addressed(addresses: Sequence[str], index: int | None) -> Member:
    """The process that `-a` and `-i` name. Errors: UsageError."""
    if index is None or not 0 <= index < len(addresses):
        raise UsageError(
            f"-i is {index} of {len(addresses)} addresses: give -a host:port once for each process, the same in all of "
            "them, and -i the place of this one, from 0"
        )
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise UsageError(f"-a {address} is no address: give host:port, for example tidegate-0.lan:9100")
    return Member(addresses=tuple(addresses), index=index, one_machine=False)


def end_with(error: Exception, exit_code: int | None = None) -> None:
    """Say what went wrong, and end this process at once: what is committed stays."""
    failed = failure(error)
    sys.stderr.write(f"tidegate: {failed.why}\n")
    sys.stderr.flush()
    os._exit(failed.exit_code if exit_code is None else exit_code)


def failure(error: Exception) -> Failed:
    """How an error is told."""
    if isinstance(error, TidegateError):
        return Failed(str(error), error.exit_code, isinstance(error, PeerLost))
    return Failed("".join(traceback.format_exception(error)), 1)


def _free_addresses(count: int) -> tuple[str, ...]:
    held = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    try:
        return tuple(f"{LOOPBACK}:{server.getsockname()[1]}" for server in held)
    finally:
        for server in held:
            server.close()


@dataclass(slots=True)
class _Other:
    index: int
    process: "subprocess.Popen[bytes]"
    link: "Connection[Any, Any]"
    done: Done | None = None


@dataclass
class _Others:
    """The other processes, as the first one sees them. When one of them fails, all end."""

    options: RunOptions
    control: Control
    _others: list[_Other] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _watch: threading.Thread | None = None
    _over: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._over = True
        self._kill()

    def start(self) -> None:
        """Start them: this one is ready."""
        with self._lock:
            for index in range(1, len(self.options.member.addresses)):
                self._others.append(self._started(index))
        self._watch = threading.Thread(target=self._look, name="cluster", daemon=True)
        self._watch.start()
        self.control.stop.on_ask(self._stop)

    def fault(self, error: Exception) -> None:
        """This process cannot go on, and so none can."""
        self._end(error)

    def blame(self) -> None:
        """This process failed for it lost another one; give `_look` time to say which, and why."""
        if self._watch is not None:
            self._watch.join(BLAME_S)

    def ended(self) -> list[Done]:
        """What they counted, once all have ended. Errors: TidegateError when one does not."""
        assert self._watch is not None
        self._watch.join(END_S)
        found = [other.done for other in self._others if other.done is not None]
        if len(found) < len(self._others):
            raise TidegateError("a process of the cluster does not end: what is committed stays; all are stopped")
        for other in self._others:
            other.process.wait(END_S)
        return found

    def _started(self, index: int) -> _Other:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.member", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C reaches the first one alone, which then stops all in order
            )
        link: Connection[Any, Any] = Connection(ours.detach())
        link.send(replace(self.options, member=replace(self.options.member, index=index)))
        return _Other(index, process, link)

    def _stop(self) -> None:
        with self._lock:
            for other in self._others:
                try:
                    other.link.send(STOP)
                except OSError:
                    continue  # it is gone, which `_look` sees

    def _look(self) -> None:
        """Hear how each one ended. Where one is lost those joined to it fail too: the cause is told, not the rest."""
        waiting = list(self._others)
        failures: list[Failed] = []
        while waiting:
            ready = wait([other.link for other in waiting], CAUSE_S if failures else None)
            heard = [other for other in waiting if other.link in ready]
            for other in heard:
                waiting.remove(other)
                said = _heard(other)
                if isinstance(said, Done):
                    other.done = said
                else:
                    failures.append(said)
            if failures and (not heard or any(not failure.follows for failure in failures)):
                break
        if failures:
            first = min(failures, key=lambda failure: failure.follows)
            self._end(TidegateError(first.why), first.exit_code)

    def _end(self, error: Exception, exit_code: int | None = None) -> None:
        with self._lock:
            over, self._over = self._over, True
        if not over:
            self._kill()
            end_with(error, exit_code)

    def _kill(self) -> None:
        with self._lock:
            for other in self._others:
                if other.done is None and other.process.poll() is None:
                    other.process.kill()


def _heard(other: _Other) -> Done | Failed:
    try:
        said: Done | Failed = other.link.recv()
    except (EOFError, OSError):
        pass
    else:
        return said if isinstance(said, Done) else replace(said, why=f"process {other.index}: {said.why}")
    try:
        code = other.process.wait(CAUSE_S)
    except subprocess.TimeoutExpired:
        code = 0
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return Failed(
        f"process {other.index} of the flow {how}, and so all of them are: start again with the same --recovery; "
        "nothing that was written is lost",
        exit_code=1,
        follows=code == -signal.SIGABRT,
    )
