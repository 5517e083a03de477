"""`tidegate read`: texts on lines in, readings on lines out."""

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from flows.texts import open_model
from operators.record import model_part
from schemas.reading import Abstain, Reading
from schemas.settings import Settings


def read_lines(lines: Iterable[bytes], domain: str, model: str, settings: Settings) -> Iterator[dict[str, Any]]:
    """`{"id", "text"}` a line -> the reading of each, in order; a line that is no such object abstains as `no_text`.

    A field with one answer stands by its own name (null where no model ran), one with many as a list.
    Errors: ModelRefused, where the model folder does not verify or does not read the domain.
    """
    reader = open_model(model, domain, settings)
    for line in lines:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            row = None
        item = row if isinstance(row, dict) else {}
        text = item.get("text")
        reading = reader.read(text) if isinstance(text, str) else Reading(abstain=Abstain.NO_TEXT)
        part = model_part(reading)
        given = part.pop("labels")
        answers = {
            field.name: [label for label in field.labels if label in given]
            if field.many
            else next((label for label in field.labels if label in given), None)
            for field in reader.fields
        }
        yield {"id": item.get("id"), **answers, **part}
