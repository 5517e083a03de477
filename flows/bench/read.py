"""`tidegate bench read`: milliseconds a text, one at a time on one core, for the readers that ship and for rivals.

With a work folder of `tidegate train` and `compress`, the same network is measured before quantization and, where they
are installed, in PyTorch (eager) and in OpenVINO: the same weights, the same texts, the answers compared.
"""

import importlib
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from tokenizers import Tokenizer

from flows.bench.spread import spread
from flows.texts import SHIPPED, folder_of, open_model
from models.ngrams import ngrams
from schemas.settings import Settings

LENGTHS = (16, 48, 128)
TEXTS = 32
LIMITS = {
    "default": {"ms_per_text_48": 12.0, "mb": 27.0},
    "small": {"ms_per_text_48": 2.0, "mb": 8.0},
}

Row = tuple[list[int], NDArray[np.int64]]
"""One text: its t token ids and the places of its n-grams."""
Run = Callable[[Row], Any]
"""What the network says of each token, (t, labels). Rivals run the network alone, ours the linear half as well."""


def token_rows(tokens: int, tokenizer: Tokenizer) -> list[tuple[str, list[int]]]:
    """Stretches of the corpus with exactly so many tokens, the two special ones included, and their ids."""
    lines = files("models").joinpath("corpus/ward.train.jsonl").read_bytes().splitlines()
    words = " ".join(orjson.loads(line)["text"] for line in lines[:400])
    offsets = tokenizer.encode(words, add_special_tokens=False).offsets
    body = tokens - 2
    pieces = (offsets[at : at + body] for at in range(0, body * TEXTS, body))
    texts = [words[piece[0][0] : piece[-1][1]] for piece in pieces]
    return [(text, tokenizer.encode(text).ids) for text in texts]


def measure(repeats: int, peers: bool, work: Path | None = None) -> dict[str, Any]:
    """Every repeat reads the same texts, none of them from a cache."""
    readers = {name: _shipped(name, repeats) for name in SHIPPED}
    result: dict[str, Any] = {
        **{f"ms_per_text_{tokens}": readers["default"][f"ms_per_text_{tokens}"] for tokens in LENGTHS},
        "readers": readers,
        "limits": LIMITS,
    }
    if work is not None:
        result["same_weights"] = _rivals(work, repeats, peers)
    return result


def _shipped(name: str, repeats: int) -> dict[str, Any]:
    reader = open_model(name, "ward", Settings())
    tokenizer = Tokenizer.from_file(str(folder_of(name) / "tokenizer.json"))
    timed = {tokens: [text for text, _ in token_rows(tokens, tokenizer)] for tokens in LENGTHS}
    return {
        **_figures(reader.read, timed, repeats),
        "mb": round(sum(path.stat().st_size for path in folder_of(name).iterdir()) / 1e6, 1),
        "rss_mb": _rss(name),
        "sha256": reader.digest,
    }


def _figures(read: Callable[[Any], Any], timed: dict[int, list[Any]], repeats: int) -> dict[str, Any]:
    found: dict[str, Any] = {"spread": {}}
    for tokens, rows in timed.items():
        read(rows[0])
        taken = []
        for _ in range(repeats):
            started = time.perf_counter()
            for row in rows:
                read(row)
            taken.append((time.perf_counter() - started) / len(rows) * 1000)
        found["spread"][f"ms_per_text_{tokens}"] = figure = spread(taken)
        found[f"ms_per_text_{tokens}"] = figure["median"]
    found["texts_per_s_of_32"] = round(1000 / found["ms_per_text_48"], 1)
    return found


_LOAD = """
import resource, sys
from flows.texts import open_model
from schemas.settings import Settings
open_model(sys.argv[1], "ward", Settings()).read("Treated as sepsis, on 2 L of oxygen.")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def _rss(name: str) -> float:
    """MB of a process that does nothing but read one text."""
    done = subprocess.run([sys.executable, "-c", _LOAD, name], check=True, capture_output=True, text=True)
    return round(float(done.stdout), 1)


def _rivals(work: Path, repeats: int, peers: bool) -> dict[str, Any]:
    stage = work / "default"
    tokenizer = Tokenizer.from_file(str(stage / "int8/tokenizer.json"))
    runs: dict[str, Run] = {name: _onnx(stage / name) for name in ("int8", "fp32")}
    found: dict[str, Any] = {}
    if peers:
        for name, make in (("torch eager", partial(_torch, tokenizer)), ("OpenVINO", _openvino)):
            try:
                runs[name] = make(stage)
            except ModuleNotFoundError as error:
                found[name] = f"not measured: {error.name} is not installed"
    timed = {tokens: [(ids, ngrams(text).places) for text, ids in token_rows(tokens, tokenizer)] for tokens in LENGTHS}
    exact = [runs["fp32"](row) for row in timed[48]]
    for name, run in runs.items():
        # The first and the last token carry no text: what is said of them is without meaning.
        gap = max(float(np.abs(run(row) - other)[1:-1].max()) for row, other in zip(timed[48], exact, strict=True))
        found[name] = {**_figures(run, timed, repeats), "largest_logit_gap_to_fp32": round(gap, 4)}
    return found


def _onnx(folder: Path) -> Run:
    session = importlib.import_module("models.runner").Session((folder / "model.onnx").read_bytes)
    return lambda row: session.run(*row).tokens


def _torch(pruned: Tokenizer, stage: Path) -> Run:
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    network, whole = importlib.import_module("models.train.recipe").trained(stage)
    # It was trained with more word pieces, which have other numbers.
    numbers = torch.tensor([whole.token_to_id(pruned.id_to_token(at)) for at in range(pruned.get_vocab_size())])

    def run(row: Row) -> Any:
        ids = numbers[torch.tensor([row[0]])]
        with torch.inference_mode():
            return network(ids, torch.ones_like(ids))[0][0].numpy()

    return run


def _openvino(stage: Path) -> Run:
    openvino, onnx = importlib.import_module("openvino"), importlib.import_module("onnx")
    # The network alone, and of it what is said of the tokens: OpenVINO cannot read the sum that makes a label of them.
    inputs = ["input_ids", "attention_mask"]
    model = onnx.utils.Extractor(onnx.load(stage / "fp32/model.onnx")).extract_model(inputs, ["token_logits"])
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()),
        "CPU",
        {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"},
    )

    def run(row: Row) -> Any:
        ids = np.asarray([row[0]], dtype=np.int64)
        return compiled(dict(zip(inputs, (ids, np.ones_like(ids)), strict=True)))[0]

    return run
