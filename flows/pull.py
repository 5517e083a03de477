"""`tidegate model pull`: a user's own model, fetched once, sealed with a manifest, and from then on local."""

import errno
import hashlib
import importlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any, Final

from models.artifact import FILE_NAME, MANIFEST
from models.genai_folder import FORMAT, GenaiManifest, verify_folder
from schemas.errors import SourceLost, UsageError

CONFIG: Final = "genai_config.json"
NEEDED: Final = (
    CONFIG,
    "*.onnx",
    "*.onnx.data",
    "*.onnx_data",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "LICENSE*",
)
"""Of a repository's files only these are fetched; scripts, weights of other formats and pictures stay behind."""

_SPEC: Final = re.compile(
    r"hf:(?P<repository>[\w][\w.-]*/[\w][\w.-]*)(?P<folder>(?:/[\w][\w.-]*)*)(?:@(?P<revision>[\w][\w./-]*))?", re.ASCII
)
_ABSENT: Final = ("RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError", "HFValidationError")


@dataclass(frozen=True, slots=True)
class Pulled:
    """A folder that was written and verifies. `digest`: of its manifest; `size`: bytes of all its files."""

    path: Path
    name: str
    digest: str
    commit: str
    files: int
    size: int


def pull(spec: str, out: Path) -> Pulled:
    """Fetch `hf:owner/name[/folder][@revision]` from the Hugging Face hub into the new folder `out`, and seal it.

    What arrives is put together beside `out` and renamed at the end: `out` is whole or is not there.

    Errors: UsageError for a name that is wrong or not there, for an `out` that is, and where huggingface_hub is not
    installed; SourceLost where the hub cannot be reached.
    """
    named = _SPEC.fullmatch(spec)
    if named is None:
        raise UsageError(
            f"{spec!r} does not name a model: write hf:owner/name, hf:owner/name@revision or a folder of it"
        )
    repository, revision = named["repository"], named["revision"]
    _refuse_taken(out)
    hub = _import_hub()
    try:
        info = hub.HfApi().model_info(repository, revision=revision)
    except Exception as error:
        raise _lost(spec, error) from error
    commit = str(info.sha)
    every = [PurePosixPath(file.rfilename) for file in info.siblings]
    folder = _folder(repository, every, named["folder"].strip("/"))
    wanted = [escape(str(file)) for file in every if file.parent == PurePosixPath(folder) and _is_needed(file.name)]
    name = f"{repository}/{folder}".strip("/")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}): name a folder that can be made") from error
    try:
        try:
            hub.snapshot_download(
                repository,
                revision=commit,  # not the name of a branch, which may move meanwhile
                allow_patterns=wanted,
                local_dir=str(work / "snapshot"),
            )
        except Exception as error:
            raise _lost(spec, error) from error
        made = _gather(spec, work / "snapshot" / folder, work / "model")
        source = {"hub": "huggingface.co", "repository": repository, "folder": folder, "commit": commit}
        digest = seal(made, name, source | {"revision": revision or "main"})
        size = sum(file.stat().st_size for file in made.iterdir())
        made.chmod(0o755)
        _refuse_taken(out)
        made.rename(out)
        return Pulled(out, name, digest, commit, len(list(out.iterdir())) - 1, size)
    except OSError as error:
        raise UsageError(f"{out} cannot be written ({error.strerror}): name another folder, or make room") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def seal(folder: Path, name: str, source: Mapping[str, str] | None = None) -> str:
    """Write the manifest of a GenAI folder that is already here; the digest of that manifest.

    source: where the folder came from, for people. A manifest that is there is replaced: to seal is to say that the
    folder is as it should be.

    Errors: UsageError where the folder holds no GenAI model, a subfolder, a link, or a file with an odd name.
    """
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{folder} holds no {CONFIG}: it is not a folder for ONNX Runtime GenAI; name one that is")
    files: dict[str, dict[str, Any]] = {}
    try:
        for file in sorted(folder.iterdir()):
            if file.name == MANIFEST:
                continue
            if file.is_symlink() or not file.is_file() or not FILE_NAME.fullmatch(file.name):
                raise UsageError(
                    f"{folder} cannot be sealed: {file.name!r} is not a plain file with a plain name; take it out"
                )
            with file.open("rb") as stream:
                files[file.name] = {
                    "sha256": hashlib.file_digest(stream, "sha256").hexdigest(),
                    "bytes": os.fstat(stream.fileno()).st_size,
                }
        manifest = GenaiManifest.model_validate(
            {"format": FORMAT, "name": name, "files": files, "source": dict(source or {})}
        )
        partial = folder / f"{MANIFEST}.part"
        partial.write_text(json.dumps(manifest.model_dump(), indent=1, sort_keys=True) + "\n", "utf-8")
        partial.replace(folder / MANIFEST)
    except OSError as error:
        raise UsageError(f"{folder} cannot be sealed ({error.strerror}): check its permissions") from error
    except ValueError as error:
        raise UsageError(f"{folder} cannot be sealed: {error}") from error
    return verify_folder(folder).digest


def _refuse_taken(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise UsageError(f"{out} is already there: name a new folder, or remove it first")


def _import_hub() -> Any:
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # looked at once, while it is being imported
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UsageError(
            f"`tidegate model pull` needs huggingface_hub, which cannot be imported ({error}): "
            "pip install 'tidegate[genai]'; or copy a folder here and seal it"
        ) from error


def _lost(spec: str, error: Exception) -> UsageError | SourceLost:
    """What a person can do about an error of huggingface_hub; told by its class's name, since the classes move."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "GatedRepoError" in kinds:  # first: it is a RepositoryNotFoundError too
        return UsageError(
            f"{spec} is given only to those who accept its terms: do so on its page, then `hf auth login`"
        )
    if kinds.intersection(_ABSENT) and "LocalEntryNotFoundError" not in kinds:
        return UsageError(f"{spec} is not on the Hugging Face hub, or is private ({said}): check the name and revision")
    if "OfflineModeIsEnabled" in kinds:
        return SourceLost(
            f"{spec} cannot be fetched: HF_HUB_OFFLINE is set; unset it, or copy a folder here and seal it"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        return UsageError(f"{spec} cannot be written here ({error.strerror}): make room, or name another folder")
    return SourceLost(
        f"{spec} cannot be fetched, the Hugging Face hub cannot be reached ({said}): is this machine online? "
        "If it must not be, pull on another one and copy the folder here"
    )


def _is_needed(name: str) -> bool:
    return bool(FILE_NAME.fullmatch(name)) and any(fnmatchcase(name, pattern) for pattern in NEEDED)


def _folder(repository: str, files: list[PurePosixPath], asked: str) -> str:
    """The folder of the repository that holds the model. Errors: UsageError where there is none, or a choice."""
    found = sorted(str(file.parent).removeprefix(".") for file in files if file.name == CONFIG)
    if asked in found:
        return asked
    if not found:
        raise UsageError(
            f"hf:{repository} holds no {CONFIG}: it is no model for ONNX Runtime GenAI; name one, or convert it"
        )
    if asked or len(found) > 1:
        choice = ", ".join(f"hf:{repository}/{folder}".strip("/") for folder in found)
        raise UsageError(f"hf:{repository} holds models in folders of its own, name one: {choice}")
    return found[0]


def _gather(spec: str, snapshot: Path, made: Path) -> Path:
    """The needed files alone, in a folder of their own: the download leaves its own notes beside them."""
    made.mkdir()
    for file in sorted(snapshot.iterdir()) if snapshot.is_dir() else ():
        if _is_needed(file.name) and file.is_file() and not file.is_symlink():
            file.rename(made / file.name)
    if not any(made.glob("*.onnx")) or not (made / CONFIG).is_file():
        raise SourceLost(f"{spec} did not arrive whole: {CONFIG} or the .onnx file is missing; try again")
    return made
