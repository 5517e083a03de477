"""What a text is made of beside its word pieces: runs of letters, words and pairs of words, each hashed to a place.

A table with a row for each place is the linear half of the reader (hashing trick: Weinberger et al. 2009, arXiv
0902.2206; beside a deep half: Cheng et al. 2016, arXiv 1606.07792).
"""

import re
import zlib
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

PLACES: Final = 1 << 14
_LENGTHS: Final = range(2, 6)
_BLANK: Final = np.uint64(ord(" "))
_WORD: Final = re.compile(r"\w+")
# Odd constants of splitmix64, which spread what a polynomial over letters leaves close together.
_RADIX, _SPREAD, _STIR = np.uint64(1_000_003), np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_FOLD, _KEEP = np.uint64(29), np.uint64(64 - PLACES.bit_length() + 1)


@dataclass(frozen=True, slots=True)
class Ngrams:
    """Each (n,): where in the table an n-gram stands, 0 to `PLACES` - 1; the text's characters [start, stop) it is."""

    places: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]


def ngrams(text: str) -> Ngrams:
    """Of a normalised text: two to five letters of a word, with the blank before or after it; words; pairs of words.

    Case does not count. A text with a letter or a digit has at least one.
    """
    lowered = text.lower()
    if len(lowered) != len(text):  # a sign like U+0130 becomes two; here every sign keeps its place
        lowered = "".join(low if len(low := sign.lower()) == 1 else sign for sign in text)
    signs = np.frombuffer(f" {lowered} ".encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    blank = signs == _BLANK
    places, starts, stops = [], [], []
    mixed, inside = signs, np.zeros(len(signs), dtype=np.bool_)  # inside: a blank between first and last
    for length in _LENGTHS:
        if length > len(signs):
            break
        mixed = mixed[:-1] * _RADIX + signs[length - 1 :]
        count = len(mixed)
        if length > 2:
            inside = inside[:count] | blank[length - 2 :][:count]
        whole = np.flatnonzero(~inside if length > 2 else ~(blank[:-1] & blank[1:]))
        places.append(_place(mixed[whole], length))
        starts.append(whole)
        stops.append(whole + length)
    words = [(found[0], *found.span()) for found in _WORD.finditer(lowered)]
    pairs = [(f"{one} {two}", start, stop) for (one, start, _), (two, _, stop) in pairwise(words)]
    said = [*words, *pairs]
    hashed = np.array([zlib.crc32(word.encode()) for word, _, _ in said], dtype=np.uint64)
    places.append(_place(hashed, 0))
    starts.append(np.array([start + 1 for _, start, _ in said], dtype=np.int64))
    stops.append(np.array([stop + 1 for _, _, stop in said], dtype=np.int64))
    first, last = np.concatenate(starts) - 1, np.concatenate(stops) - 1  # less the blank put before the text
    return Ngrams(np.concatenate(places), first.clip(0), last.clip(max=len(text)))


def _place(mixed: NDArray[np.uint64], length: int) -> NDArray[np.int64]:
    spread = mixed * _SPREAD + np.uint64(length)
    stirred = (spread ^ (spread >> _FOLD)) * _STIR
    return (stirred >> _KEEP).astype(np.int64)
