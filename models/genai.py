"""A user's own model: any ONNX Runtime GenAI folder (Qwen3, SmolLM2, Phi, Gemma) as a reader of one domain's texts.

The model generates, and its output is held to the contract by a grammar, so that whatever the text says nothing but
labels comes out. Extra `genai`; the package is imported only when such a folder is opened.
"""

import importlib
import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.artifact import refused
from models.genai_contract import PROMPT_VERSION, Walk, guidance, instruction, parse, pieces
from models.genai_folder import refuse_foreign, verify_folder
from models.language import is_english
from models.normalise import normalise
from schemas.errors import ModelRefused, UsageError
from schemas.reading import Abstain, Reading
from schemas.texts import FIELDS

log = logging.getLogger(__name__)

TEXT_TOKENS_MAX: Final = 512
NEW_TOKENS_MAX: Final = 128
"""All 14 labels of the ward are about 90 tokens of a usual vocabulary."""
PREFILL_TOKENS: Final = 64
"""Tokens of a prompt that run between two looks at the clock."""
P_MIN: Final = 0.5
"""Not acted on below this: the model must be surer of an answer than of all others together."""

_PLACE: Final = "\ue000"  # where the text goes in a prompt; normalise() lets no such character through
_MARKUP: Final = re.compile(r"[<>\[\]|{}]")
_DELIMITERS: Final = ("<text>", "</text>")


def _import_runtime(path: Path) -> Any:
    """onnxruntime_genai, silent. Errors: ModelRefused, where it is not installed."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # The package documents that a heartbeat may be sent all the same, except on build machines and in its own tests.
    os.environ["ORT_RUNNING_UNIT_TESTS"] = "1"
    try:
        runtime: Any = importlib.import_module("onnxruntime_genai")
    except ImportError as error:
        what = f"it needs onnxruntime-genai, which cannot be imported ({error})"
        raise refused(path, what, "pip install 'tidegate[genai]'") from error
    runtime.disable_telemetry_events()
    return runtime


class _Late(Exception):
    """The deadline passed between two tokens."""


class GenaiReader:
    """One GenAI folder, ready to read texts of one domain. Several threads may call `read`; one runs at a time.

    `digest` is the SHA-256 of the folder's manifest; `prompt_version` belongs beside it wherever a reading is recorded.
    """

    prompt_version: Final = PROMPT_VERSION

    def __init__(
        self,
        path: Path,
        domain: str,
        *,
        deadline_s: float = 10.0,
        text_tokens_max: int = TEXT_TOKENS_MAX,
        new_tokens_max: int = NEW_TOKENS_MAX,
        p_min: float = P_MIN,
        threads: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """deadline_s: a text that is not read by then abstains; math.inf where a replay must not depend on speed.

        Errors: ModelRefused, saying what is wrong with the folder and what to do; UsageError for an unknown domain.
        """
        if domain not in FIELDS:
            raise UsageError(f"there is no domain {domain!r}: {', '.join(FIELDS)} are known")
        folder = verify_folder(path)
        self.name: Final = folder.manifest.name
        self.digest: Final = folder.digest
        self.domain: Final = domain
        self.fields: Final = FIELDS[domain]
        self.labels: Final = tuple(label for field in self.fields for label in field.labels)
        self._limits = text_tokens_max, new_tokens_max
        self._deadline_s, self._p_min, self._clock = deadline_s, p_min, clock
        self._lock = threading.Lock()
        config, tokenizer = folder.json("genai_config.json"), folder.json("tokenizer.json")
        refuse_foreign(folder, config)
        self._runtime = _import_runtime(path)
        self.runtime: Final = f"onnxruntime-genai {self._runtime.__version__}"
        try:
            self._pieces = pieces(tokenizer)
            added = [token for token in tokenizer.get("added_tokens", []) if _is_markup(token)]
            self._special = np.array([int(token["id"]) for token in added], dtype=np.int64)
            self._marks = _marks([str(token["content"]) for token in added])
            self._load(path, threads)
            self._vocabulary = int(config["model"]["vocab_size"])
            context = int(config["model"]["context_length"])
            if context < self._length_max:
                what = f"its context of {context} tokens is too short, {self._length_max} are needed"
                raise refused(path, what, "use a model with a longer context")
            self._try_out()
        except ModelRefused:
            raise
        except Exception as error:  # the runtime raises bare exceptions of its own
            raise refused(path, f"it cannot be loaded ({error})", "use a folder for ONNX Runtime GenAI") from error
        folder.refuse_changed()

    def _load(self, path: Path, threads: int) -> None:
        config = self._runtime.Config(str(path))
        config.clear_providers()  # the processor: what a graphics card would do differently is not tested
        options = {"intra_op_num_threads": threads, "inter_op_num_threads": 1, "session.intra_op.allow_spinning": "0"}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = self._runtime.Model(config)
        self._tokenizer = self._runtime.Tokenizer(self._model)
        self._ends = np.asarray(self._tokenizer.eos_token_ids, dtype=np.int64)
        self._head, self._tail = self._prompt()
        first, second = self._encode("a"), self._encode("7 b")
        same = int(np.argmin(first[: len(second)] == second[: len(first)]))
        self._prefix = first[:same]
        self._special_count = int(np.isin(first, self._special).sum())
        # Some slack for tokens that only the joint makes: the text is counted by itself.
        self._length_max = len(first) + 16 + sum(self._limits)

    def _prompt(self) -> tuple[str, str]:
        """What comes before and after the text: our instruction, in the model's own chat template if it has one."""
        asked = f"{instruction(self.domain, self.fields)}\n<text>\n{_PLACE}\n</text>"
        try:
            messages = json.dumps([{"role": "user", "content": asked}])
            prompt = str(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True))
        except Exception:
            prompt = ""
        if prompt.count(_PLACE) != 1:
            prompt = asked + "\n"
        if self._marks.fullmatch("<think>"):  # a model that reasons aloud is told that it has done so
            opened = prompt.rfind("<think>")
            if opened < 0:
                prompt += "<think>\n\n</think>\n\n"
            elif "</think>" not in prompt[opened:]:
                prompt += "\n</think>\n\n"
        head, tail = prompt.split(_PLACE)
        return head, tail

    def _encode(self, text: str) -> NDArray[np.int32]:
        """The whole prompt, (n,); a beginning-of-text mark that both template and tokenizer put there counts once."""
        ids: NDArray[np.int32] = np.asarray(self._tokenizer.encode(self._head + text + self._tail), dtype=np.int32)
        return ids[1:] if len(ids) > 1 and ids[0] == ids[1] and ids[0] in self._special else ids

    def _try_out(self) -> None:
        """The grammar compiles, the model runs, and goes back to the end of the instruction without a trace."""
        ids = self._encode("a")
        self._kept: Any = None
        self._keeps = True
        before = np.array(self._start(ids, math.inf).get_logits())  # a copy: the generator goes on
        try:
            after = self._start(ids, math.inf).get_logits()
            self._keeps = bool(np.array_equal(before, after))
        except Exception:
            self._keeps = False
        self._start(ids, math.inf).generate_next_token()

    def read(self, text: str) -> Reading:
        """What the text says. Never raises: what goes wrong is the reading's `abstain`.

        Where the reading abstains for any reason but LOW_CONFIDENCE the model did not answer: no labels, and no `p`.
        Evidence is always empty: a generated answer does not tell which words carried it.
        p: see `Walk`; 1 for a label that was given and 0 for the others, where tokens could not be told apart.
        """
        end = self._clock() + self._deadline_s
        clean = normalise(text)
        if not any(map(str.isalnum, clean.text)):
            return Reading(abstain=Abstain.TOO_LONG if clean.cut else Abstain.NO_TEXT)
        if clean.cut:
            return Reading(abstain=Abstain.TOO_LONG)
        try:
            plain = self._defused(clean.text.strip())
            if len(self._tokenizer.encode(plain)) > self._limits[0]:
                return Reading(abstain=Abstain.TOO_LONG)
            if not is_english(clean.text):
                return Reading(abstain=Abstain.LANGUAGE)
            ids = self._encode(plain)
            if len(ids) + self._limits[1] > self._length_max:
                return Reading(abstain=Abstain.TOO_LONG)
            if int(np.isin(ids, self._special).sum()) != self._special_count:
                raise ValueError("the text holds a control token of the model")
            if not self._lock.acquire(timeout=min(max(0.0, end - self._clock()), threading.TIMEOUT_MAX)):
                return Reading(abstain=Abstain.DEADLINE)
            try:
                return self._answer(ids, end)
            except Exception as error:
                if not isinstance(error, _Late):
                    self._kept = None  # whatever state it is in
                raise
            finally:
                self._lock.release()
        except _Late:
            return Reading(abstain=Abstain.DEADLINE)
        except Exception:
            log.warning("the model %s failed on a text of %d characters", self.name, len(text), exc_info=True)
            return Reading(abstain=Abstain.FAILED)

    def _defused(self, text: str) -> str:
        """The text with a blank inside everything that the tokenizer or the prompt would take for its own marks."""
        for _ in range(4):
            text, found = self._marks.subn(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)
            if not found:
                break
        return self._marks.sub(" ", text)

    def _start(self, ids: NDArray[np.int32], end: float) -> Any:
        """A generator that has read the prompt; the instruction's part of it is read once and kept."""
        size = len(self._prefix)
        if not (self._keeps and np.array_equal(ids[:size], self._prefix)):
            return self._append(self._generator(), ids, end)
        if self._kept is None:  # whole, however long it takes: a deadline would stop it again at the next text
            self._kept = self._append(self._generator(), self._prefix, math.inf)
        else:
            self._kept.rewind_to(size)
        return self._append(self._kept, ids[size:], end)

    def _generator(self) -> Any:
        parameters = self._runtime.GeneratorParams(self._model)
        # Everything that genai_config.json may set otherwise and that would make an answer depend on chance or length.
        parameters.set_search_options(
            max_length=self._length_max,
            min_length=0,
            batch_size=1,
            num_beams=1,
            num_return_sequences=1,
            do_sample=False,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
        )
        parameters.set_guidance(*guidance(self.fields))
        return self._runtime.Generator(self._model, parameters)

    def _append(self, generator: Any, ids: NDArray[np.int32], end: float) -> Any:
        for at in range(0, len(ids), PREFILL_TOKENS):
            self._look_at_the_clock(end)
            generator.append_tokens(ids[at : at + PREFILL_TOKENS])
        return generator

    def _look_at_the_clock(self, end: float) -> None:
        if self._clock() >= end:
            raise _Late

    def _answer(self, ids: NDArray[np.int32], end: float) -> Reading:
        generator = self._start(ids, end)
        walk = Walk(self.fields, self._pieces)
        for _ in range(self._limits[1]):
            self._look_at_the_clock(end)
            allowed = walk.allowed()
            logits = generator.get_logits().reshape(-1)[-self._vocabulary :] if allowed else ()
            generator.generate_next_token()
            walk.take(int(generator.get_next_tokens()[0]), {at: float(logits[at]) for at in allowed}, allowed)
            if walk.done or generator.is_done():
                break
        said = np.asarray(generator.get_sequence(0), dtype=np.int32)[len(ids) :]
        labels = parse(self._tokenizer.decode(said[~np.isin(said, self._ends)]), self.fields)
        if labels is None:
            log.warning("the model %s did not come to the end of an answer in %d tokens", self.name, len(said))
            return Reading(abstain=Abstain.FAILED)
        p = {label: round(walk.p[label], 4) if walk.done else float(label in labels) for label in self.labels}
        # One of several: surer of it than of the others together. Any number: on the right side of the middle.
        sure = all(
            (p[label] >= self._p_min) == (label in labels)
            for field in self.fields
            for label in field.labels
            if field.many or label in labels
        )
        return Reading(labels, p, {}, None if sure else Abstain.LOW_CONFIDENCE)


def _is_markup(token: Any) -> bool:
    """Whether an added token steers the model; some vocabularies also add blanks and plain words."""
    content = str(token["content"])
    return bool(content.strip()) and (bool(token.get("special")) or bool(_MARKUP.search(content)))


def _marks(contents: list[str]) -> re.Pattern[str]:
    """Matches every mark in any case; numbered ones (a vocabulary may have thousands) by one pattern."""
    patterns = {re.sub(r"\d+", r"\\d+", re.escape(content)) for content in (*contents, *_DELIMITERS)}
    return re.compile("|".join(sorted(patterns, key=len, reverse=True)), re.IGNORECASE)
