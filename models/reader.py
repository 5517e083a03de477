"""From a text to a Reading: labels with calibrated probabilities, their evidence, or the reason to abstain."""

import json
import logging
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tokenizers import Tokenizer

from models.artifact import Artifact, load_folder, refused
from models.language import is_english
from models.lexicon import Lexicon
from models.ngrams import Ngrams, ngrams
from models.normalise import normalise
from models.runner import Session
from schemas.reading import Abstain, Reading, Span

log = logging.getLogger(__name__)

OTHER_FOLDER: Final = "use a folder made for this version"
WORD_CHARS_MAX: Final = 64
"""Evidence grows to whole words, but not to a whole page without a blank."""

Probability = Annotated[float, Field(ge=0, le=1)]


class FieldCard(BaseModel):
    """One question of a domain. A label's calibrated logit is `logit * scale + bias` (Platt 1999; Guo et al. 2017).

    many: each label holds or not, p = sigmoid; otherwise exactly one holds, p = softmax over the field.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    many: bool
    labels: tuple[str, ...] = Field(min_length=1, max_length=256)
    scales: tuple[Annotated[float, Field(gt=0, le=100)], ...]
    biases: tuple[Annotated[float, Field(ge=-100, le=100)], ...]

    @model_validator(mode="after")
    def _one_value_for_each_label(self) -> Self:
        if {len(self.scales), len(self.biases)} != {len(self.labels)}:
            raise ValueError("scales and biases need one entry for each label")
        return self


class DomainCard(BaseModel):
    """The questions put to a domain's texts. doubt: see `Reader`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fields: tuple[FieldCard, ...] = Field(min_length=1, max_length=16)
    doubt: Probability

    @model_validator(mode="after")
    def _a_label_says_its_question(self) -> Self:
        labels = [label for field in self.fields for label in field.labels]
        if len(set(labels)) != len(labels):
            raise ValueError("a label is named twice")
        return self


class LabelCard(BaseModel):
    """labels.json: what turns logits into decisions. The network scores the labels in the order they stand in here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    domains: dict[str, DomainCard] = Field(min_length=1, max_length=64)
    evidence_share: float = Field(gt=0, le=1)
    tokens_max: int = Field(ge=8, le=8192)

    def place(self, domain: str) -> tuple[int, int]:
        """Columns [start, stop) of a domain's labels; of all of them for a name that is none."""
        start = 0
        for name, card in self.domains.items():
            size = sum(len(field.labels) for field in card.fields)
            if name == domain:
                return start, start + size
            start += size
        return 0, start


class Reader:
    """One model, ready to read the texts of one domain; `read` may be called from several threads.

    digest: SHA-256 of the model's manifest. An answer of probability p is out of the question where 1 - p is above the
    card's `doubt`, a split-conformal quantile (Angelopoulos and Bates 2021): what is left is the set that holds the
    truth as often as the card says, and the text is acted on where that leaves one answer to each question.
    """

    def __init__(
        self, artifact: Artifact, card: LabelCard, domain: str, tokenizer: Tokenizer, session: Session, words: Lexicon
    ) -> None:
        self.digest: Final = artifact.digest
        self.name: Final = artifact.manifest.name
        self.runtime: Final = f"onnxruntime {version('onnxruntime')}"
        self.domain: Final = domain
        self.words: Final = words
        self.fields: Final = card.domains[domain].fields
        self.labels: Final = tuple(label for field in self.fields for label in field.labels)
        self._columns = slice(*card.place(domain))
        self._tokens_max = card.tokens_max
        self._evidence_share = card.evidence_share
        self._scales = np.array([value for field in self.fields for value in field.scales])  # (labels,), as the next
        self._biases = np.array([value for field in self.fields for value in field.biases])
        self._doubt = card.domains[domain].doubt
        self._tokenizer = tokenizer
        self._session = session

    def read(self, text: str) -> Reading:
        """What the text says. Never raises: what goes wrong is the reading's `abstain`.

        A text that is too long or not in English is read all the same (its first `tokens_max` tokens), so that a
        person sees the best guess; without a letter or a digit, or where the model fails, there are no probabilities.
        """
        clean = self.words.mark(normalise(text))
        if not any(map(str.isalnum, clean.text)):
            return Reading(abstain=Abstain.TOO_LONG if clean.cut else Abstain.NO_TEXT)
        try:
            encoding = self._tokenizer.encode(clean.text)
            ids = [*encoding.ids[:-1][: self._tokens_max - 1], encoding.ids[-1]]
            offsets = encoding.offsets[1 : len(ids) - 1]
            grams = ngrams(clean.text[: offsets[-1][1]])
            found = self._session.run(ids, grams.places)
        except Exception:
            log.warning("the model %s failed on a text of %d characters", self.name, len(text), exc_info=True)
            return Reading(abstain=Abstain.FAILED)
        said = found.labels[self._columns].astype(np.float64) * self._scales + self._biases  # (labels,)
        spans = [(clean.origin[first], clean.origin[last - 1] + 1) for first, last in offsets]
        too_long = clean.cut or len(encoding.ids) > self._tokens_max
        words = _Words(found.tokens[1:-1, self._columns], found.ngrams[:, self._columns], grams, np.array(offsets))
        return self._answer(text, clean.text, too_long, said, spans, words)

    def _answer(
        self, text: str, clean: str, too_long: bool, said: NDArray[np.float64], spans: list[Span], words: "_Words"
    ) -> Reading:
        """From calibrated logits, (labels,), and what the words say, field by field."""
        given, unsure, chances = [], [], []
        evidence: dict[str, tuple[Span, ...]] = {}
        at = 0
        for field in self.fields:
            columns = slice(at, at + len(field.labels))
            p = probabilities(said[columns], field.many)
            chosen = np.flatnonzero(p >= 0.5) if field.many else np.array([p.argmax()])
            given += [field.labels[place] for place in chosen]
            unsure += [field.labels[place] for place in self._unsure(p, field.many)]
            chances.append(p)
            for place in chosen:
                carried = words.carried(columns, place, field.many)
                evidence[field.labels[place]] = self._evidence(text, spans, carried)
            at = columns.stop
        p_of = dict(zip(self.labels, np.concatenate(chances).tolist(), strict=True))
        return Reading(tuple(given), p_of, evidence, self._abstain(clean, too_long, unsure), tuple(unsure))

    def _unsure(self, p: NDArray[np.float64], many: bool) -> NDArray[np.intp]:
        """Labels, by place, that keep the set of possible answers from being one: (labels,) -> (n,)."""
        possible = 1 - p <= self._doubt
        if many:
            return np.flatnonzero(possible == (p <= self._doubt))
        return np.array([], dtype=np.intp) if possible.sum() == 1 else np.flatnonzero(possible | (p == p.max()))

    def _abstain(self, clean: str, too_long: bool, unsure: list[str]) -> Abstain | None:
        if too_long:
            return Abstain.TOO_LONG
        if not is_english(clean):
            return Abstain.LANGUAGE
        return Abstain.LOW_CONFIDENCE if unsure else None

    def _evidence(self, text: str, spans: list[Span], carried: NDArray[np.float64]) -> tuple[Span, ...]:
        """Words whose tokens carried, (t,), at least `evidence_share` of what the strongest one did."""
        strong = np.flatnonzero(carried >= carried.max() * self._evidence_share)
        return merge(text, [whole_word(text, *spans[at]) for at in strong])


def probabilities(logits: NDArray[np.float64], many: bool) -> NDArray[np.float64]:
    """One field's calibrated logits, (labels,), as probabilities with four decimals.

    What is decided is what is written down, in digits that every JSON writer writes alike.
    """
    raised = np.exp(-np.clip(logits, -60, 60)) if many else np.exp(logits - logits.max())
    p: NDArray[np.float64] = 1 / (1 + raised) if many else raised / raised.sum()
    return p.round(4)


@dataclass(frozen=True, slots=True)
class _Words:
    """What the words of one text say: its tokens, (t, labels), which are its characters [start, stop), (t, 2), and its
    n-grams, (n, labels).
    """

    tokens: NDArray[np.float32]
    ngrams: NDArray[np.float32]
    grams: Ngrams
    offsets: NDArray[np.int64]

    def carried(self, columns: slice, place: int, many: bool) -> NDArray[np.float64]:
        """How much of a field's label each token carried, (t,): in each half the strongest has 1."""
        tokens = self.tokens[:, columns]
        if many:  # of a sum of exponentials their share
            deep = np.exp(tokens[:, place] - tokens[:, place].max())
        else:
            deep = _against_strongest(_lead(tokens, place, many))
        linear = by_token(_lead(self.ngrams[:, columns], place, many), self.grams, self.offsets)
        found: NDArray[np.float64] = deep + _against_strongest(linear)
        return found


def _lead(said: NDArray[np.float32], place: int, many: bool) -> NDArray[np.float32]:
    """Of what adds up, (k, labels), the part for a label, (k,): of a choice for it rather than its strongest rival."""
    if many or said.shape[1] == 1:
        return said[:, place]
    totals = said.sum(0)
    totals[place] = -np.inf
    lead: NDArray[np.float32] = said[:, place] - said[:, totals.argmax()]
    return lead


def _against_strongest(lead: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = lead / max(float(lead.max()), 1e-6)
    return found


def by_token(said: NDArray[np.float32], grams: Ngrams, offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """What n-grams say, (n,), spread evenly over the characters of each, summed by token: (t,)."""
    each, size = said / (grams.stops - grams.starts), int(grams.stops.max()) + 1
    steps = np.bincount(grams.starts, each, size) - np.bincount(grams.stops, each, size)
    until = np.concatenate([[0.0], steps.cumsum().cumsum()])  # of all characters before one
    found: NDArray[np.float64] = until[offsets[:, 1]] - until[offsets[:, 0]]
    return found


def whole_word(text: str, start: int, end: int) -> Span:
    """The span grown to the blanks around it, less punctuation; as it was where that leaves nothing or too much."""
    first, last = start, end
    while first > 0 and start - first <= WORD_CHARS_MAX and not text[first - 1].isspace():
        first -= 1
    while last < len(text) and last - end <= WORD_CHARS_MAX and not text[last].isspace():
        last += 1
    if start - first > WORD_CHARS_MAX or last - end > WORD_CHARS_MAX:
        return start, end
    while first < last and not text[first].isalnum():
        first += 1
    while last > first and not text[last - 1].isalnum():
        last -= 1
    return (first, last) if first < last else (start, end)


def merge(text: str, spans: list[Span]) -> tuple[Span, ...]:
    """Sorted, and made one where they overlap or where only blanks lie between them."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and all(map(_is_gap, text[merged[-1][1] : start])):
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return tuple(merged)


def open_reader(path: Path, domain: str, words: Lexicon) -> Reader:
    """Verify and load a model folder, to read one domain. Errors: ModelRefused, saying what is wrong and what to do."""
    artifact = load_folder(path)
    raw_card, raw_tokenizer = map(artifact.file, ("labels.json", "tokenizer.json"))
    try:
        card = LabelCard.model_validate(json.loads(raw_card))
    except ValueError as error:  # not JSON, or not a card
        raise refused(path, f"labels.json is wrong ({error})", OTHER_FOLDER) from error
    if domain not in card.domains:
        raise refused(path, f"it reads {', '.join(card.domains)} and not {domain}", OTHER_FOLDER)
    try:
        tokenizer = Tokenizer.from_str(raw_tokenizer.decode("utf-8"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        session = Session(partial(artifact.take, "model.onnx"))
    except Exception as error:  # both libraries raise bare exceptions of their own
        raise refused(path, f"it cannot be loaded ({error})", OTHER_FOLDER) from error
    _, labels = card.place("")
    if session.labels != labels:
        raise refused(path, f"model.onnx scores {session.labels} labels, labels.json names {labels}", OTHER_FOLDER)
    return Reader(artifact, card, domain, tokenizer, session, words)


def _is_gap(character: str) -> bool:
    return character.isspace() or not (character.isprintable() or character.isalnum())
