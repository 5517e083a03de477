"""The reader's network: a BERT encoder, a score per token and label, and a smooth maximum over the tokens."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel

PRIOR_LOGIT = -6.0
"""Start of every token score: about thirty of them together then say 7 %, the share of notes that carry a label."""


class EvidenceReader(nn.Module):
    """(input_ids, attention_mask), both (b, t) -> (token logits (b, t, labels), label logits (b, labels)).

    A label's logit is the log-sum-exp of its token logits: one convincing word is enough, and it is the evidence.
    The first and the last token carry no text and are left out of the sum.
    """

    def __init__(self, folder: Path, labels: int) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="sdpa")
        # 2,670 notes are too few to move 30,522 word vectors: rare drugs would part from the common ones like them.
        self.encoder.embeddings.word_embeddings.weight.requires_grad_(False)
        self.drop = nn.Dropout(0.1)
        self.score = nn.Linear(self.encoder.config.hidden_size, labels)
        nn.init.normal_(self.score.weight, std=0.02)
        nn.init.constant_(self.score.bias, PRIOR_LOGIT)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (b, t, d)
        logits = self.score(self.drop(hidden))  # (b, t, labels)
        # A word piece counts if another one follows it: that leaves out the closing token; the opening one is cut.
        counts = torch.cat([attention_mask[:, 1:], torch.zeros_like(attention_mask[:, :1])], dim=1)
        closed = (1 - counts).to(logits.dtype).unsqueeze(-1) * -1e4
        return logits, torch.logsumexp((logits + closed)[:, 1:], dim=1)


def parameter_groups(network: EvidenceReader, rate: float, decay: float) -> list[dict[str, object]]:
    """The top learns at `rate` times ten, the last encoder layer at `rate`, each one below at `decay` of that."""
    layers = len(network.encoder.encoder.layer)
    groups: list[dict[str, object]] = [{"params": list(network.score.parameters()), "lr": rate * 10}]
    for depth, layer in enumerate(network.encoder.encoder.layer):
        groups.append({"params": list(layer.parameters()), "lr": rate * decay ** (layers - 1 - depth)})
    below = [value for value in network.encoder.embeddings.parameters() if value.requires_grad]
    groups.append({"params": below, "lr": rate * decay**layers})
    return groups
