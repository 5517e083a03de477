"""What goes on at the brokers while partitions are read: one thread asks, the partitions look at what it found."""

import logging
import threading
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaException

from flows.connectors.judge import now_us
from flows.connectors.kafka.client import Cluster, Found
from flows.status import Status
from schemas.errors import SourceLost

log = logging.getLogger(__name__)

NAME = "kafka"
WAY_OUT = (
    "what was read of it is decided and kept; check the brokers, then start with a new --recovery folder to read what "
    "is there now (decisions go on in the same chains)"
)
GONE_AFTER = 3
"""So many answers in a row must miss a topic before it is gone: a broker that has just started may not know it yet."""


class Watch:
    """Asks about topics every so often: reachable, partitions new or gone, a topic made anew.

    topics: topic -> what was found at the start. streams: topic -> stream. on_new: whether the flow can be started
    again for partitions that are new; where it cannot, they are only reported.
    """

    def __init__(
        self,
        cluster: Cluster,
        topics: Mapping[str, Found],
        streams: Mapping[str, str],
        status: Status,
        *,
        every_s: float,
        on_new: bool,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        self._cluster, self._topics, self._streams, self._status = cluster, dict(topics), streams, status
        self._every_s, self._on_new, self._clock_us = every_s, on_new, clock_us
        self._lock, self._asking = threading.Lock(), threading.Lock()
        self._missed = dict.fromkeys(topics, 0)
        self._away_since_us: int | None = None
        self._away_us = 0
        self._silent = False
        self._answered_us = self._said_us = clock_us()
        self._changed: str | None = None
        self._lost: SourceLost | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-watch", daemon=True)
        status.source(NAME, True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._end.set()
        self._thread.join()  # bounded: by the timeout of what it asks
        self._cluster.close()

    @property
    def answered_us(self) -> int:
        """When the brokers were last asked and answered, by this machine's clock."""
        return self._answered_us

    @property
    def changed(self) -> str | None:
        """What is new, so that the flow has to be started again; None as long as nothing is."""
        return self._changed

    def check(self) -> None:
        """Errors: SourceLost where what was read from is not there any more."""
        if self._lost is not None:
            raise self._lost

    def clock_us(self) -> int:
        """A clock that stands still while brokers or leaders are away: silence of theirs is none of the senders."""
        with self._lock:
            now = self._clock_us() if self._away_since_us is None else self._away_since_us
            self._said_us = max(self._said_us, now - self._away_us)
            return self._said_us

    def doubt(self) -> None:
        """A partition heard of trouble: until the brokers answer again the clock stands still, sooner than asked."""
        with self._lock:
            self._away_since_us = self._answered_us if self._away_since_us is None else self._away_since_us

    def lose(self, what: str) -> SourceLost:
        """Note that the source is gone; gives the error to raise."""
        self._lost = self._lost or SourceLost(what)
        self._status.source(NAME, False, what)
        return self._lost

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            self.ask()

    def confirm(self) -> None:
        """Ask now, before the end of what was read is believed: another log under the topic's name ends alike.

        Brokers that do not answer say nothing against it. Errors: SourceLost.
        """
        self.ask()
        self.check()

    def ask(self) -> None:
        """Ask once."""
        with self._asking:
            self._ask()

    def _ask(self) -> None:
        asked_us = self._clock_us()
        try:
            found = self._cluster.find(list(self._topics), max(self._every_s, 2.0))
        except KafkaException as error:
            self._away(self._cluster.why(error))
            return
        waiting = self._compare(found) if self._lost is None else []
        with self._lock:
            if self._away_since_us is not None:
                self._away_us += asked_us - self._away_since_us
            self._away_since_us = asked_us if waiting else None
            if self._silent:
                self._silent = False
                log.warning("%s: the brokers answer again", NAME)
            self._answered_us = asked_us
        if self._lost is None:
            self._status.source(NAME, not waiting, "; ".join(waiting))

    def _away(self, why: str) -> None:
        self.doubt()
        if not self._silent and not self._end.is_set():
            self._silent = True
            log.warning("%s: %s; trying again until it does", NAME, why)
        self._status.source(NAME, False, why)

    def _compare(self, found: Mapping[str, Found | None]) -> list[str]:
        """What cannot be read at the moment, though the brokers answer; notes what is new or gone."""
        waiting = []
        for name, was in self._topics.items():
            now = found[name]
            self._missed[name] = self._missed[name] + 1 if now is None else 0
            if now is None:
                waiting.append(f"the topic {name} is not there")
                if self._missed[name] >= GONE_AFTER:
                    self.lose(f"the topic {name} was deleted while it was read: {WAY_OUT}")
            elif now.id and was.id and now.id != was.id:
                self.lose(f"the topic {name} was deleted and made anew while it was read: {WAY_OUT}")
            elif now.partitions < was.partitions:
                gone = ", ".join(f"{self._streams[name]}/{part}" for part in range(now.partitions, was.partitions))
                self.lose(f"{gone} of the topic {name} vanished while it was read: {WAY_OUT}")
            else:
                waiting += [f"partition {part} of {name} has no leader" for part in now.leaderless]
                self._grown(name, was, now)
        return waiting

    def _grown(self, name: str, was: Found, now: Found) -> None:
        if now.partitions <= was.partitions:
            return
        new = ", ".join(f"{self._streams[name]}/{part}" for part in range(was.partitions, now.partitions))
        self._topics[name] = Found(was.id or now.id, now.partitions)
        if self._on_new:
            self._changed = f"the topic {name} has new partitions: {new}"
            log.warning("%s: %s; the flow starts again to read them", NAME, self._changed)
        else:
            log.warning(
                "%s: the topic %s has new partitions (%s), which are not read: start again, or run with --recovery",
                NAME,
                name,
                new,
            )
