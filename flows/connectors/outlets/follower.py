"""The thread that drives an outlet: it reads the store, sends, and keeps the place.

What fails is tried again after a while that doubles, with chance in it so that many do not come back at once. Nothing
an outlet does ends the thread, another outlet, or the flow.
"""

import fcntl
import hashlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flows.connectors.outlets import Item, Outlet, OutletDown, Pace, Refusal, Remembers, Told, outlet
from flows.store.outbox import Outbox, Place, token
from flows.tracing import Sender, Tracing
from schemas.errors import TidegateError, UsageError
from schemas.settings import Settings

log = logging.getLogger(__name__)
POLL_S = 0.2
ENDING_RETRY_S = 1.0
"""At the end of a run nobody waits longer than this between two attempts."""
STOP_S = 2.0
_Sending = Callable[[Sequence[Item]], AbstractContextManager[Sequence[Item]]]


@dataclass(frozen=True, slots=True)
class _Unsaved:
    """What the store does not know yet of what was sent."""

    sent: int
    refusals: tuple[Refusal, ...]


class _Claim:
    """One process at a time drives an outlet of a store; another waits until that one is gone."""

    def __init__(self, store: Path, name: str) -> None:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        self._path = store.with_name(f"{store.name}-outlet-{digest}")
        self._handle: int | None = None

    def take(self) -> bool:
        """Whether it is ours."""
        if self._handle is None:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                return False
            self._handle = handle
        return True

    def give_up(self) -> None:
        """Let another have it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class Follower(threading.Thread):
    """Drives one outlet until `stop`, or after `finish` until it has sent what the store holds."""

    def __init__(
        self,
        outlet: Outlet,
        store: Path,
        settings: Settings,
        status: Told,
        chance: Callable[[], float] = random.random,
        tracing: Sender | None = None,
    ) -> None:
        super().__init__(name=f"outlet {outlet.name}", daemon=True)
        self._outlet, self._store, self._status, self._chance = outlet, store, status, chance
        self._sending: _Sending = nullcontext if tracing is None else tracing.sending
        self._pace = outlet.pace or Pace(settings.outlet_batch_rows, settings.outlet_batch_bytes)
        self._retry_s, self._retry_max_s = settings.outlet_retry_s, settings.outlet_retry_max_s
        self._claim = _Claim(store, outlet.name)
        self._outbox: Outbox | None = None
        self._place: Place | None = None
        self._unsaved: _Unsaved | None = None
        self._waits_since: float | None = None
        self._sent = self._failed = self._failed_in_a_row = 0
        self._wake, self._ending, self._stopping = threading.Event(), threading.Event(), threading.Event()
        self.behind = 0
        """How many items were still to be sent when it last looked."""

    @property
    def outlet(self) -> str:
        """The name of its outlet."""
        return self._outlet.name

    def wake(self) -> None:
        """There may be something new."""
        self._wake.set()

    def finish(self) -> None:
        """Send what the store holds by now, then end."""
        self._ending.set()
        self._wake.set()

    def stop(self) -> None:
        """End after the attempt that is being made."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        """The thread."""
        try:
            while not self._stopping.is_set():
                try:
                    if self._step():
                        break
                except Exception as error:
                    self._wait_after(error)
        finally:
            with suppress(Exception):
                self._outlet.close()
            if self._outbox is not None:
                self._outbox.close()
            self._claim.give_up()

    def _step(self) -> bool:
        """One look at the store; whether all is done. Errors: any, and then it is tried again."""
        ending = self._ending.is_set()  # asked before reading: what was written before it is still sent
        self._wake.clear()
        if not self._claim.take():
            self._tell("another process sends for it")
            self._wake.wait(POLL_S)
            return ending
        if self._outbox is None:
            at_us = time.time_ns() // 1000
            self._outbox = Outbox(self._store, self._outlet.name, self._outlet.dead_letters, at_us)
        if self._unsaved is not None:
            self._save(self._outbox)
        if self._place is None:
            self._place = self._outbox.place()
            if isinstance(self._outlet, Remembers):
                self._place = self._outbox.reconcile(self._place, self._outlet.remembered())
        self.behind = self._outbox.behind(self._place)
        self._tell()
        if not self.behind:
            self._waits_since = None
            self._well(self._outbox)
            return ending or self._rest(POLL_S)
        now_s = time.monotonic()
        self._waits_since = now_s if self._waits_since is None else self._waits_since
        left_s = self._waits_since + self._pace.linger_s - now_s
        if not ending and left_s > 0 and self.behind < self._pace.rows:
            return self._rest(min(left_s, POLL_S))
        self._send(self._outbox, self._place)
        return False

    def _send(self, outbox: Outbox, place: Place) -> None:
        items, more = outbox.read(place, self._pace)
        try:
            with self._sending(items) as handed:
                refusals = self._outlet.send(handed) or ()
        except OutletDown as down:
            if down.done:
                self._settled(place.after(items[: down.done]), down.done, down.refusals)
                self._save(outbox)
            raise
        self._settled(place.after(items), len(items), refusals)
        if not more:
            self._waits_since = None
        self._save(outbox)
        self._well(outbox)

    def _well(self, outbox: Outbox) -> None:
        if self._failed_in_a_row and self._place is not None:
            outbox.move(self._place, 0, (), time.time_ns() // 1000)  # so that nobody reads why it waited any more
            log.warning("the outlet %s is back", self._outlet.name)
            self._failed_in_a_row = 0

    def _settled(self, place: Place, count: int, refusals: Sequence[Refusal]) -> None:
        self._place = place
        self._sent += count - len(refusals)
        self._unsaved = _Unsaved(count - len(refusals), tuple(refusals))
        for refusal in refusals:
            log.warning("the outlet %s refused %s %s: %s", self._outlet.name, *_named(refusal))

    def _save(self, outbox: Outbox) -> None:
        """What was sent is not sent again because its place could not be kept: that alone is tried again."""
        if self._unsaved is not None and self._place is not None:
            outbox.move(self._place, self._unsaved.sent, self._unsaved.refusals, time.time_ns() // 1000)
            self._unsaved = None

    def _rest(self, seconds: float) -> bool:
        self._wake.wait(seconds)
        return False

    def _tell(self, why: str = "") -> None:
        self._status.outlet(self._outlet.name, self.behind, self._sent, self._failed, why)

    def _wait_after(self, error: Exception) -> None:
        self._failed += 1
        self._failed_in_a_row += 1
        why = str(error) if isinstance(error, TidegateError) else f"{type(error).__name__}: {error}"
        if self._failed_in_a_row == 1:
            log.warning("the outlet %s waits: %s", self._outlet.name, why)
            if not isinstance(error, TidegateError):
                log.warning("this is a fault of Tidegate, please report it", exc_info=error)
        if self._unsaved is None:
            self._place = None  # asked again: an attempt of which nothing is known may have gone through
        with suppress(Exception):
            if self._outbox is not None:
                self.behind = self._outbox.behind(self._outbox.place())
                self._outbox.failed(why)
        self._tell(why)
        longest_s = min(self._retry_s * 2.0 ** min(self._failed_in_a_row - 1, 30), self._retry_max_s)
        wait_s = longest_s * (0.5 + self._chance() / 2)
        if isinstance(error, OutletDown) and error.retry_after_s is not None:
            wait_s = max(wait_s, error.retry_after_s)
        end_s = time.monotonic() + wait_s
        while not self._stopping.is_set() and (left_s := end_s - time.monotonic()) > 0:
            if self._ending.wait(min(left_s, POLL_S)):
                self._stopping.wait(min(left_s, ENDING_RETRY_S))
                return


def _named(refusal: Refusal) -> tuple[str, str, str]:
    return refusal.item.kind.replace("_", " "), refusal.item.id, refusal.why


class Followers:
    """The outlets of a run. The store must be there."""

    def __init__(
        self,
        addresses: Sequence[str],
        store: Path,
        settings: Settings,
        status: Told,
        tracing: Tracing | None = None,
    ) -> None:
        """Nothing is sent yet. Errors: UsageError for an address; SinkLost."""
        ours = token(store) if addresses else ""
        outlets = [outlet(address, settings, ours) for address in addresses]
        names = [made.name for made in outlets]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"two sinks are called {name}: leave one out, or give one of them a name=...")
        senders = [None if tracing is None else tracing.sender(address) for address in addresses]
        self._followers = [
            Follower(made, store, settings, status, tracing=sender)
            for made, sender in zip(outlets, senders, strict=True)
        ]

    def start(self) -> Self:
        """Start to send."""
        for follower in self._followers:
            follower.start()
        return self

    def wake(self) -> None:
        """The store has something new; without this it is seen within `POLL_S`."""
        for follower in self._followers:
            follower.wake()

    def drain(self, limit_s: float) -> dict[str, int]:
        """Send what is left, for `limit_s` at most, and end. Gives outlet -> items that wait, without those at 0."""
        for follower in self._followers:
            follower.finish()
        end_s = time.monotonic() + limit_s
        for follower in self._followers:
            follower.join(max(end_s - time.monotonic(), 0))
        for follower in self._followers:
            follower.stop()
        end_s = time.monotonic() + STOP_S
        for follower in self._followers:
            follower.join(max(end_s - time.monotonic(), 0))
        return {follower.outlet: follower.behind for follower in self._followers if follower.behind}
