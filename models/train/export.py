"""From the trained network to the two ONNX files: fp32 for comparison, dynamic int8 to ship."""

from pathlib import Path

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from models.train.network import EvidenceReader


class _OneText(nn.Module):
    """The network as the runtime calls it: (1, t) in, (t, labels) and (labels,) out."""

    def __init__(self, network: EvidenceReader) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens, labels = self.network(input_ids, attention_mask)
        return tokens[0], labels[0]


def export(network: EvidenceReader, fp32: Path, int8: Path) -> None:
    """Write both files.

    Seven-bit weights (`reduce_range`): 255 * 64 * 2 stays below 32,767, so that CPUs without VNNI do not saturate and
    every machine computes the same integer products. The embedding table (`Gather`), half the file, is quantised too.
    """
    network.eval()
    network.encoder.set_attn_implementation("eager")
    ids = torch.tensor([[101, 2054, 2003, 2023, 3899, 102]])
    torch.onnx.export(
        _OneText(network),
        (ids, torch.ones_like(ids)),
        str(fp32),
        input_names=["input_ids", "attention_mask"],
        output_names=["token_logits", "label_logits"],
        dynamic_axes={"input_ids": {1: "t"}, "attention_mask": {1: "t"}, "token_logits": {0: "t"}},
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
