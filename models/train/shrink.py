"""Smaller networks out of larger ones: fewer word pieces, fewer dimensions, fewer layers, fewer products."""

import copy
import json
from collections import Counter
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BertModel
from transformers.models.bert.modeling_bert import BertSelfAttention

from models.normalise import normalise

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def latin(piece: str) -> bool:
    """Whether a piece is of the kind that English text is made of: no [unused7], no other script."""
    return piece in SPECIAL or (not piece.startswith("[unused") and all(ord(sign) < 0x250 for sign in piece))


def common_pieces(tokenizer: Tokenizer, count: int) -> set[str]:
    """The first pieces of the vocabulary, which BERT's was sorted by: the most frequent ones."""
    vocabulary = tokenizer.get_vocab()
    return set(sorted(vocabulary, key=vocabulary.__getitem__)[:count])


def pieces_of(tokenizer: Tokenizer, texts: Iterable[str], times: int = 1) -> set[str]:
    """Every word piece that occurs in at least so many of the texts."""
    encoded = tokenizer.encode_batch([normalise(text).text for text in texts])
    counts = Counter(piece for part in encoded for piece in set(part.tokens))
    return {piece for piece, count in counts.items() if count >= times}


def prune_vocabulary(encoder: BertModel, tokenizer: Tokenizer, keep: set[str]) -> Tokenizer:
    """Leave only `keep` in the encoder's table, in place, and give the tokenizer for it.

    Single signs always stay, at the start of a word and inside one: a word that goes falls back to smaller pieces,
    never to [UNK].
    """
    said = json.loads(tokenizer.to_str())
    old: dict[str, int] = said["model"]["vocab"]
    stay = sorted(
        (piece for piece in old if latin(piece) and (piece in keep or piece in SPECIAL or _single(piece))), key=old.get
    )
    ids = {piece: at for at, piece in enumerate(stay)}
    said["model"]["vocab"] = ids
    for added in said["added_tokens"]:
        added["id"] = ids[added["content"]]
    for name, special in said["post_processor"].get("special_tokens", {}).items():
        special["ids"] = [ids[name]]
    for place in ("sep", "cls"):  # the other form in which the two are written down
        if isinstance(said["post_processor"].get(place), list):
            name, _ = said["post_processor"][place]
            said["post_processor"][place] = [name, ids[name]]
    _replace_table(encoder, encoder.embeddings.word_embeddings.weight.detach()[[old[piece] for piece in stay]])
    return Tokenizer.from_str(json.dumps(said))


def _single(piece: str) -> bool:
    return len(piece.removeprefix("##")) == 1


def _replace_table(encoder: BertModel, table: Tensor) -> None:
    encoder.embeddings.word_embeddings = nn.Embedding.from_pretrained(table.clone(), freeze=True, padding_idx=0)
    encoder.config.vocab_size = len(table)


class OneProjection(nn.Module):
    """A layer's self-attention over one text without padding: (1, t, d) -> (1, t, d), and None for the weights.

    Query, key and value come out of one product, so that a quantised input is quantised once and not three times; the
    scale of the scores is in the query's weights. There is no mask: nothing is padded.
    """

    def __init__(self, whole: BertSelfAttention) -> None:
        super().__init__()
        parts, scale = (whole.query, whole.key, whole.value), whole.attention_head_size**-0.5
        self.heads, self.size = whole.num_attention_heads, whole.attention_head_size
        self.all = nn.Linear(whole.query.in_features, 3 * self.heads * self.size)
        pairs = list(zip(parts, (scale, 1.0, 1.0), strict=True))
        self.all.weight.data = torch.cat([part.weight.data * factor for part, factor in pairs])
        self.all.bias.data = torch.cat([part.bias.data * factor for part, factor in pairs])

    def forward(self, hidden_states: Tensor, **_: object) -> tuple[Tensor, None]:
        made = self.all(hidden_states).split(self.heads * self.size, dim=-1)
        query, key, value = (part.view(1, -1, self.heads, self.size).transpose(1, 2) for part in made)
        seen = (query @ key.transpose(2, 3)).softmax(-1) @ value  # (1, heads, t, size)
        return seen.transpose(1, 2).reshape(1, -1, self.heads * self.size), None


def merge(encoder: BertModel) -> None:
    """Give every layer `OneProjection`, in place: from then on the encoder reads one text at a time."""
    for layer in encoder.encoder.layer:
        layer.attention.self = OneProjection(layer.attention.self)


@torch.no_grad()
def shallow(encoder: BertModel, layers: int, inner: int) -> BertModel:
    """A new encoder of the lowest `layers`, each with the `inner` strongest of its feed-forward units.

    A unit is as strong as its weights into and out of it (product of their norms); the attention stays whole.
    """
    config = copy.deepcopy(encoder.config)
    config.num_hidden_layers, config.intermediate_size = layers, inner
    small = BertModel(config, add_pooling_layer=False)
    small.embeddings.load_state_dict(encoder.embeddings.state_dict())
    for part, whole in zip(small.encoder.layer, encoder.encoder.layer, strict=False):
        weights = whole.state_dict()
        into, out = weights["intermediate.dense.weight"], weights["output.dense.weight"]
        strongest = (into.norm(dim=1) * out.norm(dim=0)).topk(inner).indices.sort().values
        for name in ("intermediate.dense.weight", "intermediate.dense.bias"):
            weights[name] = weights[name][strongest]
        weights["output.dense.weight"] = out[:, strongest]
        part.load_state_dict(weights)
    return small
