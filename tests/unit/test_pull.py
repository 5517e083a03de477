"""Fetching and sealing a user's own model. No network: the hub is a module of our own."""

import errno
import hashlib
import json
import os
import sys
import tracemalloc
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from flows.pull import pull, seal
from models.genai_folder import is_genai_folder, verify_folder
from schemas.errors import ModelRefused, SourceLost, UsageError

COMMIT = "c0ffee" + "0" * 34
MODEL = {
    "genai_config.json": b'{"model": {}}',
    "model.onnx": b"graph",
    "model.onnx.data": b"weights" * 1000,
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "special_tokens_map.json": b"{}",
    "chat_template.jinja": b"{{ m }}",
    "LICENSE": b"Apache-2.0",
}
OTHER = {
    "README.md": b"# card",
    "gpu/other.onnx": b"x",
    ".hidden.onnx": b"x",
    "tokenizer/vocab.json": b"x",
    "evil.py": b"import os",
    "model.safetensors": b"x",
    "images/a.png": b"x",
}


class Hub(ModuleType):
    """As much of huggingface_hub as is used; `fails`: what a call of that name raises."""

    def __init__(self, files: Mapping[str, bytes], fails: Mapping[str, Exception]) -> None:
        super().__init__("huggingface_hub")
        self.files, self.fails = files, fails
        self.asked: list[Any] = []
        self.fetched: list[str] = []

    def HfApi(self) -> "Hub":
        return self

    def model_info(self, repository: str, revision: str | None = None) -> Any:
        self.asked.append((repository, revision))
        if "model_info" in self.fails:
            raise self.fails["model_info"]
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in self.files])

    def snapshot_download(self, repository: str, revision: str, allow_patterns: list[str], local_dir: str) -> str:
        self.asked.append((repository, revision))
        notes = Path(local_dir) / ".cache" / "huggingface" / "notes"
        for place, content in ((notes, b"notes"), *((Path(local_dir) / name, raw) for name, raw in self.files.items())):
            name = str(place.relative_to(local_dir))
            if place is notes or any(fnmatch(name, pattern) for pattern in allow_patterns):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
                self.fetched += [name] if place is not notes else []
            if "snapshot_download" in self.fails:
                raise self.fails["snapshot_download"]
        return local_dir


def error(*names: str, bases: tuple[type, ...] = (Exception,)) -> Exception:
    """An error whose class and parents have these names, as huggingface_hub's have."""
    for name in reversed(names):
        bases = (type(name, bases, {}),)
    made: Exception = bases[0]("it says so")
    return made


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    fake = Hub({**MODEL, **OTHER}, {})
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_pulled_folder_holds_what_is_needed_and_verifies(hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "models" / "qwen"
    pulled = pull("hf:owner/name", out)
    assert left_over(out) == sorted([*MODEL, "manifest.json"])
    assert sorted(hub.fetched) == sorted(MODEL)
    verified = verify_folder(out)
    assert pulled.digest == verified.digest == hashlib.sha256((out / "manifest.json").read_bytes()).hexdigest()
    assert (pulled.path, pulled.name, pulled.commit, pulled.files) == (out, "owner/name", COMMIT, len(MODEL))
    assert verified.manifest.name == "owner/name"
    assert verified.manifest.source["commit"] == COMMIT
    assert verified.manifest.files["model.onnx"].bytes == 5
    assert left_over(out.parent) == ["qwen"]


def test_a_branch_is_looked_up_once_and_its_commit_is_fetched(hub: Hub, tmp_path: Path) -> None:
    pull("hf:owner/name@v1.5", tmp_path / "out")
    assert hub.asked == [("owner/name", "v1.5"), ("owner/name", COMMIT)]
    assert verify_folder(tmp_path / "out").manifest.source["revision"] == "v1.5"


def test_the_hub_is_told_to_send_no_telemetry_before_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delitem(sys.modules, "huggingface_hub", raising=False)
    (tmp_path / "huggingface_hub.py").write_text("import os\nSAID = os.environ['HF_HUB_DISABLE_TELEMETRY']\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SourceLost):  # the module has nothing else
        pull("hf:owner/name", tmp_path / "out")
    assert sys.modules["huggingface_hub"].SAID == "1"
    monkeypatch.delitem(sys.modules, "huggingface_hub")


def test_a_model_in_the_only_subfolder_is_found_and_a_choice_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    hub.files = {f"cpu/int4/{name}": content for name, content in MODEL.items()}
    pulled = pull("hf:owner/name", tmp_path / "found")
    assert (pulled.name, left_over(tmp_path / "found")) == ("owner/name/cpu/int4", sorted([*MODEL, "manifest.json"]))
    hub.files |= {f"gpu/{name}": content for name, content in MODEL.items()}
    with pytest.raises(UsageError, match=r"hf:owner/name/cpu/int4, hf:owner/name/gpu"):
        pull("hf:owner/name", tmp_path / "out")
    assert pull("hf:owner/name/cpu/int4@main", tmp_path / "out").files == len(MODEL)
    with pytest.raises(UsageError, match="name one: hf:owner/name/cpu/int4"):
        pull("hf:owner/name/tpu", tmp_path / "other")


@pytest.mark.parametrize(
    "spec", ["owner/name", "hf:name", "hf:", "hf:owner/name@", "hf:../name", "hf:o/n/../x", "https://x/y", "hf:o/n o"]
)
def test_a_name_that_is_no_name_says_how_to_write_one(hub: Hub, tmp_path: Path, spec: str) -> None:
    with pytest.raises(UsageError, match="write hf:owner/name"):
        pull(spec, tmp_path / "out")
    assert hub.asked == []


OFFLINE = error("OfflineModeIsEnabled", bases=(ConnectionError,))
ABSENT = error("RepositoryNotFoundError", "HfHubHTTPError", bases=(OSError,))
GATED = error("GatedRepoError", "RepositoryNotFoundError")
FAILURES = [
    ("model_info", OFFLINE, SourceLost, "HF_HUB_OFFLINE is set"),
    ("model_info", error("ConnectError"), SourceLost, "cannot be reached .*is this machine online"),
    ("model_info", ABSENT, UsageError, "is not on the Hugging Face hub, or is private"),
    ("model_info", error("RevisionNotFoundError"), UsageError, "check the name and revision"),
    ("model_info", GATED, UsageError, "accept its terms"),
    ("snapshot_download", TimeoutError("read"), SourceLost, "cannot be reached"),
    ("snapshot_download", error("LocalEntryNotFoundError", "EntryNotFoundError"), SourceLost, "cannot be reached"),
    ("snapshot_download", OSError(errno.ENOSPC, "No space left on device"), UsageError, "make room"),
]


@pytest.mark.parametrize(("call", "raised", "kind", "said"), FAILURES)
def test_what_goes_wrong_is_told_and_nothing_is_left(
    hub: Hub, tmp_path: Path, call: str, raised: Exception, kind: type[Exception], said: str
) -> None:
    hub.fails = {call: raised}
    with pytest.raises(kind, match=said) as lost:
        pull("hf:owner/name", tmp_path / "out")
    assert type(lost.value) is kind
    assert str(lost.value).startswith("hf:owner/name ")
    assert left_over(tmp_path) == []


def test_the_missing_package_is_said_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install 'tidegate\[genai\]'"):
        pull("hf:owner/name", tmp_path / "out")


def test_a_repository_without_a_genai_model_is_wrong_usage(hub: Hub, tmp_path: Path) -> None:
    hub.files = OTHER
    with pytest.raises(UsageError, match=r"holds no genai_config\.json"):
        pull("hf:owner/name", tmp_path / "out")


def test_a_download_without_its_graph_did_not_arrive(hub: Hub, tmp_path: Path) -> None:
    hub.files = {name: content for name, content in MODEL.items() if name != "model.onnx"}
    with pytest.raises(SourceLost, match="did not arrive whole"):
        pull("hf:owner/name", tmp_path / "out")
    assert left_over(tmp_path) == []


def test_a_folder_that_is_there_is_left_alone(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is already there"):
        pull("hf:owner/name", tmp_path)
    assert hub.asked == []


def test_a_place_that_cannot_be_written_is_wrong_usage(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be written"):
        pull("hf:owner/name", tmp_path / "file" / "out")


# Sealing a folder that is here, and what is refused afterwards


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in MODEL.items():
        (folder / name).write_bytes(content)
    seal(folder, "mine")
    return folder


def test_a_genai_folder_is_told_from_our_own(sealed: Path) -> None:
    assert is_genai_folder(sealed)
    assert not is_genai_folder(sealed.parent)
    (sealed / "manifest.json").unlink()
    assert is_genai_folder(sealed)
    with pytest.raises(ModelRefused, match=r"manifest\.json is missing; check the path, or seal the folder"):
        verify_folder(sealed)


def test_sealing_twice_gives_the_same_digest_and_another_name_another(sealed: Path) -> None:
    first = verify_folder(sealed).digest
    assert seal(sealed, "mine") == first
    assert seal(sealed, "yours") != first
    assert left_over(sealed) == sorted([*MODEL, "manifest.json"])


@pytest.mark.parametrize("name", ["", "n" * 201])
def test_a_name_that_no_manifest_may_have_cannot_be_sealed(sealed: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be sealed"):
        seal(sealed, name)


@pytest.mark.parametrize("odd", ["sub", "link", "a b"])
def test_a_folder_with_more_than_plain_files_cannot_be_sealed(sealed: Path, odd: str) -> None:
    if odd == "sub":
        (sealed / odd).mkdir()
    elif odd == "link":
        (sealed / odd).symlink_to(sealed / "model.onnx")
    else:
        (sealed / odd).write_bytes(b"x")
    with pytest.raises(UsageError, match=f"'{odd}' is not a plain file"):
        seal(sealed, "mine")


def test_a_folder_without_a_model_cannot_be_sealed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no genai_config\.json"):
        seal(tmp_path, "mine")


@pytest.mark.parametrize("name", [*MODEL])
def test_a_changed_byte_anywhere_is_refused_with_the_file_named(sealed: Path, name: str) -> None:
    content = (sealed / name).read_bytes()
    (sealed / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(ModelRefused, match=f"{name} is not the one") as refusal:
        verify_folder(sealed)
    assert str(sealed) in str(refusal.value)


def test_a_missing_file_a_stranger_a_link_and_a_pipe_are_refused(sealed: Path, tmp_path: Path) -> None:
    graph = sealed / "model.onnx"
    graph.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelRefused, match=r"model\.onnx is missing"):
        verify_folder(sealed)
    graph.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelRefused, match=r"model\.onnx is a symbolic link"):
        verify_folder(sealed)
    graph.unlink()
    os.mkfifo(graph)
    with pytest.raises(ModelRefused, match="not a plain file"):
        verify_folder(sealed)
    (sealed / "stranger.so").write_bytes(b"x")
    with pytest.raises(ModelRefused, match=r"'stranger\.so' is there but not in"):
        verify_folder(sealed)


@pytest.mark.parametrize("changes", [{"format": "tidegate-reader/1"}, {"files": {}}, {"surprise": 1}, {"name": 7}])
def test_a_manifest_of_another_format_is_refused(sealed: Path, changes: dict[str, Any]) -> None:
    manifest = json.loads((sealed / "manifest.json").read_text())
    (sealed / "manifest.json").write_text(json.dumps(manifest | changes))
    with pytest.raises(ModelRefused, match=r"manifest\.json is wrong at .*this version reads tidegate-genai/1"):
        verify_folder(sealed)


@pytest.mark.parametrize("name", ["../mine/model.onnx", "/etc/hostname", "..", "manifest.json"])
def test_a_manifest_that_points_out_of_its_folder_is_refused(sealed: Path, name: str) -> None:
    manifest = json.loads((sealed / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"]["model.onnx"]
    (sealed / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelRefused, match="not a plain file name"):
        verify_folder(sealed)


@pytest.mark.parametrize("place", ["nowhere", "mine/model.onnx"])
def test_a_folder_that_is_none_is_refused_with_its_path(sealed: Path, tmp_path: Path, place: str) -> None:
    with pytest.raises(ModelRefused, match=place):
        verify_folder(tmp_path / place)


def test_a_large_file_is_hashed_without_being_held_in_memory(sealed: Path) -> None:
    with (sealed / "model.onnx.data").open("wb") as file:
        file.truncate(64 * 1024 * 1024)
    tracemalloc.start()
    try:
        seal(sealed, "large")
        verify_folder(sealed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * 1024 * 1024
