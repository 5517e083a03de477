"""One table of settings: name with its unit, default, bounds, help. From `TIDEGATE_*` variables, then a TOML file.

`tidegate doctor` prints the table; a test checks that the README's table of settings is this one.
"""

import json
import os
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from schemas.errors import UsageError

_PREFIX = "TIDEGATE_"


class Settings(BaseModel):
    """Every limit and every choice of a run. Frozen: a run never changes its own settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

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
    drain_limit_s: float = Field(
        20, ge=0, le=600, description="asked to end, a run that has not drained by then ends with what is committed"
    )
    health_host: str = Field("127.0.0.1", description="address that /healthz, /readyz and /metrics are served on")
    health_port: int = Field(0, ge=0, le=65_535, description="their port; 0: they are not served")
    ready_lag_max_s: float = Field(
        120, gt=0, description="live: event time further behind the clock makes the run not ready"
    )
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
    kafka: dict[str, str] = Field(
        {}, description="properties of librdkafka, untouched (TLS, SASL); a value `file:PATH` stands in that file"
    )
    kafka_group: str = Field(
        "tidegate", min_length=1, description="consumer group that offsets are committed to, for monitoring only"
    )
    kafka_start_s: float = Field(30, gt=0, le=3600, description="at its start a run waits this long for the brokers")
    kafka_watch_s: float = Field(
        2, ge=0.1, le=600, description="brokers and topics are asked this often: reachable, partitions new or gone"
    )
    kafka_poll_ms: float = Field(10, ge=1, le=1000, description="a partition without messages is asked this often")
    kafka_queue_kb: int = Field(
        65_536, ge=64, le=2_000_000, description="most that is fetched ahead of a Kafka partition, in kilobytes"
    )
    kafka_message_bytes_max: int = Field(
        8_388_608, ge=1024, description="a longer message of Arrow or Avro goes to the dead letters"
    )
    kafka_registry: str = Field(
        "", description="address of the schema registry for Avro: http(s)://[user:password@]host"
    )
    outlet_batch_rows: int = Field(500, ge=1, le=100_000, description="most items an outlet sends at once")
    outlet_batch_bytes: int = Field(4_000_000, ge=1000, description="most bytes it sends at once, one item aside")
    outlet_timeout_s: float = Field(
        30, ge=1, le=600, description="an outlet that has not acknowledged by then is tried again"
    )
    outlet_retry_s: float = Field(
        0.5, gt=0, le=600, description="wait after a first failure; it doubles with each more"
    )
    outlet_retry_max_s: float = Field(30, gt=0, le=3600, description="longest wait between two attempts of an outlet")
    outlet_drain_s: float = Field(30, ge=0, le=3600, description="at its end a run waits this long for its outlets")
    outlet_behind_max: int = Field(
        1_000_000, ge=1, description="an outlet with more items still to send makes the run not ready"
    )
    outlet_file_rows: int = Field(20_000, ge=1, le=1_000_000, description="most rows of a Parquet file")
    outlet_file_bytes: int = Field(
        64_000_000, ge=1000, description="most bytes of records in a Parquet file, before it is packed"
    )
    outlet_file_s: float = Field(60, ge=0, le=86_400, description="a Parquet file is written after this, full or not")
    outlet_webhook_key_file: str = Field("", description="file with the key that signs what a webhook is sent")
    mqtt_client_id: str = Field(
        "tidegate", min_length=1, max_length=64, description="our client ids begin so; also the name of a shared group"
    )
    mqtt_clients: int = Field(
        1, ge=1, le=64, description="clients that share what events come; fixed for a recovery store"
    )
    mqtt_password: str = Field("", description="password of the address's user; `file:PATH` reads it from there")
    mqtt_tls_ca: str = Field("", description="authority that signed the broker's certificate; set, TLS is used")
    mqtt_tls_cert: str = Field("", description="our own certificate, where the broker asks for one")
    mqtt_tls_key: str = Field("", description="its key")
    mqtt_keepalive_s: int = Field(30, ge=1, le=65_535, description="a silent connection is found dead after this")
    mqtt_session_s: int = Field(
        604_800, ge=60, le=4_294_967_294, description="the broker keeps what comes while we are away this long"
    )
    mqtt_inflight_max: int = Field(1000, ge=1, le=65_535, description="messages that wait for an acknowledgement")
    mqtt_spool: str = Field("", description="folder of the spool; empty: `mqtt` in the recovery folder")
    mqtt_spool_bytes_max: int = Field(
        1_073_741_824, ge=1_048_576, description="disk for each client's spool; a full one acknowledges nothing more"
    )
    mqtt_spool_keep_s: float = Field(
        60, ge=0, description="messages stay in the spool this long after three snapshots have passed them"
    )
    trace_ratio: float = Field(
        0,
        ge=0,
        le=1,
        description="decisions traced, beside those of sampled messages; 1 in 100 is 0.01, 0 switches tracing off",
    )
    trace_file: str = Field("", description="spans are written here, one a line; `tidegate trace` reads them")
    trace_file_bytes_max: int = Field(
        50_000_000, ge=10_000, description="a full file of spans is moved to `FILE.1`, in place of the one before"
    )
    trace_otlp_endpoint: str = Field(
        "", description="a collector that spans are sent to: `http://HOST:4318` or `grpc://HOST:4317`"
    )
    trace_queue_max: int = Field(4096, ge=16, description="spans that wait to be written; more drop the oldest")
    trace_key_file: str = Field("", description="key of the hashes in spans; empty: one for each process, not kept")
    trace_texts: bool = Field(False, description="spans hold the texts that were read, in clear")
    renotify_s: float = Field(900, gt=0, description="an open alert is told again after this")

    @field_validator("kafka", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        """A variable holds a table as JSON."""
        return json.loads(value) if isinstance(value, str) else value

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
        told = {name: os.environ.get(f"{_PREFIX}{name.upper()}") for name in cls.model_fields}
        values |= {name: value for name, value in told.items() if value is not None}
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "settings"
            where = path or "the environment or the command line"
            raise UsageError(
                f"setting {name} in {where}: {first['msg']}; `tidegate doctor --settings` lists all"
            ) from error
