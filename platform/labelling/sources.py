"""Which architectures to label: a sample, those that tell most, the front of a search, or those of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gennape.errors import ConfigError, InvalidArchitectureError, InvalidDataError
from gennape.platform.search.run_report import read_front
from gennape.platform.search.runs import config_of, find_run
from gennape.predictors.few_shot.active_selection import MAX_NETWORKS
from gennape.predictors.model.checkpoint import load_checkpoint
from gennape.predictors.model.fuzzy_ensemble import FuzzyEnsemble
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.labels.architectures import read_architectures

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Int64

    from gennape.search_spaces.families.space import SearchSpace


def sampled(space: SearchSpace, n: int, seed: int) -> Int64[np.ndarray, "n g"]:
    """``n`` different networks as the family samples them; of one seed, fewer are the first of more.

    Raises :class:`ConfigError` where the family has not so many.
    """
    rng = np.random.default_rng(seed)
    genomes = np.zeros((0, len(space.genes)), np.int64)
    for _ in range(100):
        # As many at a time whatever n is, so that the first are the same.
        genomes = np.concatenate([genomes, space.sample(rng, 256)])
        hashes = np.array(canonical_hashes(space.graphs(genomes)))
        genomes = genomes[np.sort(np.unique(hashes, return_index=True)[1])]
        if len(genomes) >= n:
            return genomes[:n]
    raise ConfigError(f"{len(genomes)} different networks of {space.name} were found, fewer than {n}; sample fewer")


def most_informative(
    space: SearchSpace, n: int, among: int, seed: int, checkpoint: Path | None
) -> Int64[np.ndarray, "n g"]:
    """The ``n`` networks, of ``among`` sampled ones, whose labels are most informative, the best first."""
    if not n <= among <= MAX_NETWORKS:
        raise ConfigError(f"--among is {among}; must be from --sample, {n}, to {MAX_NETWORKS}")
    predictor = load_checkpoint(checkpoint)
    if not isinstance(predictor, FuzzyEnsemble):
        raise ConfigError("this checkpoint cannot choose networks; leave --among out, or give one that `fit` made")
    genomes = sampled(space, among, seed)
    return genomes[predictor.select_informative(space.graphs(genomes), n)]


def family_of(workspace: Path, run: str) -> SearchSpace:
    """What a search searched."""
    return family(config_of(find_run(workspace, run)).space)


def front_of(workspace: Path, run: str) -> tuple[SearchSpace, Int64[np.ndarray, "n g"]]:
    """The family and the networks of a search's front."""
    folder, space = find_run(workspace, run), family_of(workspace, run)
    points = read_front(folder)
    if not points:
        raise ConfigError(f"the front of {folder.name} is empty; search with more evaluations")
    return space, _decoded(space, [(f"{folder.name}, point {p['index']}", p["architecture"]) for p in points])


def architectures_in(path: Path, space: SearchSpace) -> Int64[np.ndarray, "n g"]:
    """The networks of a file: a table (CSV, Parquet) with a column of architectures, or JSON, a list of them.

    Raises :class:`InvalidDataError` with the first one that the family does not have.
    """
    genomes = [found.genome for found in read_architectures(path, space)]
    if not genomes:
        raise InvalidDataError(f"{path} holds no architectures")
    return np.stack(genomes)


def _decoded(space: SearchSpace, listed: Sequence[tuple[str, Any]]) -> Int64[np.ndarray, "n g"]:
    genomes = []
    for where, architecture in listed:
        try:
            genomes.append(space.decode(architecture))
        except InvalidArchitectureError as error:
            raise InvalidDataError(f"{where}: {error}") from error
    return np.stack(genomes)
