"""Which model reads, and what to say when none can."""

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path

import models
from schemas.errors import ModelRefused
from schemas.reading import Abstain, Reading
from schemas.settings import Settings

log = logging.getLogger(__name__)
DEFAULT_MODEL = Path(models.__file__).parent / "ward-reader"


def open_model(model: str) -> models.Reader:
    """The reader in the folder `model`, or the one that ships. Errors: ModelRefused."""
    return models.open_reader(DEFAULT_MODEL if model == "default" else Path(model))


class ModelTexts:
    """Texts read by one model folder on a bounded pool; without a model, the reason why."""

    def __init__(self, model: str, settings: Settings) -> None:
        self.model: Mapping[str, str] | None = None  # goes into every record: what read, and on what
        self.unavailable: Abstain | None = None
        self.pool: models.ReadingPool | None = None
        if model == "none":
            self.unavailable = Abstain.NO_MODEL
            return
        try:
            reader = open_model(model)
        except ModelRefused as refusal:
            log.warning("The model is refused, the rules carry on alone: %s", refusal)
            self.unavailable = Abstain.MODEL_REFUSED
            return
        self.model = {
            "name": reader.name,
            "sha256": reader.digest,
            "runtime": f"onnxruntime {version('onnxruntime')}",
        }
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
