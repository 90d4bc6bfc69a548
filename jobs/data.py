"""``gennape data``: where labelled benchmarks come from, fetch one, check a file of labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.own_code import space_option

if TYPE_CHECKING:
    from rich.console import Console

    from gennape.search_spaces.families.space import SearchSpace
    from gennape.search_spaces.labels.download import Progress
    from gennape.search_spaces.labels.labelled import LabelledArchitectures, Reader

#: Bad rows that are shown; all are counted.
SHOWN = 5


class Action(StrEnum):
    """What to do."""

    LIST = "list"
    FETCH = "fetch"
    CHECK = "check"


#: The options of each.
TAKES = {Action.LIST: (), Action.FETCH: ("--to", "--sha256"), Action.CHECK: ("--space", "--column")}


@one_document
def data(
    action: Annotated[
        Action, typer.Argument(help="What to do: list the benchmarks, fetch one, or check a file.")
    ] = Action.LIST,
    subject: Annotated[
        str | None, typer.Argument(help="For fetch, a key of the list or a URL. For check, the file.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="For fetch: file to write.", show_default="its own name, in this folder")
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="For fetch: the expected SHA-256 of the file.")] = None,
    space: Annotated[str | None, space_option("For check: the search space of the architectures.")] = None,
    column: Annotated[str | None, typer.Option(help="For check: the column of the labels.")] = None,
) -> Result:
    """List labelled benchmarks, download one, or check the rows of any labelled file."""
    from rich.console import Console

    from gennape.errors import ConfigError

    out = Console(highlight=False, markup=False, soft_wrap=True)
    _refuse_others(action, {"--to": to, "--sha256": sha256, "--space": space, "--column": column})
    if action is not Action.LIST and subject is None:
        raise ConfigError(f"`gennape data {action}` needs {'a key or URL' if action is Action.FETCH else 'a file'}")
    name = subject or ""
    run = {
        Action.LIST: lambda: _list(out),
        Action.FETCH: lambda: _fetch(out, name, to, sha256),
        Action.CHECK: lambda: _check(out, Path(name), space, column),
    }
    return run[action]()


def _refuse_others(action: Action, given: dict[str, object]) -> None:
    """Refuse options of other actions: a sum that nobody compares must not pass for one that agreed."""
    from gennape.errors import ConfigError

    foreign = [name for name, value in given.items() if value is not None and name not in TAKES[action]]
    if foreign:
        raise ConfigError(f"`gennape data {action}` takes no {' and no '.join(foreign)}; leave it out")


# List -----------------------------------------------------------------------------------------------------------------


def _list(out: Console) -> Result:
    from gennape.search_spaces.labels.catalogue import SOURCES
    from gennape.search_spaces.labels.labels import READERS

    for source in SOURCES:
        out.print(f"{source.key}: {source.what}")
        out.print(f"    file      {source.file}, {source.size}")
        out.print(f"    families  {source.families}")
        out.print(f"    from      {source.page}")
        out.print(f"    fetch     {f'gennape data fetch {source.key}' if source.url else 'by hand, from that page'}")
        out.print(f"    SHA-256   {source.sha256 or 'unknown'}")
        out.print(f"    licence   {source.licence}")
    out.print("\nFormats that are read:")
    for reader in READERS:
        out.print(f"    {reader.name}: {reader.reads}")
    formats = [{"name": reader.name, "reads": reader.reads} for reader in READERS]
    return Result({"benchmarks": [asdict(source) for source in SOURCES], "formats": formats})


# Fetch ----------------------------------------------------------------------------------------------------------------


def _fetch(out: Console, name: str, to: Path | None, sha256: str | None) -> Result:
    from gennape.errors import ConfigError
    from gennape.platform.workspace.hints import command
    from gennape.search_spaces.labels.catalogue import source
    from gennape.search_spaces.labels.download import fetch, sha256_of

    url, expected, file = name, sha256, PurePosixPath(urlsplit(name).path).name
    if "://" not in name:
        known = source(name)
        if not known.url:
            raise ConfigError(
                f"{known.file} lies behind a web page: open {known.page} in a browser, save it, "
                f"then try it with `{command('data', 'check', known.file)}`"
            )
        url, expected, file = known.url, sha256 or known.sha256, known.file
    if to is None and not file:
        raise ConfigError(f"{url} names no file; choose one with --to")
    path = to or Path(file)
    with _bytes_bar(f"Fetching {path.name}") as progress:
        fetched = fetch(url, path, expected or None, progress)
    state = "fetched" if fetched else "is there already"
    comparison = "as expected" if expected else "nothing known to compare it with"
    found = expected or sha256_of(path)
    out.print(f"{path} {state}\nSHA-256 {found}, {comparison}")
    return Result({"file": path, "fetched": bool(fetched), "sha256": found, "compared": bool(expected)})


@contextmanager
def _bytes_bar(what: str) -> Iterator[Progress]:
    """A bar on stderr in bytes and bytes a second."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# Check ----------------------------------------------------------------------------------------------------------------


def _check(out: Console, path: Path, family: str | None, column: str | None) -> Result:
    from gennape.search_spaces.labels.catalogue import SOURCES
    from gennape.search_spaces.labels.download import check_sha256
    from gennape.search_spaces.labels.labels import label_blocks, reader_of

    reader = reader_of(path)
    space = _space(reader, path, family)
    out.print(f"{path}: {reader.name}, read as {space.name}")
    for source in SOURCES:
        if source.file == path.name and source.sha256:
            check_sha256(path, source.sha256)
            out.print("SHA-256 as its project publishes it")
    rejected: list[str] = []
    count = _Count()
    for block in label_blocks(path, space, column, rejected.append):
        count.add(block)
    count.show(out, space)
    out.print(f"{len(rejected)} rejected")
    for reason in rejected[:SHOWN]:
        out.print(f"    {reason}")
    found = count.spread.contradictions()
    if count.spread.repeated:
        out.print(f"{count.spread.repeated} architectures have several labels that differ")
    if found:
        out.print(f"{len(found)} of them contradict themselves: their labels differ as those of different networks do")
    for one in found[:SHOWN]:
        out.print(f"    {one.lowest:.6g} to {one.highest:.6g}  {json.dumps(space.encode(one.genome))}")
    bad = bool(rejected or found or not count.rows)
    same = [{"lowest": one.lowest, "highest": one.highest, "architecture": space.encode(one.genome)} for one in found]
    return Result(
        {
            "file": path,
            "format": reader.name,
            "space": space.name,
            **count.document(),
            "rejected": rejected,
            "contradictions": same,
        },
        int(bad),
    )


def _space(reader: Reader, path: Path, family: str | None) -> SearchSpace:
    from gennape.errors import ConfigError
    from gennape.search_spaces.families.registry import family as family_named
    from gennape.search_spaces.labels.labels import families_of

    if family is not None:
        return family_named(family)
    possible = families_of(reader)
    if len(possible) != 1:
        raise ConfigError(f"{path}: name the family with --space, one of {', '.join(s.name for s in possible)}")
    return possible[0]


class _Count:
    """What the blocks of a file held, one of them being kept as a sample."""

    def __init__(self) -> None:
        from gennape.search_spaces.labels.contradictions import LabelSpread

        self.rows, self.lowest, self.highest = 0, float("inf"), float("-inf")
        self.spread = LabelSpread()
        self.first: LabelledArchitectures | None = None

    def add(self, block: LabelledArchitectures) -> None:
        import numpy as np

        self.first = self.first or block.take(np.arange(min(len(block.accuracy), 3)))
        self.rows += len(block.accuracy)
        self.spread.add(block)
        self.lowest = min(self.lowest, float(block.accuracy.min()))
        self.highest = max(self.highest, float(block.accuracy.max()))

    def document(self) -> dict[str, object]:
        return {
            "rows": self.rows,
            "architectures": self.spread.architectures,
            "column": None if self.first is None else self.first.column,
            "lowest": self.lowest,
            "highest": self.highest,
        }

    def show(self, out: Console, space: SearchSpace) -> None:
        if self.first is None:
            out.print("0 rows")
            return
        out.print(
            f"{self.rows} {'row' if self.rows == 1 else 'rows'} of {self.spread.architectures} different architectures"
        )
        out.print(f"{self.first.column} from {self.lowest:.6g} to {self.highest:.6g}")
        out.print(f"columns {', '.join(map(str, self.first.table.columns))}")
        for genome, label in zip(self.first.genomes, self.first.accuracy, strict=True):
            out.print(f"    {label:.6g}  {json.dumps(space.encode(genome))}")
