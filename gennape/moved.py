"""Modules that documentation named by another path: they are found there until the next minor version, with a warning.

The finder is asked last, so that it costs nothing where an import succeeds without it.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.util import spec_from_loader
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from importlib.machinery import ModuleSpec
    from types import ModuleType

#: Paths below ``gennape``, before and now.
MOVED = {
    "platform.config": "platform.search.config",
    "platform.http_bodies": "platform.serving.http.schemas",
    "platform.islands": "platform.search.islands",
    "platform.tracking_models": "platform.tracking.registration",
    "predictors.checkpoint": "predictors.model.checkpoint",
    "predictors.latency": "predictors.model.latency",
    "search_spaces.builder": "search_spaces.graphs.builder",
    "search_spaces.cost": "search_spaces.graphs.cost",
    "search_spaces.graph": "search_spaces.graphs.graph",
    "search_spaces.module": "search_spaces.graphs.module",
    "search_spaces.onnx_export": "search_spaces.exporting.onnx",
    "search_spaces.onnx_import": "search_spaces.importing.onnx",
    "search_spaces.parquet": "search_spaces.graphs.parquet",
    "search_spaces.pt2_import": "search_spaces.importing.pt2",
    "search_spaces.space": "search_spaces.families.space",
    "search_spaces.testing": "search_spaces.families.testing",
    "search_spaces.torch_import": "search_spaces.importing.torch",
}
_NOW = {f"gennape.{before}": f"gennape.{now}" for before, now in MOVED.items()}


class MovedFinder:
    """Finds a module by its former path."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002
        """Of a path in :data:`MOVED`, else None."""
        return spec_from_loader(name, self) if name in _NOW else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module itself, so that its classes are the same by either path."""
        now = _NOW[spec.name]
        warnings.warn(f"{spec.name} is now {now}", DeprecationWarning, stacklevel=2)
        module = import_module(now)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run already, and keeps its own name."""
        module.__spec__ = self._spec


def install() -> None:
    """Ask for former paths after everything else."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())


def former_names(module: str, now: str, names: Collection[str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module whose documented ``names`` are in the module ``now``; each gives a warning."""

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {now}.{name}", DeprecationWarning, stacklevel=2)
        return getattr(import_module(now), name)

    return get
