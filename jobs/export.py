"""``gennape export``: write one architecture as ONNX, as a PyTorch program, or as a Python file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gennape.errors import ConfigError
from gennape.jobs.shared.exporting import export_graph
from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.network import chosen_network
from gennape.jobs.shared.network_files import Shape
from gennape.jobs.shared.own_code import space_option


@one_document
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
) -> Result:
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
    seed_of = None if to.suffix.lower() == ".py" else seed
    return Result({"file": to, "name": network.name, "architecture": network.document, "seed": seed_of})
