"""`tidegate read`: texts on lines in, readings on lines out."""

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from flows.texts import open_model
from operators.record import model_part
from schemas.reading import Abstain, Reading


def read_lines(lines: Iterable[bytes], model: str) -> Iterator[dict[str, Any]]:
    """`{"id", "text"}` a line -> the reading of each, in order; a line that is no such object abstains as `no_text`.

    Errors: ModelRefused, where the model folder does not verify.
    """
    read = open_model(model).read
    for line in lines:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            row = None
        item = row if isinstance(row, dict) else {}
        text = item.get("text")
        reading = read(text) if isinstance(text, str) else Reading(abstain=Abstain.NO_TEXT)
        yield {"id": item.get("id"), **model_part(reading)}
