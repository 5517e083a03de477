"""A folder for ONNX Runtime GenAI, verified against its manifest. It may be gigabytes: nothing of it is kept in memory.

The same rules as for our own model folders (`models.artifact`): flat, plain files, all of them listed, none missing.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from models.artifact import MANIFEST, Contents, open_plain, read_manifest, refused

FORMAT: Final = "tidegate-genai/1"
JSON_BYTES_MAX: Final = 64 * 1024**2


class GenaiManifest(Contents):
    """The table of contents of a GenAI folder; `source` says where it came from, for people."""

    format: Literal["tidegate-genai/1"]
    source: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenaiFolder:
    """A folder that verified. `digest` is the SHA-256 of the manifest; `seen` tells whether a file changed since."""

    path: Path
    digest: str
    manifest: GenaiManifest
    seen: Mapping[str, tuple[int, ...]]

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder. Errors: ModelRefused."""
        listed = self.manifest.files.get(name)
        if listed is None:
            raise refused(self.path, f"its manifest lists no {name}", "use a folder for ONNX Runtime GenAI")
        raw, _ = _hashed(self.path, name, keep=JSON_BYTES_MAX)
        if hashlib.sha256(raw).hexdigest() != listed.sha256:
            raise refused(self.path, f"{name} changed while it was being loaded", "open it again")
        try:
            content = json.loads(raw)
        except ValueError as error:
            raise refused(self.path, f"{name} is not JSON ({error})", "copy the folder again") from error
        if not isinstance(content, dict):
            raise refused(self.path, f"{name} is not a JSON object", "copy the folder again")
        return content

    def refuse_changed(self) -> None:
        """The runtime opens the files by their names, after they were hashed: they must still be the same."""
        for name, before in self.seen.items():
            try:
                after = _identity(os.stat(self.path / name, follow_symlinks=False))
            except OSError:
                after = ()
            if after != before:
                raise refused(self.path, f"{name} changed while it was being loaded", "open it again")


def is_genai_folder(path: Path) -> bool:
    """Whether this is for `GenaiReader` to open or to refuse, sealed or not; nothing is verified."""
    return (path / "genai_config.json").is_file()


def verify_folder(path: Path) -> GenaiFolder:
    """Verify a GenAI folder against its manifest, as `load_folder` does, but hashing file by file and keeping nothing.

    Errors: ModelRefused, saying which file and what to do.
    """
    manifest, digest_of_all = read_manifest(path, GenaiManifest, f"{FORMAT}, which `tidegate model pull` writes")
    seen: dict[str, tuple[int, ...]] = {}
    for name, listed in sorted(manifest.files.items()):
        digest, seen[name] = _hashed(path, name)
        if digest.decode() != listed.sha256 or seen[name][0] != listed.bytes:
            what = f"{name} is not the one {MANIFEST} describes (SHA-256 differs)"
            raise refused(path, what, "copy the folder again")
    return GenaiFolder(path, digest_of_all, manifest, seen)


def _hashed(path: Path, name: str, keep: int = 0) -> tuple[bytes, tuple[int, ...]]:
    """The SHA-256 of a plain file in hexadecimal (with `keep` its content, at most so many bytes) and who it is."""
    with open_plain(path, name) as stream:
        status = os.fstat(stream.fileno())
        if keep and status.st_size > keep:
            raise refused(path, f"{name} is larger than {keep} bytes", "use another folder")
        content = stream.read(keep) if keep else hashlib.file_digest(stream, "sha256").hexdigest().encode()
    return content, _identity(status)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_ino, status.st_dev, status.st_mtime_ns, status.st_ctime_ns


def refuse_foreign(folder: GenaiFolder, config: Any) -> None:
    """A configuration may name files: only verified ones, and no code. Errors: ModelRefused."""
    if isinstance(config, list):
        for item in config:
            refuse_foreign(folder, item)
    for key, value in config.items() if isinstance(config, dict) else ():
        if key == "custom_ops_library":
            raise refused(folder.path, "genai_config.json brings program code", "use a model that needs none")
        if key == "filename" and value not in folder.manifest.files:
            what = f"genai_config.json names {value!r}, which {MANIFEST} does not list"
            raise refused(folder.path, what, "copy the folder again")
        refuse_foreign(folder, value)
