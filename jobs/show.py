"""``gennape show``: a network as a picture and in a few lines, or the sizes of families' networks as a plot."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.errors import ConfigError
from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.network import Network, chosen_network
from gennape.jobs.shared.network_files import Shape, holds_network, refuse_file
from gennape.jobs.shared.own_code import space_option, typed
from gennape.jobs.shared.parts_of_spaces import FixedGenes, SubspaceFile, part
from gennape.jobs.shared.visible_text import visible
from gennape.notebook import MAX_PLAIN_NODES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from jaxtyping import Int64


@one_document
def show(
    arch: Annotated[
        str | None,
        typer.Argument(
            metavar="[ARCH]",
            help="An architecture of --space, as JSON or as its benchmark writes it, or a file (.onnx, .pt2).",
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Picture to write: .svg, .png, .pdf, or for a network .dot.")] = None,
    space: Annotated[
        list[str] | None,
        space_option("Search space of ARCH. With --sample it may be repeated."),
    ] = None,
    architecture: Annotated[str | None, typer.Option(help="The same as ARCH, spelled as in `gennape export`.")] = None,
    run: Annotated[
        str | None, typer.Option(help="Run whose front holds the network: its name, or the beginning of it.")
    ] = None,
    index: Annotated[int | None, typer.Option(help="Index of the network in the front, as in front.csv.")] = None,
    onnx: Annotated[Path | None, typer.Option(help="An ONNX file or a PyTorch program (.pt2).")] = None,
    shape: Shape = None,
    fold: Annotated[
        bool | None,
        typer.Option(
            "--fold/--no-fold",
            help="Draw convolution, normalisation and activation as one box, and repeated blocks once.",
            show_default=f"fold above {MAX_PLAIN_NODES} nodes",
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Use the published TensorFlow network where it differs.")
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Sample this many networks of each --space and plot their sizes."),
    ] = None,
    fix: FixedGenes = None,
    subspace: SubspaceFile = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of --sample.")] = 0,
    workspace: Annotated[
        Path | None,
        typer.Option(
            help="Workspace: the folder that holds all runs.", show_default="$GENNAPE_WORKSPACE or ./gennape-workspace"
        ),
    ] = None,
) -> Result:
    """Summarise a network, or the sizes of a search space's networks. Draw a picture with --to."""
    if arch is not None and holds_network(arch):
        if onnx is not None:
            raise ConfigError(f"name one network, got {arch} and {onnx}")
        onnx, arch = Path(arch), None
    named = [str(value) for value in (arch, architecture, onnx) if value is not None]
    if sample is not None:
        if named or run is not None or index is not None or published:
            raise ConfigError("--sample plots whole search spaces: give it with --space only, no network beside it")
        return _show_sizes(space or [], sample, seed, to, fix, subspace)
    if fix or subspace:
        raise ConfigError("--fix and --subspace keep to a part of a search space: give --sample with --space")
    if len(named) > 1 or len(space or []) > 1:
        raise ConfigError(f"name one network, got {', '.join([*named, *(space or [])])}")
    if arch is not None:
        refuse_file(arch)
        if not space:
            raise ConfigError(f"{arch[:200]!r} is no file; if it is an architecture, give its family with --space")
    network = chosen_network(
        run=run,
        index=index,
        space=space[0] if space else None,
        architecture=architecture if arch is None else arch,
        onnx=onnx,
        workspace=workspace,
        published=published,
        shape=shape,
    )
    extras = ["--published"] * published + (["--workspace", str(workspace)] if workspace else [])
    return _show_network(network, to, fold, extras)


def _show_network(network: Network, to: Path | None, fold: bool | None, extras: list[str]) -> Result:
    """Draw a network if asked to, then say what it is."""
    from gennape.search_spaces.drawing.summary import summary
    from gennape.search_spaces.graphs.cost import macs, params
    from gennape.search_spaces.graphs.graph import pack

    lines = [network.title, summary(network.graph), ""]
    if to is None:
        lines.append(f"Draw it: {_again(*network.options, *extras, '--to', 'graph.svg')}")
    else:
        n_boxes = _draw(network, to, network.graph.n_nodes > MAX_PLAIN_NODES if fold is None else fold)
        folded = "" if n_boxes == network.graph.n_nodes else f", {n_boxes} boxes; --no-fold draws every node"
        lines.append(f"Picture written to {to}{folded}")
    typer.echo(visible("\n".join(lines)))
    packed = pack([network.graph])
    n_macs = int(macs(packed)[0])
    return Result(
        {
            "name": network.name,
            "architecture": network.document,
            "nodes": network.graph.n_nodes,
            "flops": 2 * n_macs,
            "macs": n_macs,
            "params": int(params(packed)[0]),
            "picture": to,
        }
    )


def _draw(network: Network, to: Path, fold: bool) -> int:
    """Write the picture; returns its number of boxes."""
    from gennape.search_spaces.drawing.diagram import plain_diagram
    from gennape.search_spaces.drawing.files import WRITERS, check_suffix, draw
    from gennape.search_spaces.drawing.folding import folded_diagram
    from gennape.search_spaces.drawing.summary import cost_line

    check_suffix(to, WRITERS)
    diagram = (folded_diagram if fold else plain_diagram)(network.graph)
    draw(diagram, f"{network.name}: {cost_line(network.graph)}", to)
    return len(diagram.boxes)


def _show_sizes(
    spaces: Sequence[str],
    sample: int,
    seed: int,
    to: Path | None,
    fix: Sequence[str] | None = None,
    subspace: str | None = None,
) -> Result:
    """Sample every search space from the same seed; say what was found and plot it if asked to."""
    import numpy as np

    from gennape.search_spaces.drawing.files import check_suffix
    from gennape.search_spaces.drawing.sizes import SIZES_SUFFIXES, describe_sizes, draw_sizes, sample_sizes
    from gennape.search_spaces.families.registry import family

    if not spaces:
        raise ConfigError("--sample needs a search space: give --space, several times to compare")
    found = [part(family(name), fix, subspace) for name in dict.fromkeys(spaces)]
    if to is not None:
        check_suffix(to, SIZES_SUFFIXES)
    sizes = [sample_sizes(one, sample, np.random.default_rng(seed)) for one in found]
    typer.echo(f"Median and range of {sample:,} sampled networks")
    for one in sizes:
        typer.echo(describe_sizes(one))
    if to is None:
        options = [word for name in spaces for word in ("--space", typed(name))]
        options += [word for one in fix or () for word in ("--fix", one)]
        options += ["--subspace", subspace] if subspace else []
        again = _again(*options, "--sample", str(sample), "--seed", str(seed), "--to", "sizes.svg")
        typer.echo(f"\nPlot them: {again}")
    else:
        draw_sizes(sizes, to)
        typer.echo(f"\nPlot written to {to}")
    ends = {one.name: {"params": _span(one.params), "macs": _span(one.macs)} for one in sizes}
    return Result({"sample": sample, "seed": seed, "sizes": ends, "picture": to})


def _span(values: Int64[np.ndarray, " n"]) -> dict[str, float]:
    """Median and range."""
    ordered = sorted(values.tolist())
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return {"min": ordered[0], "median": middle, "max": ordered[-1]}


def _again(*words: str) -> str:
    """A command to be copied."""
    return shlex.join(["gennape", "show", *words])
