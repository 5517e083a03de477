"""Keys to shards: the same for ever, and rows keep their order within a shard."""

import hashlib

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from operators.columnar.shard import shard_of, split_by_shard

KEYS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=60)


def plainly(key: str, shards: int) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=2).digest(), "little") % shards


def test_the_shard_of_a_key_is_written_in_stone():
    keys = pl.Series(["p-01", "p-02", "W3", "", "Straße 7", "p" * 128])
    assert shard_of(keys, 64).to_list() == [47, 23, 7, 49, 4, 31]
    assert shard_of(keys, 4).to_list() == [3, 3, 3, 1, 0, 3]


@given(KEYS, st.integers(1, 1024))
@settings(max_examples=60, deadline=None)
def test_every_key_goes_where_its_digest_says(keys, shards):
    series = pl.Series(keys, dtype=pl.String)
    wanted = [plainly(key, shards) for key in keys]
    found = shard_of(series, shards)
    assert found.dtype == pl.UInt16
    assert found.to_list() == wanted
    assert shard_of(series, shards).to_list() == wanted  # a second time from the memo


def test_more_keys_than_the_memo_holds_still_go_where_their_digest_says():
    keys = [f"device-{number}" for number in range(140_000)]
    shard_of(pl.Series(keys), 16)
    sample = keys[::700]
    assert shard_of(pl.Series(sample), 16).to_list() == [plainly(key, 16) for key in sample]


def test_keys_spread_evenly():
    counts = np.bincount(shard_of(pl.Series([f"bed-{number:05}" for number in range(16_000)]), 16).to_numpy())
    assert counts.min() > 850
    assert counts.max() < 1150


@given(KEYS, st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_splitting_loses_no_row_and_keeps_their_order(keys, shards):
    rows = pl.DataFrame({"key": pl.Series(keys, dtype=pl.String), "offset": np.arange(len(keys))})
    parts = split_by_shard(rows, shards)
    assert len(parts) == shards
    for number, part in enumerate(parts):
        mine = [plainly(key, shards) == number for key in keys]
        assert_frame_equal(part, rows.filter(pl.Series(mine, dtype=pl.Boolean)))


def test_one_shard_is_the_frame_itself():
    rows = pl.DataFrame({"key": ["a"], "offset": [0]})
    assert split_by_shard(rows, 1)[0] is rows
