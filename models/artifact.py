"""A model folder, verified: every byte that is used later is a byte whose SHA-256 the manifest names."""

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from schemas.errors import ModelRefused

MANIFEST: Final = "manifest.json"
FORMAT: Final = "tidegate-reader/4"
MANIFEST_BYTES_MAX: Final = 65_536
FILE_BYTES_MAX: Final = 512 * 1024 * 1024
LISTED_BYTES_MAX: Final = 64 * 1024**3
FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ListedFile(BaseModel):
    """What the manifest says of one file."""

    model_config = ConfigDict(strict=True, extra="forbid")

    sha256: Sha256
    bytes: int = Field(ge=0, le=LISTED_BYTES_MAX)


class Contents(BaseModel):
    """The table of contents of any model folder."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)
    files: dict[str, ListedFile] = Field(min_length=1, max_length=64)


AnyManifest = TypeVar("AnyManifest", bound=Contents)


class Manifest(Contents):
    """That of a reader of ours; `metrics` and `data` are for people and are not interpreted."""

    format: Literal["tidegate-reader/4"]
    metrics: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A folder that verified. `digest` is the SHA-256 of the manifest, and so of all; `files` holds the bytes."""

    path: Path
    digest: str
    manifest: Manifest
    files: dict[str, bytes]

    def take(self, name: str) -> bytes:
        """As `file`, and let go of the bytes: a model is large, and is needed once. Errors: ModelRefused."""
        content = self.file(name)
        del self.files[name]
        return content

    def file(self, name: str) -> bytes:
        """The verified bytes of one file. Errors: ModelRefused where the manifest does not list it."""
        if name not in self.files:
            raise refused(self.path, f"its manifest lists no {name}", "use another folder")
        return self.files[name]


def load_folder(path: Path) -> Artifact:
    """Read and verify a model folder. The folder is flat: plain files, all of them listed, none missing, no links.

    Errors: ModelRefused, saying which file and what to do.
    """
    manifest, digest = read_manifest(path, Manifest, FORMAT)
    files = {name: _verified(path, name, listed) for name, listed in sorted(manifest.files.items())}
    return Artifact(path, digest, manifest, files)


def read_manifest(path: Path, kind: type[AnyManifest], form: str) -> tuple[AnyManifest, str]:
    """The manifest of a folder and its SHA-256; it lists exactly the files that are there, by plain names.

    Errors: ModelRefused. What is in the files is not looked at.
    """
    raw = _read(path, MANIFEST, MANIFEST_BYTES_MAX)
    try:
        manifest = kind.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise refused(path, f"{MANIFEST} is wrong at {place} ({first['msg']})", f"this version reads {form}") from error
    for name in manifest.files:
        if not FILE_NAME.fullmatch(name) or name == MANIFEST:
            raise refused(path, f"{MANIFEST} lists {name!r}, which is not a plain file name", "do not use this folder")
    _refuse_strangers(path, manifest)
    return manifest, hashlib.sha256(raw).hexdigest()


def _refuse_strangers(path: Path, manifest: Contents) -> None:
    try:
        present = set(os.listdir(path))
    except OSError as error:
        raise refused(path, f"the folder cannot be listed ({error.strerror})", "check its permissions") from error
    for name in sorted(present - set(manifest.files) - {MANIFEST}):
        raise refused(path, f"{name!r} is there but not in {MANIFEST}", "take it out, or copy the folder again")


def _verified(path: Path, name: str, listed: ListedFile) -> bytes:
    content = _read(path, name, FILE_BYTES_MAX)
    if len(content) != listed.bytes or hashlib.sha256(content).hexdigest() != listed.sha256:
        raise refused(path, f"{name} is not the one {MANIFEST} describes (SHA-256 differs)", "copy the folder again")
    return content


def _read(path: Path, name: str, bytes_max: int) -> bytes:
    with open_plain(path, name) as stream:
        content = stream.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise refused(path, f"{name} is larger than {bytes_max} bytes", "use a smaller model")
    return content


def open_plain(path: Path, name: str) -> BufferedReader:
    """A plain file of a folder, for reading; a link, a device or a pipe is refused, not followed or waited for.

    Errors: ModelRefused.
    """
    try:
        handle = os.open(path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise refused(
            path, f"{name} is missing", "check the path, or seal the folder where it is a generator, or copy it again"
        ) from error
    except OSError as error:
        what = "is a symbolic link" if (path / name).is_symlink() else f"cannot be opened ({error.strerror})"
        raise refused(path, f"{name} {what}", "put the file itself there, readable") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise refused(path, f"{name} is not a plain file", "put the file itself there")
    return os.fdopen(handle, "rb")


def refused(path: Path, what: str, then: str) -> ModelRefused:
    """The error of a folder that is not used: what is wrong with it, and what to do then."""
    return ModelRefused(f"the model folder {path} is refused: {what}; {then}")
