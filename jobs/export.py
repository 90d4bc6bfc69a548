"""``gennape export``: write one architecture as ONNX, as a PyTorch program, or as a Python file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.errors import ConfigError

if TYPE_CHECKING:
    from gennape.search_spaces.graph import ComputationGraph

SUFFIXES = (".onnx", ".pt2", ".py")


def export(
    to: Annotated[Path, typer.Option(help="File to write: .onnx, .pt2 (PyTorch program) or .py (PyTorch module).")],
    run: Annotated[
        str | None, typer.Option(help="Run whose front holds the network, by name or its beginning.")
    ] = None,
    index: Annotated[int | None, typer.Option(help="Which point of the front, as in front.csv.")] = None,
    space: Annotated[str | None, typer.Option(help="Instead of a run: the search space of --architecture.")] = None,
    architecture: Annotated[str | None, typer.Option(help="Instead of a run: an architecture as JSON.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the untrained weights.")] = 0,
    workspace: Annotated[
        Path | None, typer.Option(help="Where runs are.", show_default="$GENNAPE_WORKSPACE or ./gennape-workspace")
    ] = None,
) -> None:
    """Take a network home: a point of a run's front, or any architecture, as ONNX or PyTorch."""
    from gennape.search_spaces.families.registry import family

    if run is not None and index is not None and space is None and architecture is None:
        name, chosen = _point_of_front(workspace, run, index)
    elif space is not None and architecture is not None and run is None and index is None:
        name, chosen = space, _parse(architecture)
    else:
        raise ConfigError("name one network: either --run and --index, or --space and --architecture")
    found = family(name)
    export_graph(found.graph(found.decode(chosen)), to, seed)
    typer.echo(f"{name} network written to {to}: {json.dumps(chosen)}")


def _point_of_front(workspace: Path | None, run: str, index: int) -> tuple[str, object]:
    from gennape.platform.runs import REPORT, config_of, find_run, read_json
    from gennape.platform.workspace import open_workspace

    folder = find_run(open_workspace(workspace), run)
    points = {point["index"]: point["architecture"] for point in read_json(folder / REPORT / "front.json")["points"]}
    if index not in points:
        raise ConfigError(f"the front of {folder.name} has points {min(points)} to {max(points)}, got --index {index}")
    return config_of(folder).space, points[index]


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--architecture must be JSON, got {text!r}: {error}") from error


def export_graph(graph: ComputationGraph, path: Path, seed: int) -> None:
    """Write the network of ``graph`` in the format that the suffix of ``path`` names, replacing an existing file.

    ``.onnx`` and ``.pt2`` hold untrained weights drawn from ``seed``; ``.py`` defines the network without weights.
    Raises :class:`ConfigError` for another suffix, :class:`WorkspaceError` where ``path`` cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"cannot export to {path.name!r}: its suffix must be one of {', '.join(SUFFIXES)}")
    import numpy as np

    from gennape.search_spaces.module import compile_graph, initialise
    from gennape.search_spaces.onnx_export import to_onnx, to_pt2, to_python

    if path.suffix == ".py":
        to_python(graph, path)
        return
    module = compile_graph(graph).eval()
    initialise(module, np.random.default_rng(seed))
    write = {".onnx": to_onnx, ".pt2": to_pt2}[path.suffix]
    write(graph, module, path)
