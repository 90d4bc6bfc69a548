"""Everything that reads bytes of others: small valid files, how to damage them, and what must hold of any file.

A target's ``read`` may return, or raise a :class:`GennapeError`; whatever else it does is a finding.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import fuzz_seeds as seeds
import numpy as np
from fuzz_mutations import (
    Mutation,
    damage_bytes,
    damage_csv,
    damage_json,
    damage_onnx,
    damage_parquet,
    damage_pickle,
    record,
)

from gennape.errors import GennapeError
from gennape.predictors.model.checkpoint import load_checkpoint, provenance_of
from gennape.search_spaces.families.registry import FAMILIES
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.files.bounded import open_bounded
from gennape.search_spaces.files.restricted_pickle.reader import read_pickle
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import PackedGraphs, pack, validate
from gennape.search_spaces.graphs.parquet import read_graphs, read_notes
from gennape.search_spaces.graphs.spectrum import laplacian_spectra
from gennape.search_spaces.importing.onnx import import_onnx
from gennape.search_spaces.labels import labels
from gennape.search_spaces.labels.labelled import architecture_of


@dataclass(frozen=True, slots=True)
class FuzzTarget:
    """``file``, the name that a file of this format has; ``make`` gives contents; ``damage`` those of damaged ones."""

    name: str
    file: str
    make: Callable[[], list[bytes]]
    read: Callable[[Path], None]
    damage: Mutation = damage_bytes

    def seeds(self) -> list[bytes]:
        """Contents of small valid files."""
        return _made(self.make)

    def run(self, data: bytes, folder: Path) -> GennapeError | None:
        """Read ``data`` as a file in ``folder``; the error that it is refused with, if any."""
        path = folder / self.file
        path.write_bytes(data)
        try:
            self.read(path)
        except GennapeError as error:
            return error
        finally:
            path.unlink(missing_ok=True)
        return None


@cache
def _made(make: Callable[[], list[bytes]]) -> list[bytes]:
    return make()


# What must hold of what was read -----------------------------------------------------------------------------------


def _usable(graphs: PackedGraphs) -> None:
    """Graphs that were let in can be validated, counted, hashed and measured."""
    validate(graphs)
    assert (cost.macs(graphs) >= 0).all()
    assert (cost.params(graphs) >= 0).all()
    assert len(canonical_hashes(graphs)) == len(graphs)
    if len(graphs.nodes) < 500:
        assert np.isfinite(laplacian_spectra(graphs, 4)).all()


def _decode_all(path: Path) -> None:
    """The file's text as an architecture of every family; some refuse it, none may fail on it."""
    architecture = architecture_of(path.read_bytes().decode(errors="replace"))
    refused = []
    for space in FAMILIES:
        try:
            genome = space.decode(architecture)
        except GennapeError as error:
            refused.append(error)
            continue
        space.validate(genome[None])
        again = space.decode(json.loads(json.dumps(space.encode(genome), allow_nan=False)))
        assert np.array_equal(again, genome), f"{space.name}: {genome} became {again}"
    if len(refused) == len(FAMILIES):
        raise refused[0]


def _read_graphs(path: Path) -> None:
    read_notes(path)
    graphs, table = read_graphs(path)
    assert len(table) == len(graphs)
    _usable(graphs)


def _read_labels(path: Path) -> None:
    """As every family of the format, or some where it may be any; all refuse it, or none may fail on it."""
    reader = labels.reader_of(path)
    spaces = labels.families_of(reader)
    refused: list[GennapeError] = []
    for space in spaces if reader.families else _FEW:
        rejected: list[str] = []
        try:
            _check_labels(labels.read_labels(path, space, rejected=rejected.append), space)
        except GennapeError as error:
            refused.append(error)
        if rejected:  # the first bad row is an error where nobody listens
            with contextlib.suppress(GennapeError):
                labels.read_labels(path, space)
                raise AssertionError(f"{rejected[0]} was not raised")
    if len(refused) == len(spaces if reader.families else _FEW):
        raise refused[0]


_FEW = tuple(space for space in FAMILIES if space.name in ("nb101", "nb201", "hiaml"))


def _check_labels(found: labels.LabelledArchitectures, space: SearchSpace) -> None:
    space.validate(found.genomes)
    n = len(found.genomes)
    assert np.isfinite(found.accuracy).all()
    assert {len(found.accuracy), len(found.identity), len(found.sampled), len(found.picked), len(found.table)} == {n}
    assert len(labels.split(found)) == n


def _read_pickle(path: Path) -> None:
    with open_bounded(path) as stream:
        read_pickle(stream, str(path))


def _read_onnx(path: Path) -> None:
    found = import_onnx(path)
    _usable(pack([found.graph]))


def _one_record(path: Path) -> None:
    """The file's bytes as a record with the right sums, twice."""
    path.write_bytes(2 * record(path.read_bytes()))
    _read_labels(path)


def _checkpoint(path: Path) -> None:
    """The file as the description of a checkpoint without weights."""
    provenance_of(path.parent)
    load_checkpoint(path.parent)


def _description() -> list[bytes]:
    config = {"encoder": {}, "clusters": 3}
    fields = {"format": 1, "kind": "ensemble", "features": 1, "config": config, "target": None, "provenance": {}}
    return [json.dumps({**fields, "weights_sha256": "0" * 64}).encode()]


_LABELS = (
    ("labels-csv", "labels.csv", seeds.csv_tables, damage_csv),
    ("labels-compressed", "labels.csv.gz", seeds.compressed_files, damage_bytes),
    ("labels-parquet", "labels.parquet", seeds.parquet_tables, damage_parquet),
    ("nb101-file", "nasbench.tfrecord", seeds.nb101_files, damage_bytes),
    ("nb201-pickle", "nats.pickle.pbz2", seeds.nb201_pickles, damage_pickle),
    ("nb201-torch", "nb201.pth", seeds.nb201_torch_files, damage_pickle),
    ("nb201-tar", "nats.tar", seeds.nb201_archives, damage_bytes),
    ("nb301-run", "results_0.json", seeds.nb301_runs, damage_json),
    ("nb301-zip", "nb_301.zip", seeds.nb301_archives, damage_bytes),
    ("json-families", "gpi_test.json", seeds.json_families, damage_json),
    ("gennape-cache", "gpi_cache.pkl", seeds.gennape_caches, damage_pickle),
)
TARGETS = {
    target.name: target
    for target in (
        FuzzTarget("architecture", "architecture.json", seeds.architectures, _decode_all, damage_json),
        FuzzTarget("onnx", "model.onnx", seeds.onnx_models, _read_onnx, damage_onnx),
        FuzzTarget("parquet-graphs", "graphs.parquet", seeds.parquet_graphs, _read_graphs, damage_parquet),
        FuzzTarget("pickle", "value.pkl", seeds.nb201_pickles, _read_pickle, damage_pickle),
        FuzzTarget("nb101-record", "nasbench.tfrecord", seeds.nb101_records, _one_record, damage_json),
        FuzzTarget("checkpoint", "checkpoint.json", _description, _checkpoint, damage_json),
        *(FuzzTarget(name, file, make, _read_labels, damage) for name, file, make, damage in _LABELS),
    )
}
