"""Which architectures to label: a sample, those that tell most, the front of a search, or those of a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from gennape.errors import ConfigError, InvalidArchitectureError, InvalidDataError
from gennape.platform.runs import REPORT, config_of, find_run, read_json
from gennape.predictors.checkpoint import load_checkpoint
from gennape.predictors.choosing import MOST_NETWORKS
from gennape.predictors.fuzzy_ensemble import FuzzyEnsemble
from gennape.search_spaces.benchmarks.table import ARCHITECTURE
from gennape.search_spaces.bounded import bounded, open_bounded
from gennape.search_spaces.canonical import canonical_hashes
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.labelled import architecture_of
from gennape.search_spaces.parquet_pages import UNREADABLE, read_batches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Int64

    from gennape.search_spaces.space import SearchSpace

_MOST_TABLE = 2**28  # bytes of a table of architectures


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


def telling(space: SearchSpace, n: int, among: int, seed: int, checkpoint: Path | None) -> Int64[np.ndarray, "n g"]:
    """Of ``among`` sampled networks the ``n`` whose labels tell a predictor most about the others, those first."""
    if not n <= among <= MOST_NETWORKS:
        raise ConfigError(f"--among is {among}; must be from --sample, {n}, to {MOST_NETWORKS}")
    predictor = load_checkpoint(checkpoint)
    if not isinstance(predictor, FuzzyEnsemble):
        raise ConfigError("this checkpoint cannot choose networks; leave --among out, or give one that `fit` made")
    genomes = sampled(space, among, seed)
    return genomes[predictor.choose(space.graphs(genomes), n)]


def family_of(workspace: Path, run: str) -> SearchSpace:
    """What a search searched."""
    return family(config_of(find_run(workspace, run)).space)


def front_of(workspace: Path, run: str) -> tuple[SearchSpace, Int64[np.ndarray, "n g"]]:
    """The family and the networks of a search's front."""
    folder, space = find_run(workspace, run), family_of(workspace, run)
    points = read_json(folder / REPORT / "front.json")["points"]
    if not points:
        raise ConfigError(f"the front of {folder.name} is empty; search with more evaluations")
    return space, _decoded(space, [(f"{folder.name}, point {p['index']}", p["architecture"]) for p in points])


def architectures_in(path: Path, space: SearchSpace) -> Int64[np.ndarray, "n g"]:
    """The networks of a file: a table (CSV, Parquet) with a column of architectures, or JSON, a list of them.

    Raises :class:`InvalidDataError` with the first one that the family does not have.
    """
    try:
        if path.suffix == ".json":
            listed = json.loads(path.read_bytes())
            if not isinstance(listed, list):
                raise InvalidDataError(f"{path} holds no list; architectures in JSON are a list of them")
        else:
            table = _parquet(path) if path.suffix == ".parquet" else _csv(path)
            column = next((name for name in ARCHITECTURE if name in table.columns), None)
            if column is None:
                raise InvalidDataError(f"{path} has no column {ARCHITECTURE[0]!r}, but {list(table.columns)[:10]}")
            listed = [architecture_of(text) for text in table[column]]
    except (*UNREADABLE, ValueError, RecursionError, OverflowError) as error:
        raise InvalidDataError(
            f"cannot read {path}: {error}; give a table (.csv, .parquet) with a column architecture, or .json"
        ) from error
    if not listed:
        raise InvalidDataError(f"{path} holds no architectures")
    return _decoded(space, [(f"{path}, row {row}", each) for row, each in enumerate(listed, 1)])


def _parquet(path: Path) -> pd.DataFrame:
    with pq.ParquetFile(path) as file:
        table = pa.Table.from_batches(read_batches(path, file), file.schema_arrow)
    table.validate(full=True)  # texts may be none
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
    return frame


def _csv(path: Path) -> pd.DataFrame:
    with open_bounded(path) as stream:
        return pd.read_csv(bounded(stream, str(path), _MOST_TABLE), dtype=str)


def _decoded(space: SearchSpace, listed: Sequence[tuple[str, Any]]) -> Int64[np.ndarray, "n g"]:
    genomes = []
    for where, architecture in listed:
        try:
            genomes.append(space.decode(architecture))
        except InvalidArchitectureError as error:
            raise InvalidDataError(f"{where}: {error}") from error
    return np.stack(genomes)
