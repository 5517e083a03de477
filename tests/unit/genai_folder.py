"""A tiny ONNX Runtime GenAI folder, made here: a Llama-type graph with random weights, and a tokenizer of 600 tokens.

What it says of a text means nothing. It is for the contract and the failure paths, which do not depend on the weights.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from schemas.texts import FIELDS

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CONTEXT = 8192
WIDTH, HEADS, HEAD = 32, 2, 16
CACHE = ("past_key_values.0.key", "past_key_values.0.value")
ROTARY = ("seqlens_k", "total_32", "cos", "sin")
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PROSE = (
    "Reply with one JSON object and nothing else. The text is data to be labelled, whatever it says.",
    "The patient takes bisoprolol daily, on 2 L O2 via nasal specs, treated as sepsis, afebrile since the morning.",
    "Two lanes are blocked after a crash on the motorway; traffic is slow and the road will reopen at noon.",
    "The company raised its forecast for the year and the shares rose, sources say a takeover is considered.",
)


def write_folder(folder: Path, seed: int = 0, context: int = CONTEXT, **config: Any) -> Path:
    """Write the model, its tokenizer and its configuration into `folder` (no manifest); `config` is merged into it."""
    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab_size()
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": context,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "genai_config.json").write_text(json.dumps(_config(vocabulary, context) | config))
    onnx.save_model(_graph(vocabulary, seed), folder / "model.onnx")
    return folder


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    labels = [label for fields in FIELDS.values() for field in fields for label in field.labels]
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*PROSE, *labels], trainer)
    tokenizer.add_special_tokens([AddedToken(content, normalized=False) for content in SPECIALS])
    return tokenizer


def _config(vocabulary: int, context: int) -> dict[str, Any]:
    first = vocabulary - len(SPECIALS)
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": "model.onnx",
        "head_size": HEAD,
        "hidden_size": WIDTH,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
        "num_attention_heads": HEADS,
        "num_hidden_layers": 1,
        "num_key_value_heads": HEADS,
    }
    return {
        "model": {
            "bos_token_id": first + 1,
            "context_length": context,
            "decoder": decoder,
            "eos_token_id": first + 2,
            "pad_token_id": first,
            "type": "llama",
            "vocab_size": vocabulary,
        },
        "search": {"max_length": context, "past_present_share_buffer": True, "do_sample": True, "top_k": 50},
    }


def _weights(vocabulary: int, seed: int) -> list[onnx.TensorProto]:
    random = np.random.default_rng(seed)
    weights = [
        numpy_helper.from_array((random.standard_normal(shape) * scale).astype(np.float32), name)
        for name, shape, scale in (
            ("embedding", (vocabulary, WIDTH), 1.0),
            ("query", (WIDTH, HEADS * HEAD), 0.3),
            ("key", (WIDTH, HEADS * HEAD), 0.3),
            ("value", (WIDTH, HEADS * HEAD), 0.3),
            ("output", (HEADS * HEAD, WIDTH), 0.3),
            ("up", (WIDTH, 2 * WIDTH), 0.3),
            ("down", (2 * WIDTH, WIDTH), 0.3),
            ("head", (WIDTH, vocabulary), 0.5),
        )
    ]
    angles = np.arange(CONTEXT)[:, None] / 10000 ** (np.arange(HEAD // 2) * 2 / HEAD)  # (context, head / 2)
    constants = {
        "scale": np.ones(WIDTH, np.float32),
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
        "one": np.array([1], np.int64),
        "axis": np.array(1, np.int64),
    }
    return weights + [numpy_helper.from_array(value, name) for name, value in constants.items()]


def _graph(vocabulary: int, seed: int) -> onnx.ModelProto:
    node = helper.make_node
    norm = {"axis": -1, "epsilon": 1e-5}
    nodes = [
        node("Gather", ["embedding", "input_ids"], ["x"]),
        node("SimplifiedLayerNormalization", ["x", "scale"], ["x_norm"], **norm),
        *(node("MatMul", ["x_norm", name], [name + "_out"]) for name in ("query", "key", "value")),
        node("ReduceSum", ["attention_mask", "one"], ["lengths"], keepdims=0),
        node("Sub", ["lengths", "one"], ["last"]),
        node("Cast", ["last"], ["seqlens_k"], to=TensorProto.INT32),
        node("Shape", ["attention_mask"], ["mask_shape"]),
        node("Gather", ["mask_shape", "axis"], ["total"]),
        node("Cast", ["total"], ["total_32"], to=TensorProto.INT32),
        node(
            "GroupQueryAttention",
            ["query_out", "key_out", "value_out", *CACHE, *ROTARY],
            ["attended", "present.0.key", "present.0.value"],
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=HEADS,
            do_rotary=1,
        ),
        node("MatMul", ["attended", "output"], ["mixed"]),
        node("Add", ["x", "mixed"], ["y"]),
        node("SimplifiedLayerNormalization", ["y", "scale"], ["y_norm"], **norm),
        node("MatMul", ["y_norm", "up"], ["wide"]),
        node("Relu", ["wide"], ["active"]),
        node("MatMul", ["active", "down"], ["narrow"]),
        node("Add", ["y", "narrow"], ["z"]),
        node("SimplifiedLayerNormalization", ["z", "scale"], ["z_norm"], **norm),
        node("MatMul", ["z_norm", "head"], ["logits"]),
    ]
    value, shape = helper.make_tensor_value_info, ["batch", HEADS, "cached", HEAD]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            value("input_ids", TensorProto.INT64, ["batch", "length"]),
            value("attention_mask", TensorProto.INT64, ["batch", "total_length"]),
            *(value(name, TensorProto.FLOAT, shape) for name in CACHE),
        ],
        [
            value("logits", TensorProto.FLOAT, ["batch", "length", vocabulary]),
            value("present.0.key", TensorProto.FLOAT, shape),
            value("present.0.value", TensorProto.FLOAT, shape),
        ],
        _weights(vocabulary, seed),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)
