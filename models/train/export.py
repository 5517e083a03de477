"""From the trained network to the two ONNX files: fp32 for comparison, dynamic int8 to ship."""

from pathlib import Path

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from models.train.network import EvidenceReader


class _BothHalves(nn.Module):
    """As the runtime calls it, one text: (1, t), (1, t), (n,) in; (t, WIDTH), (n, WIDTH), (WIDTH,) out."""

    def __init__(self, network: EvidenceReader, table: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.network, self.table = network, nn.Embedding.from_pretrained(table)
        self.register_buffer("bias", bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, ngrams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens, deep = self.network(input_ids, attention_mask)
        found = self.table(ngrams)
        # Counted by a sum: a length would be frozen as that of the text the graph is traced with.
        rows = found / torch.ones_like(found[:, :1]).sum(0).sqrt()
        return tokens[0], rows, deep[0] + rows.sum(0) + self.bias


def export(network: EvidenceReader, linear: tuple[Tensor, Tensor], fp32: Path, int8: Path) -> None:
    """Write both files. linear: table and bias, as `wide` gives them.

    Seven-bit weights (`reduce_range`): 255 * 64 * 2 stays below 32,767, so that CPUs without VNNI do not saturate and
    every machine computes the same integer products. The tables (`Gather`), half the file, are quantised too.
    """
    network.eval()
    ids = torch.tensor([[101, 2054, 2003, 2023, 3899, 102]])
    torch.onnx.export(
        _BothHalves(network, *linear),
        (ids, torch.ones_like(ids), ids[0]),
        str(fp32),
        input_names=["input_ids", "attention_mask", "ngrams"],
        output_names=["token_logits", "ngram_logits", "label_logits"],
        dynamic_axes={
            "input_ids": {1: "t"},
            "attention_mask": {1: "t"},
            "ngrams": {0: "n"},
            "token_logits": {0: "t"},
            "ngram_logits": {0: "n"},
        },
        opset_version=17,
        dynamo=False,
    )
    prepared = fp32.with_suffix(".prepared.onnx")
    quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
    quantize_dynamic(
        str(prepared),
        str(int8),
        op_types_to_quantize=["MatMul", "Gather"],
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )
    prepared.unlink()
