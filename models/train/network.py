"""The reader's network: a BERT encoder, a score per token and label, and a sum over the tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BertModel

from schemas.texts import FIELDS, TextField

SHARPNESS = 4.0
"""Of the sum over the words: it lets small scores part labels well, and so learns faster at the same rate."""
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
CHOICES = tuple(column for column in COLUMNS if not column.field.many)
WIDTH = COLUMNS[-1].stop


class EvidenceReader(nn.Module):
    """(input_ids, attention_mask), both (b, t) -> (what each token says (b, t, WIDTH), label logits (b, WIDTH)).

    Where several labels may hold, a label's logit is the log-sum-exp of its tokens' logits: one convincing word is
    enough. Where one label holds, each question has its own attention over the words, and a label's logit is the sum of
    what they say of it, attention times score (attention pooling in its additive form: Ilse et al. 2018,
    arXiv 1802.04712; Javed et al. 2022, arXiv 2206.01794). Either way the tokens that carried a label are its evidence.
    The first and the last token carry no text, and say nothing.
    """

    def __init__(self, encoder: BertModel) -> None:
        super().__init__()
        self.encoder = encoder
        # Some thousand texts are too few to move 30,522 word vectors: rare words would part from common ones like them.
        encoder.embeddings.word_embeddings.weight.requires_grad_(False)
        size = encoder.config.hidden_size
        self.drop = nn.Dropout(0.1)
        self.score = nn.Linear(size, WIDTH)
        nn.init.normal_(self.score.weight, std=0.02)
        nn.init.constant_(self.score.bias, PRIOR_LOGIT)
        self.look = nn.Linear(size, len(COLUMNS))
        nn.init.zeros_(self.look.weight)  # at first every word counts alike, as in the encoder's own pretraining
        nn.init.zeros_(self.look.bias)
        for column in CHOICES:
            nn.init.zeros_(self.score.bias[column.start : column.stop])

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""
        return self.score.weight.device

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The encoder's last states, (b, t, d)."""
        states: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states

    def scores(self, hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """What each token says (b, t, WIDTH) and the label logits (b, WIDTH) of such states."""
        seen = self.drop(hidden)
        # A word piece counts if another one follows it and it is not the first.
        follows = torch.cat([attention_mask[:, 1:], torch.zeros_like(attention_mask[:, :1])], dim=1)
        counts = torch.cat([torch.zeros_like(follows[:, :1]), follows[:, 1:]], dim=1)
        closed = (1 - counts).to(hidden.dtype).unsqueeze(-1) * -1e4
        said, looks = self.score(seen), (self.look(seen) + closed).softmax(1)
        tokens, labels = [], []
        for place, column in enumerate(COLUMNS):
            part = said[:, :, column.start : column.stop]
            if column.field.many:
                tokens.append(part + closed)
                labels.append(torch.logsumexp(part + closed, dim=1))
            else:
                tokens.append(SHARPNESS * looks[:, :, place : place + 1] * part)
                labels.append(tokens[-1].sum(1))
        return torch.cat(tokens, dim=2), torch.cat(labels, dim=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.scores(self.hidden(input_ids, attention_mask), attention_mask)


def parameter_groups(network: EvidenceReader, rate: float, decay: float) -> list[dict[str, object]]:
    """The top learns at `rate` times ten, the last encoder layer at `rate`, each one below at `decay` of that."""
    layers = len(network.encoder.encoder.layer)
    groups: list[dict[str, object]] = [
        {"params": [*network.score.parameters(), *network.look.parameters()], "lr": rate * 10}
    ]
    for depth, layer in enumerate(network.encoder.encoder.layer):
        groups.append({"params": list(layer.parameters()), "lr": rate * decay ** (layers - 1 - depth)})
    below = [value for value in network.encoder.embeddings.parameters() if value.requires_grad]
    groups.append({"params": below, "lr": rate * decay**layers})
    return groups
