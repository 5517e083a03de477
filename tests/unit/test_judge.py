"""Rows of one partition on their way in: offsets with gaps, raw bytes of what is refused, marks of live context."""

import numpy as np
import orjson
import pytest

from flows.connectors.files import Chunk
from flows.connectors.judge import Judge, Piece, codec_of, intake_of
from flows.registry import load_flow
from operators.adapters.tally import Tally
from operators.columnar.checks import REJECTS
from operators.columnar.watermark import END, NO_MARK
from schemas.settings import Settings

START_S = 1_700_000_000
S = 1_000_000


def judge(stream: str, now_s: list[int] | None = None, **settings: float) -> Judge:
    made = Settings.model_validate(settings)
    domain = load_flow("ward", made)
    live = now_s is not None
    intake = intake_of(domain, domain.stream(stream), made, None, live=live)
    clock = (lambda: now_s[0] * S) if now_s is not None else None
    return Judge(stream, domain.stream(stream), codec_of(domain.stream(stream), made, None), intake, Tally(), clock)


def lines(*seconds: int, **more: object) -> list[bytes]:
    return [orjson.dumps({"ts": (START_S + at) * 1000, "patient": "p", **more}) for at in seconds]


@pytest.mark.parametrize("cut", [1, 2, 3, 8])
def test_rows_and_refusals_go_by_their_own_offsets_however_they_are_cut(cut: int) -> None:
    # The third is far ahead of those after it: refused, but only once they are seen.
    rows = [*lines(0, 1, 9000), b"bad", *lines(2, 3, 4, 5)]
    offsets = np.array([3, 5, 8, 9, 20, 21, 40, 41])
    judged = judge("vitals", future_lookahead_rows=3)
    batches = [
        judged.judge(Piece(Chunk(rows[at : at + cut]), offsets[at : at + cut])) for at in range(0, len(rows), cut)
    ]
    batches.append(judged.judge(Piece(), ended=True))
    assert [at for batch in batches for at in batch.rows["offset"]] == [3, 5, 20, 21, 40, 41]
    refused = {at: (reason, raw) for batch in batches for at, reason, _, raw in batch.rejects.iter_rows()}
    assert refused == {8: ("future", rows[2]), 9: ("not_json", b"bad")}


def test_rejects_that_come_with_the_rows_are_counted_and_passed_on() -> None:
    judged = judge("vitals")
    gone = REJECTS.to_frame().vstack(REJECTS.to_frame().clear())
    gone = gone.extend(type(gone)({"offset": [7], "reason": ["missing_field"], "detail": ["x"], "raw": [b""]}, REJECTS))
    batch = judged.judge(Piece(Chunk(lines(0)), 8, rejects=gone), ended=True)
    assert batch.rejects["offset"].to_list() == [7]
    assert judged._tally.rejected == {"missing_field": 1}


def test_the_mark_of_live_context_follows_the_clock_only_as_far_as_is_known() -> None:
    now_s = [START_S + 100]
    notes = judge("notes", now_s)
    note = Piece(Chunk(lines(1, note="n")), 0)
    first = notes.judge(note, known_us=NO_MARK)  # more of them are waiting to be read
    assert first.mark_us == (START_S + 1 - 10) * S
    assert first.rows["mark_us"].to_list() == [NO_MARK]
    known = notes.judge(Piece(), known_us=(START_S + 50) * S)
    assert known.mark_us == (START_S + 50) * S
    assert notes.judge(Piece(), known_us=END).mark_us == (START_S + 90) * S
    late = notes.judge(Piece(Chunk(lines(2, note="m")), 1), known_us=NO_MARK)
    assert late.rows["mark_us"].to_list() == [(START_S + 90) * S]
    assert late.mark_us == (START_S + 90) * S
