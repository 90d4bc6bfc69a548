"""Writing one network as a file: ONNX, a PyTorch program, or a Python file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gennape.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from gennape.search_spaces.graphs.graph import ComputationGraph

SUFFIXES = (".onnx", ".pt2", ".py")


def export_graph(graph: ComputationGraph, path: Path, seed: int) -> None:
    """Write the network of ``graph`` in the format that the suffix of ``path`` names, replacing an existing file.

    ``.onnx`` and ``.pt2`` hold untrained weights drawn from ``seed``; ``.py`` defines the network without weights.
    Raises :class:`ConfigError` for another suffix, :class:`WorkspaceError` where ``path`` cannot be written.
    """
    refuse_unknown_suffix(path)
    import numpy as np

    from gennape.search_spaces.exporting.onnx import to_onnx, to_pt2, to_python
    from gennape.search_spaces.graphs.module import compile_graph, initialise

    suffix = path.suffix.lower()
    if suffix == ".py":
        to_python(graph, path)
        return
    module = compile_graph(graph).eval()
    initialise(module, np.random.default_rng(seed))
    write = {".onnx": to_onnx, ".pt2": to_pt2}[suffix]
    write(graph, module, path)


def refuse_unknown_suffix(path: Path) -> None:
    """Raise :class:`ConfigError` for a file that :func:`export_graph` would not write."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"cannot export to {path.name!r}: its suffix must be one of {', '.join(SUFFIXES)}")
