"""Structural features of a whole network: its size, its shape, and what lies on the paths through it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64

from gennape.predictors.encoder.features import operations
from gennape.predictors.few_shot.paths import PATH_FEATURES, path_features, visit_probability
from gennape.search_spaces.graphs.cost import node_macs, node_params
from gennape.search_spaces.graphs.graph import Column, PackedGraphs
from gennape.search_spaces.graphs.normal_form import normal_form
from gennape.search_spaces.graphs.ops import WEIGHTED, Op

_CONVOLUTIONS = tuple(op for op in WEIGHTED if op != Op.LINEAR)
_POOLS = (Op.MAXPOOL, Op.AVGPOOL)
_JOINS = (Op.ADD, Op.CONCAT)
#: Stages are maps of an image's side divided by 1, 2, 4, 8, 16, and by 32 or more.
_STAGES = 6
#: How a layer's MACs and parameters add up to a network's: below 1, layers have diminishing returns.
_POWER = 2 / 3
#: Names of the columns of :func:`structure`: sizes, then path features.
SIZES = (
    "size", "pools on a path", "pools", "FLOPs", "parameters", "activations", "channels", "image", "layers",
    "spatial layers", "fan-in", "layers on a path", "spatial layers on a path", "fan-in on a path",
    "joins on a path",
    *(f"{what}, stage {stage}" for what in ("MACs", "parameters", "channels", "layers") for stage in range(_STAGES)),
)  # fmt: skip
STRUCTURE = (*SIZES, *PATH_FEATURES)


def structure(graphs: PackedGraphs, formed: bool = False) -> Float64[np.ndarray, "g s"]:
    """One row per graph, columns as in :data:`STRUCTURE`, of its normal form; ``formed`` says that
    graphs have it already.

    ``size`` is log(||MACs|| x ||parameters|| x side^2) / 4, side being that of the image and ||x|| over all operations
    (sum of x^q)^(1/q) with q = 2/3: a layer twice as large counts for less than two layers. ``on a path`` are expected
    counts on a random walk from the output to the input; ``pools`` are shares of pooling among pooling and
    convolutions. The other sizes are logarithms, ``log(1 + x)``. Path features are those of :func:`.path_features`.
    Raises :class:`gennape.errors.InvalidGraphError` for a cycle.
    """
    graphs = graphs if formed else normal_form(graphs)
    op = operations(graphs)
    owner = graphs.graph_index
    layer, pool = np.isin(op, _CONVOLUTIONS), np.isin(op, _POOLS)
    window = graphs.nodes[:, Column.KERNEL_H].astype(np.int64) * graphs.nodes[:, Column.KERNEL_W]
    spatial = layer & (window > 1)
    macs, parameters = node_macs(graphs).astype(np.float64), node_params(graphs).astype(np.float64)
    channels = graphs.nodes[:, Column.C_OUT].astype(np.float64)
    area = graphs.nodes[:, Column.H_OUT].astype(np.float64) * graphs.nodes[:, Column.W_OUT]
    fan = graphs.nodes[:, Column.C_IN] // np.maximum(graphs.nodes[:, Column.GROUPS], 1) * np.maximum(window, 1)
    fan_in = np.where(layer, np.log(np.maximum(fan, 1)), 0)
    visits = visit_probability(graphs, op)

    def total(values: Float64[np.ndarray, " n"] | Bool[np.ndarray, " n"]) -> Float64[np.ndarray, " g"]:
        return np.bincount(owner, values, len(graphs)).astype(np.float64)  # whole numbers where there are no graphs

    image = total(np.where(op == Op.INPUT, 0.5 * np.log(np.maximum(area, 1)), 0))
    columns = [
        (np.log1p(total(macs**_POWER)) + np.log1p(total(parameters**_POWER))) / (4 * _POWER) + image / 2,
        total(visits * pool) / (1 + total(visits * (pool | layer))),
        total(pool) / np.maximum(total(pool | layer), 1),
        np.log1p(total(macs)),
        np.log1p(total(parameters)),
        np.log1p(total(channels * area * layer)),
        np.log1p(total(channels * layer)),
        image,
        np.log1p(total(layer)),
        np.log1p(total(spatial)),
        np.log1p(total(fan_in)),
        *(np.log1p(total(visits * values)) for values in (layer, spatial, fan_in, np.isin(op, _JOINS))),
    ]
    stage = _stages(area, image[owner])
    for values in (np.sqrt(macs), np.sqrt(parameters), channels * layer, layer.astype(np.float64)):
        table = np.bincount(owner * _STAGES + stage, values * layer, len(graphs) * _STAGES)
        columns.extend(np.log1p(table.reshape(-1, _STAGES)).T)
    return np.concatenate([np.stack(columns, axis=1), path_features(graphs, op, visits)], axis=1)


def _stages(area: Float64[np.ndarray, " n"], image: Float64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """How often the side of each map was halved since the image; ``image`` is the logarithm of the image's side."""
    halved = (image - 0.5 * np.log(np.maximum(area, 1))) / np.log(2)
    return np.clip(np.round(halved), 0, _STAGES - 1).astype(np.int64)
