"""``gennape export``: write one architecture as ONNX, as a PyTorch program, or as a Python file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.errors import ConfigError
from gennape.jobs.shared.network import chosen_network
from gennape.jobs.shared.network_files import Shape
from gennape.jobs.shared.own_code import space_option

if TYPE_CHECKING:
    from gennape.search_spaces.graphs.graph import ComputationGraph

SUFFIXES = (".onnx", ".pt2", ".py")


def export(
    to: Annotated[Path, typer.Option(help="File to write: .onnx, .pt2 (PyTorch program) or .py (PyTorch module).")],
    run: Annotated[
        str | None, typer.Option(help="Run whose front holds the network: its name, or the beginning of it.")
    ] = None,
    index: Annotated[int | None, typer.Option(help="Index of the network in the front, as in front.csv.")] = None,
    space: Annotated[str | None, space_option("Instead of --run: search space of --architecture.")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Instead of --run: an architecture, as JSON or as its benchmark writes it.")
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option(help="Instead of --run: an ONNX file or a PyTorch program (.pt2).")
    ] = None,
    shape: Shape = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the untrained weights.")] = 0,
    workspace: Annotated[
        Path | None,
        typer.Option(
            help="Workspace: the folder that holds all runs.", show_default="$GENNAPE_WORKSPACE or ./gennape-workspace"
        ),
    ] = None,
) -> None:
    """Write a network as ONNX or PyTorch.

    The network is one of a run's front, an architecture, or an ONNX file.
    """
    if onnx is not None and to.exists() and onnx.exists() and to.samefile(onnx):
        raise ConfigError(f"--to is the file of --onnx, {onnx}, whose weights would be lost; choose another one")
    network = chosen_network(
        run=run, index=index, space=space, architecture=architecture, onnx=onnx, workspace=workspace, shape=shape
    )
    export_graph(network.graph, to, seed)
    weights = "" if to.suffix.lower() == ".py" else f"\nuntrained weights, of seed {seed}"
    typer.echo(f"written to {to}: {network.title}{weights}")


def export_graph(graph: ComputationGraph, path: Path, seed: int) -> None:
    """Write the network of ``graph`` in the format that the suffix of ``path`` names, replacing an existing file.

    ``.onnx`` and ``.pt2`` hold untrained weights drawn from ``seed``; ``.py`` defines the network without weights.
    Raises :class:`ConfigError` for another suffix, :class:`WorkspaceError` where ``path`` cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"cannot export to {path.name!r}: its suffix must be one of {', '.join(SUFFIXES)}")
    import numpy as np

    from gennape.search_spaces.exporting.onnx import to_onnx, to_pt2, to_python
    from gennape.search_spaces.graphs.module import compile_graph, initialise

    if suffix == ".py":
        to_python(graph, path)
        return
    module = compile_graph(graph).eval()
    initialise(module, np.random.default_rng(seed))
    write = {".onnx": to_onnx, ".pt2": to_pt2}[suffix]
    write(graph, module, path)
