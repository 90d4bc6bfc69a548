"""``gennape compare``: the fronts of several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.text_table import text_table
from gennape.jobs.shared.tracked import Workspace

_HEAD = ("RUN", "NETWORKS", "HYPERVOLUME", "SURVIVE", "SHARE")


@one_document
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Two or more runs: names, or the beginnings of them.", show_default=False
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(help="Folder to write compare.html and compare.png to.", show_default="no plot"),
    ] = None,
    workspace: Workspace = None,
) -> Result:
    """Compare the fronts of runs of one search space.

    Prints hypervolumes from one reference point, and what survives of each front in the union of all.
    """
    from gennape.platform.search.comparison import compare_runs
    from gennape.platform.search.front_page import readable
    from gennape.platform.search.run_report import caution
    from gennape.platform.search.runs import find_run
    from gennape.platform.workspace.files import find_workspace

    root = find_workspace(workspace)
    folders = [find_run(root, name) for name in runs]
    found = compare_runs(folders)
    for note in filter(None, map(caution, folders)):
        typer.echo(note, err=True)
    rows = [
        (run.name, str(len(run.front)), f"{run.hypervolume:.6g}", str(int(run.survives.sum())), f"{run.share:.0%}")
        for run in found.runs
    ]
    typer.echo(text_table(_HEAD, rows, frozenset(_HEAD[1:])), nl=False)
    point = ", ".join(readable(name, value) for name, value in found.reference.items())
    typer.echo(f"{found.space}, {','.join(map(str, found.objectives))}; hypervolume from {point}")
    files: list[Path] = []
    if to is not None:
        from gennape.platform.search.comparison_plot import write_comparison

        files = write_comparison(to, found)
        typer.echo("".join(f"plot      {path}\n" for path in files), nl=False)
    return Result(
        {
            "space": found.space,
            "scale": found.scale,
            "objectives": [str(objective) for objective in found.objectives],
            "reference": found.reference,
            "runs": [
                {
                    "run": run.name,
                    "networks": len(run.front),
                    "hypervolume": run.hypervolume,
                    "survivors": run.front["index"][run.survives].tolist(),
                    "share": run.share,
                }
                for run in found.runs
            ],
            "files": files,
        }
    )
