"""Predictors whose answers are known, and networks for them."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray.cloudpickle

from gennape.errors import CheckpointError, InvalidGraphError
from gennape.predictors.predictor import Prediction, Predictor
from gennape.search_spaces.graphs.graph import N_COLUMNS, PackedGraphs, offsets_of

# Ray workers cannot import test modules.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

REFUSED, SLOW, DEADLY = 1, 3, 5  # numbers of nodes that the predictor below reacts to
GRAVE, VERSION = "grave", "version"


class NodeCounter(Predictor):
    """Accuracy is the number of nodes; the second membership tells how many graphs were predicted together.

    ``version`` is the first character of its hash. It dies over a ``DEADLY`` network once, and notes it in ``grave``.
    """

    def __init__(self, version: str = "c", grave: Path | None = None) -> None:
        self.sha256 = version * 64
        self.grave = grave

    def predict(self, graphs: PackedGraphs) -> Prediction:
        sizes = np.diff(graphs.node_offsets).astype(np.float64)
        if (sizes == REFUSED).any():
            raise InvalidGraphError(f"graph {int(np.argmax(sizes == REFUSED))} is a single node")
        if (sizes == SLOW).any():
            time.sleep(0.3)
        if (sizes == DEADLY).any() and self.grave is not None and not self.grave.exists():
            self.grave.touch()
            os._exit(1)
        together = len(sizes) / 1000
        return Prediction(sizes, np.tile([1 - together, together], (len(sizes), 1)))


class UnsureCounter(NodeCounter):
    """Tells a deviation of a tenth of its accuracy."""

    def predict(self, graphs: PackedGraphs) -> Prediction:
        counted = super().predict(graphs)
        return replace(counted, deviation=counted.accuracy / 10)


def write_counter(folder: Path, version: str, **settings: Any) -> Path:
    """A checkpoint of a counter; ``settings`` are files beside its version, by name."""
    folder.mkdir()
    for name, content in {VERSION: version, **settings}.items():
        (folder / name).write_text(str(content))
    return folder


def load_counter(path: Path | None) -> Predictor:
    """The counter of a checkpoint as :func:`write_counter` makes them, of one of its own for None."""
    if path is None:
        return NodeCounter()
    try:
        version = (path / VERSION).read_text()
    except OSError as error:
        raise CheckpointError("no such checkpoint") from error
    if (path / "driver").exists() and str(os.getpid()) != (path / "driver").read_text():
        raise CheckpointError("it loads where it was checked, but not in a replica")
    grave = path / GRAVE
    return NodeCounter(version, Path(grave.read_text()) if grave.exists() else None)


def graphs_of(*sizes: int) -> PackedGraphs:
    """Graphs of these numbers of nodes, without edges: all that the predictors above look at."""
    n = sum(sizes)
    offsets = offsets_of(np.array(sizes, np.int64))
    edges = np.zeros((0, 2), np.int64)
    return PackedGraphs(np.zeros((n, N_COLUMNS), np.int32), np.zeros(n), edges, offsets, np.zeros_like(offsets))
