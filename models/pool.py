"""Readings on a few threads of our own: bounded, cached, and never in the way of the rule or of the exit."""

import hashlib
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future

from schemas.reading import Abstain, Reading

log = logging.getLogger(__name__)


class ReadingPool:
    """Runs `read` on `workers` daemon threads. `calls`: texts given to it; `cached`: answered without a call.

    At most `queue_max` texts wait, and as many callers for texts on their way already; one more is told BUSY.
    The last `cache_max` readings are kept by SHA-256 of their text; not one that FAILED or was late:
    it may go better next time.
    """

    def __init__(self, read: Callable[[str], Reading], workers: int, queue_max: int, cache_max: int) -> None:
        assert min(workers, queue_max) >= 1
        assert cache_max >= 0
        self.calls = 0
        self.cached = 0
        self._read = read
        self._queue_max = queue_max
        self._cache_max = cache_max
        self._cache: OrderedDict[bytes, Reading] = OrderedDict()
        self._queue: deque[tuple[bytes, str]] = deque()
        self._waiting: dict[bytes, list[Future[Reading]]] = {}  # by text digest, queued and running
        self._joined = 0  # futures beyond the first of their text
        self._closed = False
        self._changed = threading.Condition()
        for number in range(workers):
            # Not an executor: its threads are joined at exit, and a stalled model would hold that up.
            threading.Thread(target=self._work, name=f"reader-{number}", daemon=True).start()

    def submit(self, text: str) -> Future[Reading]:
        """The reading of `text`. Never blocks, never raises; done at once if cached, or BUSY if full or closed."""
        future: Future[Reading] = Future()
        future.set_running_or_notify_cancel()  # a caller that gives up waiting cannot take the answer from the others
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        with self._changed:
            known = self._cache.get(digest)
            if known is not None:
                self._cache.move_to_end(digest)
                self.cached += 1
            elif self._closed:
                known = Reading(abstain=Abstain.BUSY)
            elif digest in self._waiting and self._joined < self._queue_max:
                self._waiting[digest].append(future)
                self._joined += 1
                self.cached += 1
            elif digest in self._waiting or len(self._queue) >= self._queue_max:
                known = Reading(abstain=Abstain.BUSY)
            else:
                self._waiting[digest] = [future]
                self._queue.append((digest, text))
                self.calls += 1
                self._changed.notify()
        if known is not None:
            future.set_result(known)
        return future

    def close(self) -> None:
        """Stop without waiting: what is still queued becomes BUSY, what is running may finish or be left behind."""
        with self._changed:
            self._closed = True
            dropped = [self._settle(digest) for digest, _ in self._queue]
            self._queue.clear()
            self._changed.notify_all()
        for futures in dropped:
            for future in futures:
                future.set_result(Reading(abstain=Abstain.BUSY))

    def _settle(self, digest: bytes) -> list[Future[Reading]]:
        """Take the futures that wait for a text; the caller holds the lock."""
        futures = self._waiting.pop(digest)
        self._joined -= len(futures) - 1
        return futures

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                digest, text = self._queue.popleft()
            try:
                reading = self._read(text)
            except Exception:
                log.warning("the reader failed on a text; its part of the decision abstains", exc_info=True)
                reading = Reading(abstain=Abstain.FAILED)
            with self._changed:
                if reading.abstain not in (Abstain.FAILED, Abstain.DEADLINE) and self._cache_max:
                    self._cache[digest] = reading
                    while len(self._cache) > self._cache_max:
                        self._cache.popitem(last=False)
                futures = self._settle(digest)
            for future in futures:
                future.set_result(reading)
