"""Names that a recovery store keeps: step ids, state keys, partition names. Renaming one loses its state: never do."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

FLOW = "tidegate"
SOURCE = "source"
DEAD_LETTERS = "dead_letters"
SHARD = "shard"
WINDOW = "window"
LATE = "late"
RULE = "rule"
GATE = "gate"
UNKEY = "unkey"
MERGE = "merge"
TO_SINK = "to_sink"
SINK = "sink"

STEPS = (SOURCE, DEAD_LETTERS, SHARD, WINDOW, LATE, RULE, GATE, UNKEY, MERGE, TO_SINK, SINK)

SINK_KEY = "decisions"

_FIRST = "s0000"
_SPREAD = np.uint64(5040)
"""Divided by every number of workers up to 10, and by 12, 14, 15, 16, 18, 20, 21, 24, 28 and more."""
_TRIED_AT_ONCE = 4096
_SIP_START = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)


@cache
def shard_key(shard: int) -> str:
    """State key of a shard, 0 <= shard < 1024. Shard i goes to the worker i places after that of shard 0, going round.

    Bytewax gives a key to worker `hash % workers`, by which plain numbers may all meet in one. So each name ends in
    the first four hexadecimal digits that make its hash equal to the first shard's plus i, modulo 5040. Names do not
    depend on the number of workers: a recovery store may be gone on with by another.
    """
    if shard == 0:
        return _FIRST
    begin = f"s{shard:06d}-"
    # How Rust hashes a text: its bytes and 0xff; the last byte of the last word is how many those are.
    first = _siphash(_word(_FIRST.encode() + b"\xff\0\x06"))
    wanted = (first % _SPREAD + np.uint64(shard)) % _SPREAD
    start, rest = _word(begin.encode()), _endings() | _word(b"\0\0\0\0\xff\0\0\x0d")
    hits = (
        tried + int(hit)
        for tried in range(0, len(rest), _TRIED_AT_ONCE)
        for hit in np.flatnonzero(_siphash(start, rest[tried : tried + _TRIED_AT_ONCE]) % _SPREAD == wanted)
    )
    return f"{begin}{next(hits):04x}"


def _word(text: bytes) -> NDArray[np.uint64]:
    return np.frombuffer(text, "<u8").astype(np.uint64)


@cache
def _endings() -> NDArray[np.uint64]:
    """0000 to ffff, each the low four bytes of a word."""
    return np.frombuffer("".join(f"{n:04x}" for n in range(1 << 16)).encode(), "<u4").astype(np.uint64)


def _siphash(*words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SipHash-1-3 with keys of zero (Aumasson and Bernstein, 2012) of padded words: how Rust hashes by default."""
    a, b, c, d = (np.array([start], np.uint64) for start in _SIP_START)
    for word in words:
        a, b, c, d = _sip_round(a, b, c, d ^ word)
        a = a ^ word
    c = c ^ np.uint64(0xFF)
    for _ in range(3):
        a, b, c, d = _sip_round(a, b, c, d)
    return a ^ b ^ c ^ d


def _sip_round(
    a: NDArray[np.uint64], b: NDArray[np.uint64], c: NDArray[np.uint64], d: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    a, c = a + b, c + d
    b, d = _turned(b, 13) ^ a, _turned(d, 16) ^ c
    a = _turned(a, 32) + d
    c = c + b
    return a, _turned(b, 17) ^ c, _turned(c, 32), _turned(d, 21) ^ a


def _turned(word: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    return word << np.uint64(bits) | word >> np.uint64(64 - bits)
