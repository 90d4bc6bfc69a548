"""Networks that a user gives a search to begin with: read, checked, stored with the run, and dealt to the islands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gennape.errors import ConfigError, InvalidArchitectureError, InvalidDataError
from gennape.platform.search.run_report import read_front
from gennape.platform.search.runs import config_of, find_run
from gennape.search_spaces.files.nearby import missing
from gennape.search_spaces.labels.architectures import ARCHITECTURE_SUFFIXES, holds_architectures, read_architectures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int64

    from gennape.platform.search.settings import SearchConfig
    from gennape.search_spaces.families.space import SearchSpace

#: They are stored with the settings of the run.
MAX_STARTS = 10_000
_SHOWN = 5


def read_starts(what: str | Path | Sequence[Any], space: SearchSpace, workspace: Path) -> tuple[str, ...]:
    """The architectures of a list, of a file, or of the front of a run in ``workspace``, as JSON; each once, in order.

    Raises :class:`InvalidDataError`, which names rows, for architectures that the space, or its part, does not hold;
    :class:`ConfigError` for a run of another space; :class:`WorkspaceError` for the name of no run.
    """
    rejected: list[str] = []
    if not isinstance(what, str | Path):
        genomes = _of_list([(f"architecture {i}", one) for i, one in enumerate(what)], space, rejected)
        what = "the list"
    elif Path(what).exists():
        genomes = _of_file(Path(what), space, rejected)
    else:
        genomes = _of_run(str(what), space, workspace, rejected)
    if rejected:
        more = f" (and {len(rejected) - _SHOWN} more)" if len(rejected) > _SHOWN else ""
        raise InvalidDataError(
            f"{what} holds architectures that {space.name} has not, {len(rejected)} in all: "
            f"{'; '.join(rejected[:_SHOWN])}{more}. Remove them, or name their search space"
        )
    texts = tuple(dict.fromkeys(json.dumps(space.encode(genome)) for genome in genomes))
    if not texts:
        raise InvalidDataError(f"{what} holds no architectures to start with")
    if len(texts) > MAX_STARTS:
        raise InvalidDataError(
            f"{what} holds {len(texts):,} architectures; a search starts with {MAX_STARTS:,} at most"
        )
    return texts


def _of_file(path: Path, space: SearchSpace, rejected: list[str]) -> list[Int64[np.ndarray, " g"]]:
    if not path.is_file() or not holds_architectures(path):
        raise InvalidDataError(f"{path} is no file of architectures; those end in {', '.join(ARCHITECTURE_SUFFIXES)}")
    return [found.genome for found in read_architectures(path, space, rejected.append)]


def _of_run(name: str, space: SearchSpace, workspace: Path, rejected: list[str]) -> list[Int64[np.ndarray, " g"]]:
    if holds_architectures(Path(name)):
        raise InvalidDataError(missing(Path(name)))
    folder = find_run(workspace, name)
    if (found := config_of(folder).space) != space.name:
        raise ConfigError(f"{folder.name} is a search of {found}; its front cannot start one of {space.name}")
    points = [(f"{folder.name}, index {point['index']}", point["architecture"]) for point in read_front(folder)]
    return _of_list(points, space, rejected)


def _of_list(
    listed: Sequence[tuple[str, Any]], space: SearchSpace, rejected: list[str]
) -> list[Int64[np.ndarray, " g"]]:
    genomes = []
    for where, architecture in listed:
        try:
            genomes.append(space.decode(architecture))
        except InvalidArchitectureError as error:
            rejected.append(f"{where}: {error}")
    return genomes


def given_genomes(config: SearchConfig, space: SearchSpace, island: int) -> Int64[np.ndarray, "n g"]:
    """Those of the given networks that an island starts with: they are dealt out in turn."""
    mine = config.starts[island :: config.islands]
    genomes = [space.decode(json.loads(text)) for text in mine]
    return np.stack(genomes) if genomes else np.zeros((0, len(space.genes)), np.int64)
