"""`tidegate bench read`: milliseconds a text at 16, 48 and 128 tokens, on one core, one text at a time."""

import resource
import time
from importlib.resources import files
from typing import Any

import orjson
from tokenizers import Tokenizer

from flows.bench.spread import spread
from flows.texts import DEFAULT_MODEL, open_model

LENGTHS = (16, 48, 128)
TEXTS = 40


def _texts(tokens: int, tokenizer: Tokenizer) -> list[str]:
    """Stretches of the corpus with exactly so many tokens, the two special ones included."""
    lines = files("models").joinpath("corpus/ward.train.jsonl").read_bytes().splitlines()
    words = " ".join(orjson.loads(line)["text"] for line in lines[:400])
    offsets = tokenizer.encode(words, add_special_tokens=False).offsets
    body = tokens - 2
    pieces = (offsets[at : at + body] for at in range(0, body * TEXTS, body))
    return [words[piece[0][0] : piece[-1][1]] for piece in pieces]


def measure(repeats: int, peers: bool) -> dict[str, Any]:
    """Every repeat reads the same texts, none of them from a cache."""
    reader = open_model("default")
    tokenizer = Tokenizer.from_file(str(DEFAULT_MODEL / "tokenizer.json"))
    figures: dict[str, Any] = {}
    for tokens in LENGTHS:
        texts = _texts(tokens, tokenizer)
        reader.read(texts[0])
        taken = []
        for _ in range(repeats):
            started = time.perf_counter()
            for text in texts:
                reader.read(text)
            taken.append((time.perf_counter() - started) / len(texts) * 1000)
        figures[f"ms_per_text_{tokens}"] = spread(taken)
    return {
        **{name: figure["median"] for name, figure in figures.items()},
        "spread": figures,
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "model": {"name": reader.name, "sha256": reader.digest},
        "limit": "none in this issue; the figure is printed for comparison",
    }
