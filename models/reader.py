"""From a text to a Reading: labels with calibrated probabilities, their evidence, or the reason to abstain."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tokenizers import Tokenizer

from models.artifact import Artifact, load_folder
from models.language import is_english
from models.normalise import normalise
from models.runner import Session
from schemas.errors import ModelRefused
from schemas.reading import Abstain, Reading, Span

log = logging.getLogger(__name__)

WORD_CHARS_MAX: Final = 64
"""Evidence grows to whole words, but not to a whole page without a blank."""

Probability = Annotated[float, Field(ge=0, le=1)]


class LabelCard(BaseModel):
    """labels.json: what turns logits into decisions. All lists are in label order.

    p = sigmoid(logit / temperature); a label is given where p >= threshold; the text is not acted on where the p of any
    label lies in [uncertain[0], uncertain[1]).  Temperature scaling: Guo et al. 2017, arXiv 1706.04599.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    domain: str = Field(min_length=1)
    labels: tuple[str, ...] = Field(min_length=1, max_length=256)
    temperatures: tuple[Annotated[float, Field(gt=0, le=100)], ...]
    thresholds: tuple[Probability, ...]
    uncertain: tuple[tuple[Probability, Probability], ...]
    evidence_margin: float = Field(ge=0, le=100)
    tokens_max: int = Field(ge=8, le=8192)

    @model_validator(mode="after")
    def _one_value_for_each_label(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a label is named twice")
        if {len(self.temperatures), len(self.thresholds), len(self.uncertain)} != {len(self.labels)}:
            raise ValueError("temperatures, thresholds and uncertain need one entry for each label")
        return self


class Reader:
    """One model, ready to read. `digest` is the SHA-256 of its manifest; `read` may be called from several threads."""

    def __init__(self, artifact: Artifact, card: LabelCard, tokenizer: Tokenizer, session: Session) -> None:
        self.digest: Final = artifact.digest
        self.name: Final = artifact.manifest.name
        self.domain: Final = card.domain
        self.labels: Final = card.labels
        self._tokens_max = card.tokens_max
        self._evidence_margin = card.evidence_margin
        self._temperatures = np.array(card.temperatures)  # (labels,), as the three below
        self._thresholds = np.array(card.thresholds)
        self._uncertain_from = np.array([low for low, _ in card.uncertain])
        self._uncertain_to = np.array([high for _, high in card.uncertain])
        self._tokenizer = tokenizer
        self._session = session

    def read(self, text: str) -> Reading:
        """What the text says. Never raises: what goes wrong is the reading's `abstain`.

        A text that is too long or not in English is read all the same (its first `tokens_max` tokens), so that a
        person sees the best guess; without a letter or a digit, or where the model fails, there are no probabilities.
        """
        clean = normalise(text)
        if not any(map(str.isalnum, clean.text)):
            return Reading(abstain=Abstain.TOO_LONG if clean.cut else Abstain.NO_TEXT)
        try:
            encoding = self._tokenizer.encode(clean.text)
            too_long = clean.cut or len(encoding.ids) > self._tokens_max
            ids = [*encoding.ids[: self._tokens_max - 1], encoding.ids[-1]] if too_long else encoding.ids
            tokens, logits = self._session.run(ids)
        except Exception:
            log.warning("the model %s failed on a text of %d characters", self.name, len(text), exc_info=True)
            return Reading(abstain=Abstain.FAILED)
        p = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64) / self._temperatures, -60, 60)))  # (labels,)
        p = np.round(p, 4)  # what is decided is what is written down, in digits that every JSON writer writes alike
        given = np.flatnonzero(p >= self._thresholds)
        spans = [
            (clean.origin[first], clean.origin[last - 1] + 1) for first, last in encoding.offsets[1 : len(ids) - 1]
        ]
        evidence = {self.labels[at]: self._evidence(text, spans, tokens[1:-1, at]) for at in given}
        labels = tuple(self.labels[at] for at in given)
        return Reading(
            labels, dict(zip(self.labels, p.tolist(), strict=True)), evidence, self._abstain(clean.text, too_long, p)
        )

    def _abstain(self, clean: str, too_long: bool, p: NDArray[np.float64]) -> Abstain | None:
        if too_long:
            return Abstain.TOO_LONG
        if not is_english(clean):
            return Abstain.LANGUAGE
        if np.any((p >= self._uncertain_from) & (p < self._uncertain_to)):
            return Abstain.LOW_CONFIDENCE
        return None

    def _evidence(self, text: str, spans: list[Span], logits: NDArray[np.float32]) -> tuple[Span, ...]:
        """Words whose tokens' logits, (t,), come within `evidence_margin` of the strongest one's."""
        strong = np.flatnonzero(logits >= logits.max() - self._evidence_margin)
        return merge(text, [whole_word(text, *spans[at]) for at in strong])


def whole_word(text: str, start: int, end: int) -> Span:
    """The span grown to the blanks around it, less punctuation; as it was where that leaves nothing or too much."""
    first, last = start, end
    while first > 0 and start - first <= WORD_CHARS_MAX and not _is_gap(text[first - 1]):
        first -= 1
    while last < len(text) and last - end <= WORD_CHARS_MAX and not _is_gap(text[last]):
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


def open_reader(path: Path) -> Reader:
    """Verify and load a model folder. Errors: ModelRefused, saying what is wrong with it and what to do."""
    artifact = load_folder(path)
    raw_card, raw_tokenizer = map(artifact.file, ("labels.json", "tokenizer.json"))
    try:
        card = LabelCard.model_validate(json.loads(raw_card))
    except ValueError as error:  # not JSON, or not a card
        raise _refused(path, f"labels.json is wrong ({error})") from error
    try:
        tokenizer = Tokenizer.from_str(raw_tokenizer.decode("utf-8"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        session = Session(partial(artifact.take, "model.onnx"))
    except Exception as error:  # both libraries raise bare exceptions of their own
        raise _refused(path, f"it cannot be loaded ({error})") from error
    if card.domain != artifact.manifest.domain:
        raise _refused(path, f"manifest.json is for {artifact.manifest.domain!r}, labels.json for {card.domain!r}")
    if session.labels != len(card.labels):
        raise _refused(path, f"model.onnx scores {session.labels} labels, labels.json names {len(card.labels)}")
    return Reader(artifact, card, tokenizer, session)


def _refused(path: Path, what: str) -> ModelRefused:
    return ModelRefused(f"the model folder {path} is refused: {what}; use a folder made for this version")


def _is_gap(character: str) -> bool:
    return character.isspace() or not (character.isprintable() or character.isalnum())
