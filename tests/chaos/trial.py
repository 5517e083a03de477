"""One seed under way: the real program, run against its topics, watched, and started again as systemd would."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from flows import store
from tests.chaos.site import Input, Link, ProxiedCluster, Topics

MARK = "CHAOS_TRIAL"
"""In the environment of every process that a trial starts, and of theirs."""
LIMIT_S = 180.0
RESTARTS_MAX = 12
RESTART_S = 0.2
POLL_S = 0.02
GONE_S = 20.0
SAID_CHARS = 400


class Broke(AssertionError):
    """What must not happen has happened."""


class Skipped(Exception):
    """This fault cannot be made here."""


@dataclass(frozen=True)
class Ended:
    """How a process ended. said: its standard error."""

    code: int
    said: str

    @property
    def last_words(self) -> str:
        """The end of what it said."""
        return self.said.strip()[-SAID_CHARS:]


@dataclass
class Answer:
    """What a run came to: records in the order of the store, dead letters, and the summary where there is one."""

    decisions: list[Mapping[str, Any]]
    letters: list[tuple[Any, ...]]
    rows: Mapping[str, int] | None = None
    rejected: Mapping[str, int] | None = None

    @classmethod
    def of(cls, db: Path, summary: Path) -> "Answer":
        """Read it. The chains must hold."""
        store.verify(db)
        letters = [(one.stream, one.source, one.offset, one.reason, one.raw) for one in store.dead_letters(db)]
        told = orjson.loads(summary.read_bytes()) if summary.exists() else {}
        return cls(list(store.decisions(db)), letters, told.get("rows"), told.get("rejected"))


@dataclass
class Trial:
    """A seed's run. args: of `tidegate run`, without --recovery and --summary.

    partial: part of the input is gone for good, `before` was decided until then. topic_lost: what was published is too.
    link: to the MQTT broker, where the rows come from one.
    """

    folder: Path
    cluster: ProxiedCluster
    topics: Topics
    input: Input
    moments: Sequence[float]
    processes: int
    chance: random.Random
    db: Path
    args: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    undisturbed: Answer = field(default_factory=lambda: Answer([], []))
    notes: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    lives: int = 0
    ends_asked: int = 0  # how often the fault itself is to end the program
    recovery: str = "recovery"
    partial: bool = False
    before: list[Mapping[str, Any]] = field(default_factory=list)
    topic_lost: bool = False
    link: Link | None = None
    stream_s: float = 0.0
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def summary(self) -> Path:
        """Where the program leaves its summary."""
        return self.folder / "summary.json"

    def note(self, text: str) -> None:
        """Keep what was done, for the line of this seed."""
        self.notes.append(text)

    def start(self) -> None:
        """Start the program."""
        assert self.process is None
        self.lives += 1
        more = ["--recovery", str(self.folder / self.recovery), "--summary", str(self.summary)]
        more += ["--processes", str(self.processes)]
        aside = self.folder / "tmp"  # for what a kill leaves behind
        aside.mkdir(exist_ok=True)
        with self._said().open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows", *self.args, *more],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env={**os.environ, **self.env, MARK: str(self.folder), "TMPDIR": str(aside)},
                start_new_session=True,
            )

    def until(self, share: float) -> bool:
        """Start the program if it does not run; wait until this share of all decisions is stored, or until it ends.

        share: below 0, wait as many seconds instead, into the program's start. Gives whether it still runs.
        """
        if self.process is None:
            self.start()
        assert self.process is not None
        end_s = time.monotonic() + (LIMIT_S if share >= 0 else -share)
        wanted = share * len(self.undisturbed.decisions)
        while self.process.poll() is None:
            if share >= 0 and decided(self.db) >= wanted:
                return True
            if time.monotonic() > end_s:
                if share < 0:
                    return True
                raise Broke(
                    f"stuck at {decided(self.db)} of {len(self.undisturbed.decisions)} decisions; {self._tail()}"
                )
            time.sleep(POLL_S)
        return False

    def kill(self, pid: int | None = None) -> None:
        """kill -9 of the program, or of one of its processes; then none of them may live on."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid if pid is None else pid, signal.SIGKILL)
        self.ended()

    def others(self) -> list[int]:
        """The processes that the program has started."""
        assert self.process is not None
        with contextlib.suppress(OSError):
            told = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
            return [int(pid) for pid in told.split()]
        return []

    def ended(self, limit_s: float = LIMIT_S) -> Ended:
        """Wait until the program has ended by itself, with all its processes."""
        assert self.process is not None
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise Broke(f"not ended after {limit_s:g} s, {decided(self.db)} decisions stored; {self._tail()}") from None
        self.process = None
        end_s = time.monotonic() + GONE_S
        while left := alive(self.folder):
            if time.monotonic() > end_s:
                raise Broke(f"processes {left} outlive the program that started them")
            time.sleep(POLL_S)
        said = self._said().read_text("utf-8", "replace")
        if code >= 0 and "Traceback" in said:
            self.complaints.append(f"a traceback, exit {code}: {said.strip().splitlines()[-1]}")
        return Ended(code, said)

    def finish(self) -> None:
        """Let it run to its end, started again after every failure but a refusal, as its systemd unit does."""
        for _ in range(RESTARTS_MAX):
            if self.process is None:
                self.start()
            ended = self.ended()
            if ended.code == 0:
                return
            if ended.code == 2:
                raise Broke(f"refused (exit 2): {ended.last_words}")
            time.sleep(RESTART_S)
        raise Broke(f"not through after {RESTARTS_MAX} starts: {ended.last_words}")

    def close(self) -> list[int]:
        """Kill what is left; gives what should not have been."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            time.sleep(POLL_S)
        left = alive(self.folder)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left

    def _said(self) -> Path:
        return self.folder / f"said-{self.lives}.txt"

    def _tail(self) -> str:
        return self._said().read_text("utf-8", "replace").strip()[-SAID_CHARS:]


def decided(db: Path) -> int:
    """How many decisions are stored; asked while the program writes them."""
    if not db.exists():
        return 0
    with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as reader:
        return int(reader.execute("SELECT count(*) FROM decisions").fetchone()[0])
    return 0


def alive(folder: Path) -> list[int]:
    """Processes that a trial in this folder has started, and that still run."""
    mark, found = f"{MARK}={folder}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found
