"""Which model reads, and what to say when none can."""

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from math import inf
from pathlib import Path

import models
from schemas.errors import ModelRefused
from schemas.reading import Abstain, Reading
from schemas.settings import Settings

log = logging.getLogger(__name__)
SHIPPED = ("default", "small")


def folder_of(model: str) -> Path:
    """The model folder that `--model` names: one that ships, or a path."""
    return Path(models.__file__).parent / "readers" / model if model in SHIPPED else Path(model)


def open_model(
    model: str, domain: str, settings: Settings, deadline_s: float = inf
) -> models.Reader | models.GenaiReader:
    """The reader of a domain in the model that `--model` names: an encoder, with the site's words, or a generator.

    deadline_s: when a generator gives up on a text; an encoder is done before one would look.
    Errors: ModelRefused; UsageError where the word list is wrong.
    """
    folder = folder_of(model)
    if models.is_genai_folder(folder):
        return models.GenaiReader(folder, domain, deadline_s=deadline_s)
    site = Path(settings.words_file) if settings.words_file else None
    return models.open_reader(folder, domain, models.lexicon(domain, site))


def _identity(reader: models.Reader | models.GenaiReader) -> Mapping[str, str]:
    """What a reading depends on besides its text; it goes into every record."""
    more = (
        {"prompt": reader.prompt_version}
        if isinstance(reader, models.GenaiReader)
        else {"words_sha256": reader.words.digest}
    )
    return {"name": reader.name, "sha256": reader.digest, "runtime": reader.runtime, **more}


class ModelTexts:
    """The texts of a domain, read by one model folder on a bounded pool; without a model, the reason why."""

    def __init__(self, model: str, domain: str, settings: Settings) -> None:
        self.model: Mapping[str, str] | None = None
        self.unavailable: Abstain | None = None
        self.pool: models.ReadingPool | None = None
        if model == "none":
            self.unavailable = Abstain.NO_MODEL
            return
        try:
            reader = open_model(model, domain, settings, settings.reader_stall_s)
        except ModelRefused as refusal:
            log.warning("The model is refused, the rules carry on alone: %s", refusal)
            self.unavailable = Abstain.MODEL_REFUSED
            return
        self.model = _identity(reader)
        self.pool = models.ReadingPool(
            reader.read,
            workers=settings.reader_threads,
            queue_max=settings.reader_queue_max,
            cache_max=settings.reader_cache_max,
        )

    def submit(self, text: str) -> "Future[Reading]":
        """Start reading a text; done at once where no model can read it."""
        if self.pool is not None:
            return self.pool.submit(text)
        done: Future[Reading] = Future()
        done.set_result(Reading(abstain=self.unavailable))
        return done

    def close(self) -> None:
        """Stop the pool; a call that hangs does not hold the process."""
        if self.pool is not None:
            self.pool.close()
