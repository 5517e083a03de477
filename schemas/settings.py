"""One table of settings: name with its unit, default, bounds, help. From `TIDEGATE_*` variables, then a TOML file.

`tidegate doctor` prints the table; a test checks that the README's table of settings is this one.
"""

import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.errors import UsageError


class Settings(BaseSettings):
    """Every limit and every choice of a run. Frozen: a run never changes its own settings."""

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", frozen=True, extra="forbid")

    ts_unit: Literal["s", "ms", "us", "ns"] = Field("ms", description="unit of a `ts` that is an integer")
    window_s: float = Field(60, gt=0, le=86_400, description="length of a window, aligned to the epoch")
    allowed_lateness_s: float = Field(
        10, ge=0, le=86_400, description="how far the watermark stays behind the newest row"
    )
    idle_timeout_s: float = Field(
        30, gt=0, description="live: a silent partition stops holding the watermark back after this"
    )
    max_future_s: float = Field(300, gt=0, description="a row further ahead of its clock goes to the dead letters")
    future_lookahead_rows: int = Field(
        1000, ge=1, le=100_000, description="replay: rows that are asked whether time really jumped"
    )
    dedupe_horizon_s: float = Field(
        300, ge=0, description="duplicates are looked for this far back in event time; 0 switches off"
    )
    batch_rows_max: int = Field(20_000, ge=1, le=1_000_000, description="most rows that travel in one batch")
    line_bytes_max: int = Field(65_536, ge=64, description="a longer message goes to the dead letters")
    open_rows_max: int = Field(
        5_000_000, ge=1000, description="rows a shard may hold in open windows; more stops the run"
    )
    shards: int = Field(
        1,
        ge=1,
        le=1024,
        description="state is split by key into this many parts, one worker each; fixed for a recovery store",
    )
    workers: int = Field(1, ge=1, le=64, description="Bytewax worker threads in this process")
    epoch_s: float = Field(5, ge=0, le=600, description="a recovery snapshot is taken this often")
    stale_hr_s: float = Field(300, gt=0, description="a pulse older than this is missing")
    stale_rr_s: float = Field(300, gt=0, description="a respiration older than this is missing")
    stale_spo2_s: float = Field(300, gt=0, description="a saturation older than this is missing")
    stale_sbp_s: float = Field(21_600, gt=0, description="a systolic pressure older than this is missing")
    stale_temp_s: float = Field(21_600, gt=0, description="a temperature older than this is missing")
    stale_acvpu_s: float = Field(21_600, gt=0, description="a consciousness level older than this is missing")
    stale_oxygen_s: float = Field(21_600, gt=0, description="an air-or-oxygen entry older than this is missing")
    baseline_s: float = Field(21_600, gt=0, description="trailing span of a patient's own median (pulse, systolic)")
    note_valid_s: float = Field(86_400, gt=0, description="a note older than this is not read any more")
    text_chars_max: int = Field(20_000, ge=1, description="a longer text is not read; the record says so")
    words_file: str = Field("", description="the site's own names, CSV `word,class`; they add to those that ship")
    reader_threads: int = Field(1, ge=1, le=16, description="model calls at once")
    reader_queue_max: int = Field(256, ge=1, description="texts waiting for the model; more abstain as busy")
    reader_cache_max: int = Field(4096, ge=0, description="readings kept by text digest")
    reader_deadline_ms: float = Field(
        2000, gt=0, description="live: the model's part of a decision must be there by then"
    )
    reader_stall_s: float = Field(
        60, gt=0, description="replay: a model that is silent for this long is given up for that text"
    )
    reader_deadline_on_replay: bool = Field(False, description="keep the deadline over a bounded source too")
    renotify_s: float = Field(900, gt=0, description="an open alert is told again after this")

    @classmethod
    def load(cls, path: Path | None) -> "Settings":
        """Read variables and the TOML file `path`; a variable wins. Errors: UsageError naming the setting."""
        values: dict[str, Any] = {}
        if path is not None:
            try:
                values = tomllib.loads(path.read_text("utf-8"))
            except OSError as error:
                raise UsageError(
                    f"the configuration file {path} cannot be read ({error.strerror}): check the path"
                ) from error
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise UsageError(f"the configuration file {path} is not TOML ({error}): mend that line") from error
        try:
            return cls(
                **{name: value for name, value in values.items() if f"TIDEGATE_{name.upper()}" not in os.environ}
            )
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "settings"
            where = path or "the environment or the command line"
            raise UsageError(
                f"setting {name} in {where}: {first['msg']}; `tidegate doctor --settings` lists all"
            ) from error
