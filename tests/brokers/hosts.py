"""A host of its own on this machine: a network namespace, joined to ours by a link that can be slow, and be pulled."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from flows.connectors.kafka import broker as local
from tests.brokers.kafka import Broker, Cluster, add_listener

HERE, THERE = "10.213.7.1", "10.213.7.2"
LINKED = "LINKED"


class Host:
    """The host at THERE; we are HERE for it. Gone after `close`."""

    def __init__(self) -> None:
        self._name = f"tidegate-{os.getpid()}"
        self._ours, self._theirs = f"tg{os.getpid()}a", f"tg{os.getpid()}b"

    def start_up(self) -> None:
        """Make it, and the link."""
        _ip("netns", "add", self._name)
        _ip("link", "add", self._ours, "type", "veth", "peer", "name", self._theirs)
        _ip("link", "set", self._theirs, "netns", self._name)
        _ip("addr", "add", f"{HERE}/30", "dev", self._ours)
        _ip("link", "set", self._ours, "up")
        _ip("-n", self._name, "addr", "add", f"{THERE}/30", "dev", self._theirs)
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
    """A broker that is on loopback, and HERE for the other host."""

    def __init__(self, folder: Path) -> None:
        self._port = local.free_port()
        super().__init__(folder)

    @property
    def linked(self) -> str:
        """Its address for the other host."""
        return f"{HERE}:{self._port}"

    def _settings(self, broker: Broker) -> dict[str, str]:
        settings = super()._settings(broker)
        add_listener(settings, LINKED, self.linked, self.linked)
        return settings


def missing() -> str | None:
    """Why there can be no such host, or None."""
    lacking = [program for program in ("ip", "tc", "curl") if shutil.which(program) is None]
    if lacking:
        return f"no second host without {' and '.join(lacking)}: install them (Debian: iproute2, curl)"
    made = subprocess.run(["ip", "netns", "add", "tidegate-try"], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no second host: a network namespace needs root ({made.stderr.strip()})"
    _ip("netns", "del", "tidegate-try")
    return None


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
