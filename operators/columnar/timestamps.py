"""`ts` of a batch -> event time. Vectorised; what is no time, or outside the believed instants, becomes null."""

import polars as pl

from operators.columnar.mapping import ELAPSED, Clock

UNITS = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}  # factor to, divisor to microseconds
_INT64_MAX = 2**63 - 1


def event_us(ts: pl.Series, unit: str, clock: Clock) -> pl.Series:
    """Microseconds since the epoch, (n,) Int64; null where `ts` is null, no time, without zone, or not believed.

    ts: String (RFC 3339 with zone, or the digits of an integer in `unit`), a whole number in `unit`, or Datetime. An
    integer out of range in its unit is never tried in another. Text may have up to nanoseconds, which are cut; a
    leap second is the first second of the next minute.
    """
    first_us, end_us = clock.bounds_us
    if isinstance(ts.dtype, pl.Datetime):
        result = _instants(ts, clock.zone)
    elif ts.dtype == pl.Int64:
        result = _scaled(ts, unit, first_us, end_us)
    elif ts.dtype.is_numeric():
        whole = ts.cast(pl.Int64, strict=False)
        result = _scaled(_where(whole == ts, whole), unit, first_us, end_us)
    elif ts.dtype != pl.String:
        result = _nulls(ts)
    elif clock.format == ELAPSED:
        result = _elapsed(ts, clock.epoch_us)
    elif clock.format:
        result = _instants(ts.str.to_datetime(clock.format, time_unit="us", strict=False), clock.zone)
    else:
        whole = ts.cast(pl.Int64, strict=False)
        result = _scaled(whole, unit, first_us, end_us)
        if whole.null_count() > ts.null_count():
            text = _where(whole.is_null(), ts).str.to_datetime("%+", time_unit="us", strict=False)
            result = result.fill_null(text.dt.epoch("us"))
    return _within(result, first_us, end_us)


def _within(values: pl.Series, low: int, high: int) -> pl.Series:
    """Values of [low, high), others null; costs nothing noticeable where all are inside."""
    least, most = values.min(), values.max()
    if isinstance(least, int) and isinstance(most, int) and low <= least and most < high:
        return values
    return _where((values >= low) & (values < high), values)


def _where(mask: pl.Series, values: pl.Series) -> pl.Series:
    """`values` where `mask` is true, else null."""
    return pl.select(pl.when(mask).then(values)).to_series()


def _nulls(like: pl.Series) -> pl.Series:
    return pl.Series([None], dtype=pl.Int64).new_from_index(0, len(like))


def _scaled(whole: pl.Series, unit: str, first_us: int, end_us: int) -> pl.Series:
    """Integers of `unit` in microseconds. What is out of range goes first, so that nothing overflows."""
    factor, divisor = UNITS[unit]
    low, high = (min(bound * divisor // factor, _INT64_MAX) for bound in (first_us, end_us))
    inside = _within(whole, low, high)
    if divisor > 1:
        return inside // divisor
    return inside * factor if factor > 1 else inside


def _instants(moments: pl.Series, zone: str | None) -> pl.Series:
    """A Datetime column in microseconds; a naive one needs `zone`, where a skipped or repeated hour is null."""
    if isinstance(moments.dtype, pl.Datetime) and moments.dtype.time_zone is None:
        if zone is None:
            return _nulls(moments)
        moments = moments.dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
    return moments.dt.epoch("us")


def _elapsed(ts: pl.Series, epoch_us: int) -> pl.Series:
    """`HH:MM` since the epoch of an archive; hours may pass 24."""
    parts = ts.str.extract_groups(r"^(\d{1,5}):([0-5]\d)$").struct.unnest()
    hours, minutes = (part.cast(pl.Int64, strict=False) for part in parts.get_columns())
    return (hours * 60 + minutes) * 60_000_000 + epoch_us
