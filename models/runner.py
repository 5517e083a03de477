"""The one place that knows ONNX Runtime: telemetry off before it is imported, one session, one thread, no spinning."""

import ctypes
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES_MAX: Final = 1024 * 1024  # more than the largest tensor of a text of 128 tokens takes
_SLOWER: Final = "SkipLayerNormFusion"
"""Its one operator takes longer than the two that it replaces: a tenth of a text's time."""
_OPT_OUT: Final = "ORT_DISABLE_TELEMETRY"
_IMPORTED_BEFORE: Final = "onnxruntime" in sys.modules and os.environ.get(_OPT_OUT) != "1"
# ONNX Runtime looks at this once, while it is being imported: it is set as soon as anything of ours could import it.
os.environ[_OPT_OUT] = "1"


@contextmanager
def _large_blocks_apart() -> Iterator[None]:
    """While a model is loaded, blocks of 128 KiB and more go back to the system as soon as they are freed.

    By itself glibc learns from the first large block that is freed to keep the like of it for later, and what was
    needed for loading alone would stay with the process. Afterwards it may keep blocks again: each text needs the same.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # not glibc
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, 128 * 1024)
    try:
        yield
    finally:
        libc.malloc_trim(0)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES_MAX)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class Logits:
    """What a model says of one text of t tokens and n n-grams: of each token, of each n-gram, and in all."""

    tokens: NDArray[np.float32]  # (t, labels)
    ngrams: NDArray[np.float32]  # (n, labels)
    labels: NDArray[np.float32]  # (labels,)


class Session:
    """A loaded model: `input_ids`, `attention_mask` (1, t) and `ngrams` (n,) in; `Logits` out, in their order."""

    def __init__(self, take: Callable[[], bytes]) -> None:
        """take: gives the model's bytes, and no one keeps them: ONNX Runtime makes two copies of its own while loading.

        Errors: whatever ONNX Runtime raises for bytes that are no model; the caller names the folder.
        """
        if _IMPORTED_BEFORE:
            log.warning(
                "onnxruntime was imported before Tidegate and without %s=1: its telemetry may write under your "
                "home folder; set %s=1 in the environment of this program",
                _OPT_OUT,
                _OPT_OUT,
            )
        # Imported here and not at the top: a flow without a model then never pays for it.
        runtime: Any = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False  # lengths vary from text to text; the arena would only grow
        options.log_severity_level = 3
        # The verified bytes go through a file in memory, not by the path: the file there may have changed meanwhile.
        with os.fdopen(os.memfd_create("model"), "wb") as file:
            file.write(take())
            file.flush()
            path = f"/proc/self/fd/{file.fileno()}"
            with _large_blocks_apart():
                self._session: Any = runtime.InferenceSession(
                    path, options, providers=["CPUExecutionProvider"], disabled_optimizers=[_SLOWER]
                )
        self.labels = int(self._session.get_outputs()[-1].shape[-1])

    def run(self, ids: list[int], places: NDArray[np.int64]) -> Logits:
        """One text: its t token ids, and the places of its n n-grams.

        Never a batch: with dynamic int8 the scale of the activations is per tensor, so that neighbours would
        change a text's answer.
        """
        row = np.asarray([ids], dtype=np.int64)  # (1, t)
        given = {"input_ids": row, "attention_mask": np.ones_like(row), "ngrams": places}
        return Logits(*self._session.run(None, given))
