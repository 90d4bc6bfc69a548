"""Calibrations: what thousands of public labels of a search space teach, so that accuracies are on their scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from gennape.errors import CheckpointError
from gennape.predictors.bounds import Finite, Scale
from gennape.predictors.calibration.features import FEATURES, features
from gennape.search_spaces.families.recognition import READERS, alike, recognise
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import PackedGraphs

_LOG_100 = float(np.log(100))
_AT_ONCE = 1024
_AGAIN = "copy the checkpoint again"


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """What a checkpoint says of a calibration.

    ``labels``: what they are, in a few words. ``source``: who published them. ``networks``: how many were learnt from.
    ``srcc`` and ``mae_percent`` on ``held_out`` further rows, which the calibration had not seen; ``deviation`` is the
    error, in percent, within which 68 % of them lie.
    """

    labels: str
    source: str
    file: str
    sha256: str
    networks: int
    held_out: int
    srcc: Finite
    mae_percent: Finite
    deviation: Scale


@dataclass(frozen=True, slots=True)
class NetworkTable:
    """All networks of a small space: the first 64 bits of each graph's hash, ascending, and its genome."""

    hashes: Int64[np.ndarray, " m"]
    genomes: Int64[np.ndarray, "m k"]

    def find(self, graphs: PackedGraphs) -> tuple[Int64[np.ndarray, "g k"], Bool[np.ndarray, " g"]]:
        """The genomes of the graphs [g] that are in the table, 0 for others, and which are."""
        wanted = hash_numbers(graphs)
        place = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        found = self.hashes[place] == wanted
        return self.genomes[place] * found[:, None], found


def hash_numbers(graphs: PackedGraphs) -> Int64[np.ndarray, " g"]:
    """64 bits of each graph's canonical hash."""
    return np.array([int(name[:16], 16) for name in canonical_hashes(graphs)], np.uint64).view(np.int64)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Accuracies of the networks of one search space, on the scale of public labels.

    The negated logarithm of the error (100 % - accuracy) is a quadratic form of the architecture's :func:`.features`,
    so that every pair of choices counts. ``networks`` lists all networks where a space is small.
    """

    space: str
    record: CalibrationRecord
    level: float
    linear: Float64[np.ndarray, " d"]
    pairs: Float64[np.ndarray, "d d"]
    networks: NetworkTable | None = None

    def accuracy(self, genomes: Int64[np.ndarray, "g k"]) -> Float64[np.ndarray, " g"]:
        """Percent, of canonical genomes of the space."""
        out = np.zeros(len(genomes))
        for start in range(0, len(genomes), _AT_ONCE):
            x = features(self.space, genomes[start : start + _AT_ONCE])
            # einsum sums each row by itself: a product of matrices would round by what else is in the batch.
            out[start : start + _AT_ONCE] = np.einsum("gd,gd->g", x @ self.pairs + self.linear, x)
        return np.asarray(100 - np.exp(-np.maximum(out + self.level, -_LOG_100)))

    def predict(self, graphs: PackedGraphs) -> tuple[Float64[np.ndarray, " g"], Bool[np.ndarray, " g"]]:
        """Accuracies of the graphs [g], in their normal form, that are networks of the space; and which are."""
        space = family(self.space)
        if self.networks is None:
            genomes, found = recognise(space, graphs)
        else:
            genomes, found = np.zeros((len(graphs), len(space.genes)), np.int64), alike(space, graphs)
            rows = np.flatnonzero(found)
            if len(rows):
                genomes[rows], found[rows] = self.networks.find(graphs.take(rows))
        accuracy = np.zeros(len(graphs))
        accuracy[found] = self.accuracy(genomes[found])
        return accuracy, found

    def state(self) -> dict[str, np.ndarray]:
        """The arrays of the calibration by name, in single precision; :func:`restored` reads them."""
        arrays: dict[str, np.ndarray] = {
            "level": np.array([self.level], np.float32),
            "linear": self.linear.astype(np.float32),
            "pairs": self.pairs.astype(np.float32),
        }
        if self.networks is not None:
            arrays |= {"hashes": self.networks.hashes, "genomes": self.networks.genomes.astype(np.uint8)}
        return arrays


def restored(space: str, record: CalibrationRecord, state: Mapping[str, np.ndarray]) -> Calibration:
    """The calibration whose :meth:`Calibration.state` this is.

    Raises :class:`CheckpointError` for an unknown space, and for arrays that are missing, unknown, of other sizes or
    not finite.
    """
    if space not in FEATURES:
        raise CheckpointError(f"the checkpoint has a calibration of {space!r}, known are {sorted(FEATURES)}; {_AGAIN}")
    genes = len(family(space).genes)
    d = features(space, np.zeros((1, genes), np.int64)).shape[1]
    shapes: dict[str, tuple[tuple[int, ...], str]] = {
        "level": ((1,), "float32"), "linear": ((d,), "float32"), "pairs": ((d, d), "float32"),
    }  # fmt: skip
    if space not in READERS:
        m = state["hashes"].shape[0] if "hashes" in state and state["hashes"].ndim else 0
        shapes |= {"hashes": ((m,), "int64"), "genomes": ((m, genes), "uint8")}
    found = {name: (array.shape, str(array.dtype)) for name, array in state.items()}
    if wrong := sorted(name for name in {*found, *shapes} if found.get(name) != shapes.get(name)):
        raise CheckpointError(
            f"the calibration of {space} is incomplete or of other sizes: {wrong[0]} is {found.get(wrong[0])}, should "
            f"be {shapes.get(wrong[0])}; {_AGAIN}"
        )
    if not all(np.isfinite(state[name]).all() for name in ("level", "linear", "pairs")):
        raise CheckpointError(f"the calibration of {space} holds numbers that are not finite; {_AGAIN}")
    table = _table(space, state) if "hashes" in shapes else None
    level, linear, pairs = (state[name].astype(np.float64) for name in ("level", "linear", "pairs"))
    return Calibration(space, record, float(level[0]), linear, pairs, table)


def _table(space: str, state: Mapping[str, np.ndarray]) -> NetworkTable:
    hashes, genomes = state["hashes"], state["genomes"].astype(np.int64)
    limits = np.array([len(gene.values) for gene in family(space).genes])
    if not len(hashes) or not (hashes[1:] > hashes[:-1]).all() or not (genomes < limits).all():
        raise CheckpointError(f"the calibration of {space} lists networks out of order or out of range; {_AGAIN}")
    return NetworkTable(hashes, genomes)


def calibrated(
    calibrations: Sequence[Calibration], graphs: PackedGraphs
) -> tuple[Float64[np.ndarray, " g"], Int64[np.ndarray, " g"]]:
    """Accuracies of graphs [g] in their normal form, NaN for networks of other spaces, and the position of each
    graph's calibration, -1 for none."""
    accuracy, which = np.full(len(graphs), np.nan), np.full(len(graphs), -1)
    for i, calibration in enumerate(calibrations):
        rows = np.flatnonzero(which < 0)
        if not len(rows):
            break
        found_accuracy, found = calibration.predict(graphs if len(rows) == len(graphs) else graphs.take(rows))
        accuracy[rows[found]], which[rows[found]] = found_accuracy[found], i
    return accuracy, which
