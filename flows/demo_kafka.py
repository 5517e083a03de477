"""`tidegate demo-kafka`: a simulated ward through a real broker, as it would run on site.

The broker lives as long as the demo. The ward is sent to it at a pace, the flow reads it live, keeps a recovery store,
and sends its decisions to a topic. Simulated time runs faster than the clock, and so the flow is given that time.
"""

import random
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import orjson

from flows.connectors.kafka.broker import local_broker, make_topic
from flows.connectors.kafka.sending import Headers, Read, Sending, read_all
from flows.demo import clear
from flows.live import Table, summary_table
from flows.registry import load_flow
from flows.run import Control, RunOptions, run_counted
from flows.simulators.ward import START, describe, simulate_ward
from flows.stopping import Drain
from flows.summary import summary
from schemas.decisions import Sealed
from schemas.errors import TidegateError
from schemas.settings import Settings

TOPICS = {"vitals": 2, "notes": 1, "settings": 1}
"""Streams, and partitions of their topics."""
DECISIONS = "ward.decisions"
TRACED_EVERY = 400
TICK_S, STEP_S_MAX = 0.02, 0.1
UNREAD_MAX = 200
"""Messages sent and not read yet, before simulated time stops: a quarter of a minute of twelve beds."""
QUIET_S = 3.0
"""A partition that is silent for so long holds no window back; so the last windows close."""
END_S = 60.0
FAR_US = 3_600_000_000


class Due(NamedTuple):
    """A message, and the simulated time at which it is sent."""

    at_us: int
    stream: str
    line: bytes
    key: bytes | None


class SimulatedClock:
    """Simulated time in microseconds; it goes on when it is told to, in one thread, and others read it."""

    def __init__(self, start_us: int) -> None:
        self._now_us = start_us

    def advance(self, by_us: int) -> None:
        """Let time pass."""
        self._now_us += by_us

    def __call__(self) -> int:
        return self._now_us


def messages(folder: Path) -> list[Due]:
    """A simulated ward in the order of sending: a row is due at its own time, later where it stands behind a newer one,
    and with the row before it where its time cannot be read or is far off.
    """
    start_us = int(START.timestamp() * 1e6)
    found = []
    for stream in TOPICS:
        at_us = start_us
        for line in (folder / f"{stream}.jsonl").read_bytes().splitlines():
            try:
                row = orjson.loads(line)
                ts_us = int(datetime.fromisoformat(row["ts"]).timestamp() * 1e6)
                key = row["patient"].encode()
            except (ValueError, KeyError):
                ts_us, key = 0, None
            if ts_us < at_us + FAR_US:
                at_us = max(at_us, ts_us)
            found.append(Due(at_us, stream, line, key))
    return sorted(found, key=lambda due: due.at_us)


@dataclass
class _Ward:
    """The sender, in a thread of its own; it ends the run when all of it is decided.

    Time waits for a flow that lags: a note that took a second would have come a minute late.
    """

    servers: str
    due: Sequence[Due]
    speed: float
    clock: SimulatedClock
    control: Control
    seed: int
    last_end_us: int
    decided_us: int = 0
    error: TidegateError | None = None
    thread: threading.Thread = field(init=False)

    def begin(self) -> None:
        """Send."""
        self.thread = threading.Thread(target=self._run, name="ward", daemon=True)
        self.thread.start()

    def note(self, records: Sequence[Sealed]) -> None:
        """Records were committed."""
        self.decided_us = max([self.decided_us, *(record.end_us for record in records)])

    def _run(self) -> None:
        try:
            with Sending(self.servers) as sending:
                self._send(sending)
        except TidegateError as error:
            self.error = error
        finally:
            self.control.stop.ask()

    def _send(self, sending: Sending) -> None:
        ids = random.Random(self.seed)
        sent, ticked_s = 0, time.monotonic()
        last_s = ticked_s
        while not self.control.stop.event.wait(TICK_S):
            step_s, ticked_s = min(time.monotonic() - ticked_s, STEP_S_MAX), time.monotonic()
            if sent - sum(self.control.tally.rows.values()) > UNREAD_MAX:
                continue
            self.clock.advance(int(step_s * self.speed * 1e6))
            while sent < len(self.due) and self.due[sent].at_us <= self.clock():
                due = self.due[sent]
                traced = due.stream == "vitals" and sent % TRACED_EVERY == 0
                sending.send(f"ward.{due.stream}", due.line, due.key, headers=_trace(ids) if traced else None)
                sent, last_s = sent + 1, ticked_s
            sending.poll()
            if sent == len(self.due) and (self.decided_us >= self.last_end_us or ticked_s - last_s > END_S):
                return


def _trace(ids: random.Random) -> Headers:
    return [("traceparent", f"00-{ids.getrandbits(128) | 1:032x}-{ids.getrandbits(64) | 1:016x}-01")]


def run_demo_kafka(out: Path, db: Path, *, seed: int, speed: float, minutes: float) -> str:
    """Twelve simulated beds through Kafka and back; gives what was planted and what came of it.

    Errors: UsageError where Java or Maven is missing; TidegateError where the broker does not start.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-") as name, local_broker(Path(name) / "broker") as broker:
        clear(out, db)
        planted = describe(simulate_ward(out, seed=seed, beds=12, minutes=minutes))
        for stream, partitions in TOPICS.items():
            make_topic(broker.address, f"ward.{stream}", partitions)
        make_topic(broker.address, DECISIONS)
        spans = out / "spans.jsonl"
        settings = Settings(
            kafka_watch_s=0.2,
            idle_timeout_s=QUIET_S * speed,
            epoch_s=1,
            trace_ratio=0.001,
            trace_file=str(spans),
        )
        options = RunOptions(
            flow="ward",
            source=f"kafka://{broker.address}?{'&'.join(f'{stream}=ward.{stream}' for stream in TOPICS)}",
            sink=str(db),
            outlets=(f"kafka://{broker.address}?decisions={DECISIONS}",),
            settings=settings,
            recovery=Path(name) / "state",
        )
        due = messages(out)
        window_us = int(settings.window_s * 1e6)
        clock = SimulatedClock(int(START.timestamp() * 1e6))
        control = Control(clock_us=clock)
        last_us = max(one.at_us for one in due if one.stream == "vitals")
        ward = _Ward(broker.address, due, speed, clock, control, seed, (last_us // window_us + 1) * window_us)
        control.starting = ward.begin
        with Table(wanted=True) as table, Drain(control.stop, settings.drain_limit_s) as drain:
            control.drained = drain.done

            def shown(records: Sequence[Sealed]) -> None:
                table.show(records)
                ward.note(records)

            control.on_records = shown
            counts = run_counted(options, control)
        ward.thread.join(END_S)
        if ward.error is not None:
            raise ward.error
        result = summary(counts, load_flow("ward", settings).actions, control.status.snapshot().outlets)
        published = read_all(broker.address, DECISIONS)
        return "\n\n".join([planted, summary_table(result), _told(published, db, spans)])


def _told(published: Sequence[Read], db: Path, spans: Path) -> str:
    traced = [message.key for message in published if message.traceparent]
    lines = [
        f"{len(published)} decisions were in the topic {DECISIONS}, {len(traced)} with a trace; the broker is gone",
        f"All decisions: tidegate decisions --db {db}",
    ]
    if traced:
        lines.append(f"Where the time of one went: tidegate trace {traced[-1]} --db {db} --file {spans}")
    return "\n".join(lines)
