"""Smaller networks out of larger ones: fewer word pieces, fewer dimensions, fewer layers."""

import json
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertConfig, BertModel

from models.normalise import normalise

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def latin(piece: str) -> bool:
    """Whether a piece is of the kind that English text is made of: no [unused7], no other script."""
    return piece in SPECIAL or (not piece.startswith("[unused") and all(ord(sign) < 0x250 for sign in piece))


def common_pieces(tokenizer: Tokenizer, count: int) -> set[str]:
    """The first pieces of the vocabulary, which BERT's was sorted by: the most frequent ones."""
    vocabulary = tokenizer.get_vocab()
    return set(sorted(vocabulary, key=vocabulary.__getitem__)[:count])


def pieces_of(tokenizer: Tokenizer, texts: Iterable[str]) -> set[str]:
    """Every word piece that occurs in the texts."""
    encoded = tokenizer.encode_batch([normalise(text).text for text in texts])
    return {piece for part in encoded for piece in part.tokens}


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
    encoder.embeddings.word_embeddings = torch.nn.Embedding.from_pretrained(table.clone(), freeze=True, padding_idx=0)
    encoder.config.vocab_size = len(table)


@torch.no_grad()
def narrow(encoder: BertModel, layers: int, width: int, heads: int, inner: int) -> BertModel:
    """A new encoder whose word vectors are the old ones' first `width` principal components; its layers know nothing.

    Words that were alike stay alike, which is what a few thousand texts could not teach it.
    """
    table = encoder.embeddings.word_embeddings.weight
    centre = table.mean(0)
    _, _, axes = torch.linalg.svd(table - centre, full_matrices=False)
    placed = (table - centre) @ axes[:width].T
    small = BertModel(
        BertConfig(
            vocab_size=len(table),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=inner,
            max_position_embeddings=encoder.config.max_position_embeddings,
            attn_implementation="sdpa",
        ),
        add_pooling_layer=False,
    )
    _replace_table(small, placed / placed.std())
    return small
