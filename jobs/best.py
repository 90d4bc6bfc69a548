"""``gennape best``: the network of a run's front with the highest accuracy within limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gennape.jobs.shared.exporting import export_graph, refuse_unknown_suffix
from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.own_code import own_options, refuse_another_space, space_option
from gennape.jobs.shared.tracked import Workspace
from gennape.jobs.shared.visible_text import visible
from gennape.platform.workspace.hints import command

if TYPE_CHECKING:
    from collections.abc import Mapping


@one_document
def best(
    run: Annotated[str, typer.Option(help="Run to choose from: its name, the beginning of it, or `latest`.")],
    constraint: Annotated[
        list[str] | None,
        typer.Option(help="Limit of a measure, such as `flops<=600e6`. May be repeated.", show_default="none"),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Also write the network: .onnx, .pt2 (PyTorch program) or .py (PyTorch module).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the untrained weights of --export.")] = 0,
    space: Annotated[str | None, space_option("Search space of the run, if it is your own.")] = None,
    workspace: Workspace = None,
) -> Result:
    """Pick the most accurate network of a run's front within limits."""
    from gennape.platform.search.choice import best_point, measures_of
    from gennape.platform.search.limits import parse_limits
    from gennape.platform.search.run_report import caution, read_front
    from gennape.platform.search.runs import config_of, find_run
    from gennape.platform.workspace.files import find_workspace
    from gennape.search_spaces.families.registry import family

    if export is not None:
        refuse_unknown_suffix(export)
    folder = find_run(find_workspace(workspace), run)
    config = config_of(folder)
    name = config.space
    refuse_another_space(name, run, space)
    points = read_front(folder)
    measures = measures_of(points)
    limits = parse_limits(constraint or [], measures)
    chosen = best_point(points, limits)
    if note := caution(folder):
        typer.echo(note, err=True)
    if export is not None:
        found = family(name)
        export_graph(found.graph(found.decode(chosen["architecture"])), export, seed)
    _show(folder.name, chosen, measures)
    options = {"run": folder.name, "index": chosen["index"], "space": own_options(config).get("--space")}
    if export is None:
        typer.echo(f"take home {command('export', **options, workspace=workspace, to='model.onnx')}")
    else:
        weights = "" if export.suffix.lower() == ".py" else f", untrained weights of seed {seed}"
        typer.echo(f"written   {export}{weights}")
    limited = [str(limit) for limit in limits]
    return Result({"run": folder.name, "space": name, "constraints": limited, "best": chosen, "exported": export})


def _show(run: str, point: Mapping[str, Any], measures: tuple[str, ...]) -> None:
    from gennape.platform.search.front_page import readable

    typer.echo(f"index {point['index']} of the front of {run}")
    for name in measures:
        typer.echo(f"{name:<16}{'unknown' if point[name] is None else readable(name, float(point[name]))}")
    typer.echo(visible(f"{'architecture':<16}{json.dumps(point['architecture'])}"))
