"""Real Mosquitto brokers on free loopback ports.

with Mosquitto(folder) as broker:          # or Mosquitto(folder, certificates=..., users={"name": "password"})
    broker.port, broker.tls_port
    broker.stop(); broker.start()          # same ports, same sessions
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.brokers.certificates import Certificates

UP_S = 20
USER, PASSWORD = "tidegate", "a-password-for-tests"


def missing() -> str | None:
    """Why no broker can be started here, or None."""
    lacking = [program for program in ("mosquitto", "mosquitto_passwd", "openssl") if shutil.which(program) is None]
    return f"no MQTT broker without {' and '.join(lacking)}: install it" if lacking else None


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Mosquitto:
    """One broker with its folder. As a context it is up on entry and gone on exit; sessions outlive a restart.

    certificates: with them there is a TLS listener too. users: name -> password; without them anybody may connect.
    more: lines of its configuration.
    """

    def __init__(
        self,
        folder: Path,
        certificates: Certificates | None = None,
        users: Mapping[str, str] | None = None,
        more: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port, self.tls_port = folder, free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        lines = [
            "per_listener_settings false",
            "persistence true",
            f"persistence_location {folder}/",
            "max_inflight_messages 1000",
            "max_queued_messages 0",
            *more,
            f"allow_anonymous {'false' if users else 'true'}",
            f"listener {self.port} 127.0.0.1",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # it would leave root for a user who cannot write here
        if users:
            passwords = folder / "passwords"
            passwords.write_text("".join(f"{name}:{password}\n" for name, password in users.items()))
            subprocess.run(["mosquitto_passwd", "-U", passwords], check=True, capture_output=True)
            lines.append(f"password_file {passwords}")
        if certificates:
            lines += [
                f"listener {self.tls_port} 127.0.0.1",
                f"certfile {certificates.cert}",
                f"keyfile {certificates.key}",
            ]
        self._config = folder / "mosquitto.conf"
        self._config.write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        assert self._process is None, "it runs already"
        with (self.folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(["mosquitto", "-c", self._config], stdout=output, stderr=output)
        end = time.monotonic() + UP_S
        while time.monotonic() < end:
            assert self._process.poll() is None, (self.folder / "output.txt").read_text()[-2000:]
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.01)
        raise AssertionError(f"no answer within {UP_S} s")

    def stop(self) -> None:
        """SIGTERM, and wait: sessions and what waits in them are on disk."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what Mosquitto had not saved yet is gone."""
        self._end(signal.SIGKILL)

    def save(self) -> None:
        """Have it save sessions and what waits in them now."""
        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None
