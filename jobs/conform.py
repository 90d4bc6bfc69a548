"""``gennape conform DIR``: check the families against files of measured networks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.errors import InvalidDataError
from gennape.jobs.shared.json_output import Result, one_document

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


@one_document
def conform(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of `SPACE.jsonl` files.", show_default=False)
    ],
) -> Result:
    """Check that search spaces build exactly the networks that were measured.

    Compares parameters, MACs, layers, shapes and logits.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from gennape.search_spaces.families.conformance import fixture_files, space_of

    out, progress_out = Console(highlight=False, markup=False, soft_wrap=True), Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(
        *columns,
        console=progress_out,
        transient=True,
        disable=not progress_out.is_terminal,
        redirect_stdout=out.is_terminal,  # else the lines of a redirected stdout would end up beside the bar
    )
    counts: dict[str, dict[str, int]] = {}
    files = fixture_files(directory)
    with bar as progress:
        for path in files:
            if space_of(path) is None:
                out.print(f"{path.stem}: no such family here, not checked")
                continue
            passed, failed = _check_file(path, out, progress)
            counts[str(path)] = {"passed": passed, "failed": failed}
    unknown = len(files) - len(counts)
    if unknown:
        out.print(f"{unknown} {'file' if unknown == 1 else 'files'} not checked")
    if not counts:
        raise InvalidDataError(f"no family was checked: {directory} holds no file named after a family of this project")
    passed, failed = (sum(count[what] for count in counts.values()) for what in ("passed", "failed"))
    out.print(f"{passed} passed, {failed} failed")
    return Result({"passed": passed, "failed": failed, "unchecked": unknown, "files": counts}, int(failed > 0))


def _check_file(path: Path, out: Console, progress: Progress) -> tuple[int, int]:
    """Check one file, print its failing rows and its line; returns (passed, failed)."""
    from gennape.search_spaces.families.conformance import check_row, read_rows, space_of

    space = space_of(path)
    if space is None:
        raise InvalidDataError(f"{path.name} is not named after a family of this project")
    start = time.perf_counter()
    rows = read_rows(path)
    failed = 0
    for row in progress.track(rows, description=space.name):
        if differences := check_row(space, row):
            failed += 1
            out.print(f"FAILED {space.name} {row.identity}: {'; '.join(differences)}")
    seconds = time.perf_counter() - start
    passed = len(rows) - failed
    what = f"{space.name} {path.parent.name}" if path.parent.name == "graphs" else space.name
    out.print(f"{what}: {len(rows)} rows, {passed} passed, {failed} failed, {seconds:.1f} s")
    return passed, failed
