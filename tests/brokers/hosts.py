"""A host of its own on this machine: a network namespace, joined to ours by a link that can be slow, and be pulled."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from flows.connectors.kafka import broker as local
from tests.brokers.kafka import Broker, Cluster, add_listener

LINKED = "LINKED"


class Host:
    """The host at `there`; we are `here` for it. Gone after `close`.

    A run of the tests that was killed leaves its host behind, and two runs may go side by side: each has a number that
    nobody else has, and with it its addresses.
    """

    def __init__(self) -> None:
        number = next(number for number in range(256) if not _refused(f"tidegate-{number}"))
        self._name, self._ours, self._theirs = f"tidegate-{number}", f"tg{number}a", f"tg{number}b"
        self.here, self.there = f"10.213.{number}.1", f"10.213.{number}.2"

    def start_up(self) -> None:
        """Make the link to it."""
        _ip("link", "add", self._ours, "type", "veth", "peer", "name", self._theirs)
        _ip("link", "set", self._theirs, "netns", self._name)
        _ip("addr", "add", f"{self.here}/30", "dev", self._ours)
        _ip("link", "set", self._ours, "up")
        _ip("-n", self._name, "addr", "add", f"{self.there}/30", "dev", self._theirs)
        _ip("-n", self._name, "link", "set", "lo", "up")
        self.plug()

    def close(self) -> None:
        """Remove what there is of both."""
        for command in (["link", "del", self._ours], ["netns", "del", self._name]):
            subprocess.run(["ip", *command], capture_output=True, check=False)

    def start(self, *args: object, said: Path) -> "subprocess.Popen[bytes]":
        """`tidegate ARGS` on that host; what it says goes to a file."""
        with said.open("wb") as output:
            return subprocess.Popen(
                ["ip", "netns", "exec", self._name, sys.executable, "-m", "flows", *map(str, args)],
                stdout=output,
                stderr=output,
            )

    def ask(self, port: int, path: str) -> str:
        """What its own web server at this port answers, whatever the status; nothing where there is none."""
        command = ["ip", "netns", "exec", self._name, "curl", "-s", "-m", "5", f"http://127.0.0.1:{port}{path}"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def slow(self, kbit_s: int) -> None:
        """What goes to that host goes no faster than this."""
        limits = ["rate", f"{kbit_s}kbit", "burst", "32kbit", "latency", "400ms"]
        subprocess.run(["tc", "qdisc", "replace", "dev", self._ours, "root", "tbf", *limits], check=True)

    def pull(self) -> None:
        """Nothing passes, and nobody is told."""
        _ip("-n", self._name, "link", "set", self._theirs, "down")

    def plug(self) -> None:
        """The link is there again."""
        _ip("-n", self._name, "link", "set", self._theirs, "up")


class LinkedCluster(Cluster):
    """A broker that is on loopback, and at `linked` for the other host."""

    def __init__(self, folder: Path, host: Host) -> None:
        self.linked = f"{host.here}:{local.free_port()}"
        super().__init__(folder)

    def _settings(self, broker: Broker) -> dict[str, str]:
        settings = super()._settings(broker)
        add_listener(settings, LINKED, self.linked, self.linked)
        return settings


def missing() -> str | None:
    """Why there can be no such host, or None."""
    lacking = [program for program in ("ip", "tc", "curl") if shutil.which(program) is None]
    if lacking:
        return f"no second host without {' and '.join(lacking)}: install them (Debian: iproute2, curl)"
    tried = f"tidegate-try-{os.getpid()}"
    why = _refused(tried)
    if why:
        return f"no second host: a network namespace needs root ({why})"
    _ip("netns", "del", tried)
    return None


def _refused(name: str) -> str:
    """Why there can be no namespace of this name; nothing where it was made."""
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    return made.stderr.strip() if made.returncode else ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
