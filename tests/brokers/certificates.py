"""A certificate authority that lives for one test run, by `openssl`."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

DAYS = "2"


@dataclass(frozen=True)
class Certificates:
    """PEM files. ca: what clients trust; cert, key: of the server on 127.0.0.1 and localhost; other_ca: of no one."""

    ca: Path
    cert: Path
    key: Path
    other_ca: Path

    @property
    def key_and_cert(self) -> Path:
        """Both in one file, as Kafka wants a PEM key store."""
        both = self.key.with_name("server-both.pem")
        both.write_text(self.key.read_text() + self.cert.read_text())
        return both


def make_certificates(folder: Path) -> Certificates:
    """A throw-away authority and a server certificate of it in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("ca", "other-ca"):
        _openssl(
            folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", DAYS,
            "-subj", f"/CN=tidegate test {name}", "-keyout", f"{name}-key.pem", "-out", f"{name}.pem",
        )  # fmt: skip
    _openssl(
        folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
        "-keyout", "server-key.pem", "-out", "server.csr",
    )  # fmt: skip
    (folder / "names.cnf").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    _openssl(
        folder, "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
        "-days", DAYS, "-extfile", "names.cnf", "-out", "server.pem",
    )  # fmt: skip
    return Certificates(folder / "ca.pem", folder / "server.pem", folder / "server-key.pem", folder / "other-ca.pem")


def _openssl(folder: Path, *args: str) -> None:
    subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)
