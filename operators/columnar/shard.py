"""Which shard a key belongs to: the same in every process, on every machine, in every version.

The number of shards is fixed for a recovery store, and so is this function: state is found again by it.
"""

import hashlib
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

_SLOT_BITS = 17
_POINT_BITS = 16
_SEED = 0x7D6A7E
# A memo of fixed size, one word a slot, so that a reader in another thread never sees half an entry: the low 48 bits of
# the key's hash, then its point. A key lives in the slot of its top 17 bits or in that slot's neighbour, so that all 64
# bits are compared (the 17th from the top is in the tag too). The hash is Polars' own and lives only here.
_MEMO: NDArray[np.uint64] = np.zeros(1 << _SLOT_BITS, np.uint64)


def shard_of(keys: pl.Series, shards: int) -> pl.Series:
    """Shard of each key, String (n,) -> UInt16 (n,), 0 <= shard < shards <= 1024.

    A key's point is the 16-bit BLAKE2b digest of its UTF-8 bytes, little-endian; its shard is the point mod `shards`.
    """
    if shards == 1:
        return pl.Series("shard", np.zeros(len(keys), np.uint16))
    hashes = keys.hash(_SEED).to_numpy()
    slots = (hashes >> np.uint64(64 - _SLOT_BITS)).view(np.int64)
    tags = hashes << np.uint64(_POINT_BITS)
    entries = _MEMO[slots]
    missed = _mismatch(entries, tags)
    if len(missed):
        entries[missed] = _MEMO[slots[missed] ^ 1]
        missed = missed[_mismatch(entries[missed], tags[missed])]
    if len(missed):
        names = keys.gather(missed).to_list()
        points = {name: _point(name) for name in set(names)}
        entries[missed] = tags[missed] | np.array([points[name] for name in names], np.uint64)
        taken = _MEMO[slots[missed]] != 0
        _MEMO[slots[missed] ^ taken] = entries[missed]
    return pl.Series("shard", entries.astype(np.uint16) % np.uint16(shards))


def _mismatch(entries: NDArray[np.uint64], tags: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.flatnonzero((entries ^ tags) >> np.uint64(_POINT_BITS))


def _point(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=_POINT_BITS // 8).digest(), "little")


def split_by_shard(rows: pl.DataFrame, shards: int) -> list[pl.DataFrame]:
    """The rows (with a `key` column) of each shard, `shards` frames in shard order, order of rows kept."""
    if shards == 1:
        return [rows]
    shard = shard_of(rows["key"], shards).to_numpy()
    order = np.argsort(shard, kind="stable")
    bounds = np.searchsorted(shard[order], np.arange(shards + 1)).tolist()
    together = rows[order]
    return [together.slice(start, end - start) for start, end in pairwise(bounds)]
