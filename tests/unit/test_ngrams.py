"""N-grams against the dullest possible way to find them, and places that must never move."""

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from models.ngrams import PLACES, ngrams


def oracle(text: str) -> list[tuple[int, int]]:
    """Every stretch that is an n-gram, as [start, stop) of the text."""
    padded, found = f" {text} ", []
    for length in (2, 3, 4, 5):
        for start in range(len(padded) - length + 1):
            stretch = padded[start : start + length]
            if " " not in stretch[1:-1] and stretch.strip():
                found.append((max(start - 1, 0), min(start - 1 + length, len(text))))
    words = [word.span() for word in re.finditer(r"\w+", text)]
    return found + words + [(one[0], two[1]) for one, two in pairwise(words)]


@given(st.text("ab 1-İß", min_size=1, max_size=30).filter(lambda text: any(map(str.isalnum, text))))
def test_every_stretch_of_letters_every_word_and_every_pair_is_found_where_it_stands(text: str) -> None:
    found = ngrams(text)
    assert list(zip(found.starts.tolist(), found.stops.tolist(), strict=True)) == oracle(text)
    assert found.places.min() >= 0
    assert found.places.max() < PLACES


def test_alike_stretches_have_one_place_whatever_their_case_and_others_hardly_ever() -> None:
    assert ngrams("LORRY").places.tolist() == ngrams("lorry").places.tolist()
    assert set(ngrams("jam").places.tolist()) < set(ngrams("a jam here").places.tolist())
    words = ngrams(" ".join(f"word{number}" for number in range(200)))
    stretches = {
        (start, stop): place for start, stop, place in zip(words.starts, words.stops, words.places, strict=True)
    }
    assert len(set(stretches.values())) > 1_500


def test_places_are_the_same_on_every_machine_and_in_every_version() -> None:
    assert ngrams("A lorry.").places.tolist()[:6] == [14101, 5304, 10301, 7907, 6806, 7626]
    assert int(ngrams("Two lanes blocked at J4, lorry on fire").places.sum()) == 957_632
