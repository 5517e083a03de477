"""Aggregates at the corners that a random row does not reach; random rows are in test_windows.py."""

from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.columnar.aggregates import aggregate, check_aggregates
from operators.columnar.grouping import order_by
from schemas.windows import Agg, AggName
from tests.unit import oracle

SECOND = 1_000_000


def of(
    values: list[Any], fn: AggName, arg: float | None = None, times: list[int] | None = None, end_us: int = 60 * SECOND
) -> Any:
    """One aggregate of one group, a value a second unless said otherwise."""
    rows = pl.DataFrame({"event_us": times or [nth * SECOND for nth in range(len(values))], "x": values}, strict=False)
    groups = np.arange(len(values)), np.array([0, len(values)]), np.array([end_us])
    (column,) = aggregate(rows, *groups, [Agg("out", "x", fn, arg)])
    return column.item()


def test_a_constant_has_no_spread_no_slope_and_itself_as_every_mean() -> None:
    constant = [0.1] * 7  # the plain sum of these divided by 7 is not 0.1
    assert {of(constant, fn) for fn in ("var", "std", "slope")} == {0.0}
    assert {of(constant, "mean"), of(constant, "time_weighted_mean"), of(constant, "ewma", 0.3)} == {0.1}


def test_spread_on_top_of_a_large_level_does_not_cancel() -> None:
    values = [1e9 + nth % 2 for nth in range(1000)]
    assert of(values, "var") == pytest.approx(float(Fraction(250, 999)), rel=1e-12)


def test_slope_is_per_second_whatever_the_epoch() -> None:
    times = [1_700_000_000 * SECOND + t * SECOND // 2 for t in range(20)]
    assert of([3.0 + 0.25 * t for t in range(20)], "slope", times=times) == pytest.approx(0.5, rel=1e-12)


def test_one_instant_has_no_slope_and_one_value_no_variance() -> None:
    assert of([1.0, 2.0], "slope", times=[5, 5]) is None
    assert of([1.0], "slope") is None
    assert of([1.0], "var") is None


def test_a_value_holds_until_the_next_and_the_last_until_the_end() -> None:
    assert of([10.0, 20.0], "time_weighted_mean", times=[0, 3 * SECOND], end_us=4 * SECOND) == 12.5
    assert of([10.0, None, 20.0], "time_weighted_mean", times=[0, 1, 3 * SECOND], end_us=4 * SECOND) == 12.5


def test_a_group_without_a_value_does_not_shift_the_others() -> None:
    rows = pl.DataFrame({"event_us": [0, 10, 15], "x": [None, 1.0, 5.0]})
    groups = np.arange(3), np.array([0, 1, 3]), np.array([10, 30])
    (mean,) = aggregate(rows, *groups, [Agg("out", "x", "time_weighted_mean")])
    assert mean.to_list() == [None, 4.0]


def test_above_and_below_are_strict() -> None:
    assert of([1.0, 2.0, 3.0, 4.0], "fraction_above", 3.0) == 0.25
    assert of([1.0, 2.0, 3.0, 4.0], "fraction_below", 3.0) == 0.5


def test_the_weight_of_a_value_halves_with_each_half_life() -> None:
    assert of([8.0, 4.0, 2.0], "ewma", 1.0) == pytest.approx((8 / 4 + 4 / 2 + 2) / 1.75)


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    assert of([36.1, 36.0, 39.0, 30.0], "median") == 36.05


def test_null_and_nan_are_not_values_and_a_group_without_any_is_null() -> None:
    assert of([None, float("nan"), 4.0], "mean") == 4.0
    assert of([None, float("nan"), 4.0], "count") == 1
    assert of([None, float("nan")], "count") == 0
    for fn in ("sum", "mean", "median", "first", "last_us", "slope", "min"):
        assert of([None, float("nan")], fn) is None


def test_zero_has_one_sign() -> None:
    assert str(of([-0.0, -0.0], "median")) == "0.0"
    assert str(of([-0.0], "min")) == "0.0"


def test_text_is_counted_and_kept_but_never_averaged() -> None:
    assert of(["b", None, "a"], "count") == 2
    assert (of(["b", None, "a"], "first"), of(["b", "a", None], "last")) == ("b", "a")
    with pytest.raises(ValueError, match="mean needs numbers, the field x is text"):
        of(["b"], "mean")


def test_true_counts_as_one() -> None:
    assert of([True, False, None, True], "mean") == pytest.approx(2 / 3)
    assert of([None, False], "first") is False


@pytest.mark.parametrize("fn", ["median", "quantile", "slope", "ewma", "time_weighted_mean", "var", "fraction_below"])
def test_groups_of_very_different_sizes_are_each_their_own(fn: AggName) -> None:
    sizes = [1, 500, 2, 3, 64, 63, 1, 7]
    x = np.random.default_rng(5).normal(80, 9, sum(sizes))
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    times = np.arange(len(x)) * 250_000
    at = np.random.default_rng(6).permutation(len(x))
    rows = pl.DataFrame({"event_us": times[np.argsort(at)], "x": x[np.argsort(at)]})
    agg = Agg("out", "x", fn, {"quantile": 0.9, "ewma": 5.0, "fraction_below": 75.0}.get(fn))
    ends = times[bounds[1:] - 1] + 1
    (column,) = aggregate(rows, at, bounds, ends, [agg])
    for nth, got in enumerate(column):
        part = slice(bounds[nth], bounds[nth + 1])
        wanted = oracle.value_of(agg, times[part].tolist(), x[part].tolist(), int(ends[nth]))
        assert got == (None if wanted is None else pytest.approx(wanted, rel=1e-9))


@pytest.mark.parametrize(
    ("agg", "says"),
    [
        (Agg("q", "x", "quantile", 1.5), "q: quantile needs an argument from 0.0 to 1.0, not 1.5"),
        (Agg("e", "x", "ewma", 0.0), "e: ewma needs an argument"),
        (Agg("f", "x", "fraction_above"), "f: fraction_above needs an argument"),
        (Agg("m", "x", "mean", 2.0), "m: mean takes no argument"),
    ],
)
def test_an_argument_that_is_missing_or_out_of_range_is_named(agg: Agg, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_aggregates([agg])


def test_two_aggregates_cannot_have_one_name() -> None:
    with pytest.raises(ValueError, match="two aggregates are called m"):
        check_aggregates([Agg("m", "x", "mean"), Agg("m", "x", "median")])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_order_by_packed_columns_is_the_stable_order(data: st.DataObject) -> None:
    widths = data.draw(st.lists(st.sampled_from([1, 3, 40, 2**61]), min_size=1, max_size=4))
    rows = data.draw(st.integers(0, 30))
    columns = [
        np.array(data.draw(st.lists(st.sampled_from([0, -width, width]), min_size=rows, max_size=rows)), np.int64)
        for width in widths
    ]
    wanted = sorted(range(rows), key=lambda row: [int(column[row]) for column in columns])
    assert order_by(*columns).tolist() == wanted
