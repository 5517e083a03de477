"""Smoother activations before int8: SmoothQuant, Xiao et al. 2022, arXiv 2211.10438.

Dynamic int8 has one scale for a whole activation tensor, so a few loud channels drown the rest. Dividing each input
channel by a factor and multiplying the matching weights by it changes nothing in exact arithmetic and evens them out.
"""

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from models.train.fit import label_logits
from models.train.network import EvidenceReader


class Smoothed(nn.Module):
    """`linear` with its input channels, (in,), divided by `factor` and its weights multiplied by it."""

    def __init__(self, linear: nn.Linear, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("divide", 1 / factor)
        self.linear = nn.Linear(linear.in_features, linear.out_features)
        self.linear.weight.data = linear.weight.data * factor
        self.linear.bias.data = linear.bias.data

    def forward(self, value: Tensor) -> Tensor:
        return self.linear(value * self.divide)


@torch.no_grad()
def smooth(network: EvidenceReader, tokenizer: Tokenizer, texts: Sequence[str], share: float = 0.75) -> None:
    """Replace every linear layer of the encoder in place; `texts` show how loud each channel gets.

    `share` of the loudness moves into the weights; 0.7 and 0.85 halve the int8 error of the logits, 0.5 does not.
    """
    linears = {name: part for name, part in network.encoder.named_modules() if isinstance(part, nn.Linear)}
    loudest: dict[str, Tensor] = {}

    def listen(name: str) -> object:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            heard = inputs[0].abs().amax(dim=(0, 1))  # (in,)
            loudest[name] = torch.maximum(loudest.get(name, heard), heard)

        return linears[name].register_forward_pre_hook(hook)

    hooks = [listen(name) for name in linears]
    label_logits(network, tokenizer, texts)
    for hook in hooks:
        hook.remove()
    for name, linear in linears.items():
        weights = linear.weight.abs().amax(dim=0).clamp(min=1e-5)  # (in,)
        factor = (loudest[name].clamp(min=1e-5) ** share / weights ** (1 - share)).clamp(min=1e-3)
        parent, _, child = name.rpartition(".")
        setattr(network.encoder.get_submodule(parent), child, Smoothed(linear, factor))
