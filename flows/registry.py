"""Finding a flow: the ones that ship, or a user's own Python file."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from operators.domain import Domain
from schemas.errors import UsageError
from schemas.settings import Settings

SHIPPED = {"ward": "flows.ward"}


def _module(name: str) -> ModuleType:
    if name in SHIPPED:
        return importlib.import_module(SHIPPED[name])
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(
            f"there is no flow called {name}: give one of {', '.join(SHIPPED)}, or a Python file that has flow()"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_flow(name: str, settings: Settings) -> Domain:
    """The flow called `name` (shipped) or in the file `name`, under `settings`. Errors: UsageError."""
    build: Callable[[Settings], Domain] | None = getattr(_module(name), "flow", None)
    if build is None:
        raise UsageError(
            f"the file {name} has no function flow(settings): add one that returns an operators.domain.Domain"
        )
    return build(settings)
