"""A model folder is loaded only if every byte of it is what the manifest says."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from models.artifact import FORMAT, load_folder
from schemas.errors import ModelRefused

FILES = {"model.onnx": b"\x08\x09model", "labels.json": b"{}", "card.md": b"# card\n"}


def write_manifest(folder: Path, contents: dict[str, bytes], **changes: Any) -> None:
    listed: dict[str, Any] = {
        name: {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)} for name, raw in contents.items()
    }
    manifest = {"format": FORMAT, "name": "r", "files": listed, **changes}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, raw in FILES.items():
        (tmp_path / name).write_bytes(raw)
    write_manifest(tmp_path, FILES)
    return tmp_path


def test_an_intact_folder_gives_its_bytes_and_the_digest_of_its_manifest(folder: Path) -> None:
    artifact = load_folder(folder)
    assert artifact.files == FILES
    assert artifact.digest == hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert artifact.manifest.name == "r"


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_any_file_is_refused_and_named(folder: Path, name: str) -> None:
    raw = bytearray((folder / name).read_bytes())
    raw[-1] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(ModelRefused, match=name):
        load_folder(folder)


def test_a_file_that_grew_is_refused(folder: Path) -> None:
    with (folder / "card.md").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ModelRefused, match=r"card\.md"):
        load_folder(folder)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_missing_file_is_refused_and_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelRefused, match=f"{name} is missing"):
        load_folder(folder)


@pytest.mark.parametrize("stranger", ["extra.py", ".hidden"])
def test_a_file_the_manifest_does_not_list_is_refused(folder: Path, stranger: str) -> None:
    (folder / stranger).write_text("x")
    with pytest.raises(ModelRefused, match=f"{stranger}.*not in manifest"):
        load_folder(folder)


def test_a_subfolder_is_refused(folder: Path) -> None:
    (folder / "more").mkdir()
    with pytest.raises(ModelRefused, match="more"):
        load_folder(folder)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_symbolic_link_is_refused_though_its_target_is_right(folder: Path, tmp_path_factory: Any, name: str) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / name
    (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(ModelRefused, match=f"{name} is a symbolic link"):
        load_folder(folder)


def test_a_pipe_in_place_of_a_file_is_refused_without_waiting_for_a_writer(folder: Path) -> None:
    (folder / "card.md").unlink()
    os.mkfifo(folder / "card.md")
    with pytest.raises(ModelRefused, match="not a plain file"):
        load_folder(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/b", "..", "", "manifest.json", "a\nb"])
def test_a_manifest_that_points_out_of_its_folder_is_refused(folder: Path, name: str) -> None:
    (folder.parent / "outside").write_bytes(b"x")
    write_manifest(folder, {**FILES, name: b"x"})
    with pytest.raises(ModelRefused, match="not a plain file name"):
        load_folder(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "tidegate-reader/1"},
        {"format": None},
        {"files": {}},
        {"surprise": 1},
        {"domain": "ward"},
        {"name": 7},
    ],
)
def test_a_manifest_of_another_format_is_refused(folder: Path, changes: dict[str, Any]) -> None:
    write_manifest(folder, FILES, **changes)
    with pytest.raises(ModelRefused, match=r"manifest\.json is wrong at .*this version reads"):
        load_folder(folder)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff\xfe", b'{"format": NaN}'])
def test_a_manifest_that_is_not_a_json_object_is_refused(folder: Path, raw: bytes) -> None:
    (folder / "manifest.json").write_bytes(raw)
    with pytest.raises(ModelRefused, match=r"manifest\.json is wrong"):
        load_folder(folder)


def test_a_manifest_of_absurd_size_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b" " * 70_000)
    with pytest.raises(ModelRefused, match=r"manifest\.json is larger"):
        load_folder(folder)


def test_a_folder_that_is_not_there_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="nowhere"):
        load_folder(tmp_path / "nowhere")


def test_asking_for_a_file_that_is_not_listed_is_refused(folder: Path) -> None:
    with pytest.raises(ModelRefused, match=r"lists no tokenizer\.json"):
        load_folder(folder).file("tokenizer.json")
