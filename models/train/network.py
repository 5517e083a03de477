"""The reader's network: a BERT encoder, a score per token and label, and a smooth maximum over the tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BertModel

from schemas.texts import FIELDS, TextField

PRIOR_LOGIT = -6.0
"""Start of every token score: about thirty of them together then say 7 %, the share of notes that carry a label."""


@dataclass(frozen=True, slots=True)
class Column:
    """Where a field's labels stand among all of the network's: columns [start, stop)."""

    domain: str
    field: TextField
    start: int
    stop: int


def columns() -> tuple[Column, ...]:
    """Every field of every domain, side by side, in the contract's order."""
    placed: list[Column] = []
    for domain, fields in FIELDS.items():
        for field in fields:
            start = placed[-1].stop if placed else 0
            placed.append(Column(domain, field, start, start + len(field.labels)))
    return tuple(placed)


COLUMNS = columns()
WIDTH = COLUMNS[-1].stop


class EvidenceReader(nn.Module):
    """(input_ids, attention_mask), both (b, t) -> (token logits (b, t, WIDTH), label logits (b, WIDTH)).

    A label's logit is the log-sum-exp of its token logits: one convincing word is enough, and it is the evidence.
    The last token carries no text and is left out of the sum. The first one stands for what no single word says; a
    label that need not hold at all may not rest on it, one of several that must may ("unknown", "confirmed").
    """

    def __init__(self, encoder: BertModel) -> None:
        super().__init__()
        self.encoder = encoder
        # Some thousand texts are too few to move 30,522 word vectors: rare words would part from common ones like them.
        encoder.embeddings.word_embeddings.weight.requires_grad_(False)
        self.drop = nn.Dropout(0.1)
        self.score = nn.Linear(encoder.config.hidden_size, WIDTH)
        nn.init.normal_(self.score.weight, std=0.02)
        nn.init.constant_(self.score.bias, PRIOR_LOGIT)
        self.register_buffer("first_closed", torch.zeros(WIDTH), persistent=False)
        for column in COLUMNS:
            if column.field.many:
                self.first_closed[column.start : column.stop] = -1e4

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The encoder's last states, (b, t, d)."""
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states

    def scores(self, hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token logits (b, t, WIDTH) and label logits (b, WIDTH) of such states."""
        logits = self.score(self.drop(hidden))
        # A word piece counts if another one follows it: that leaves out the closing token.
        counts = torch.cat([attention_mask[:, 1:], torch.zeros_like(attention_mask[:, :1])], dim=1)
        closed = (1 - counts).to(logits.dtype).unsqueeze(-1) * -1e4
        first, words = logits[:, :1] + self.first_closed, logits[:, 1:] + closed[:, 1:]
        return logits, torch.logsumexp(torch.cat([first, words], dim=1), dim=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.scores(self.hidden(input_ids, attention_mask), attention_mask)


def parameter_groups(network: EvidenceReader, rate: float, decay: float) -> list[dict[str, object]]:
    """The top learns at `rate` times ten, the last encoder layer at `rate`, each one below at `decay` of that."""
    layers = len(network.encoder.encoder.layer)
    groups: list[dict[str, object]] = [{"params": list(network.score.parameters()), "lr": rate * 10}]
    for depth, layer in enumerate(network.encoder.encoder.layer):
        groups.append({"params": list(layer.parameters()), "lr": rate * decay ** (layers - 1 - depth)})
    below = [value for value in network.encoder.embeddings.parameters() if value.requires_grad]
    groups.append({"params": below, "lr": rate * decay**layers})
    return groups
