"""Layers that share one set of weights: which can, which do, and how many parameters they have."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
from jaxtyping import Bool, Int32, Int64

from gennape.search_spaces.graphs.columns import Column
from gennape.search_spaces.graphs.ops import Op

#: Attributes that determine the shapes of a layer's weights, independent of the map size.
_SHAPE = (
    *(Column.OP, Column.C_IN, Column.C_OUT, Column.KERNEL_H, Column.KERNEL_W, Column.GROUPS, Column.BIAS),
    *(Column.AXIS, Column.PARAMS, Column.KIND),
)

#: Operations with one tensor, which may be learnt or fixed.
_SINGLE = (Op.SCALE, Op.SHIFT, Op.EXTEND)


def weight_shapes(nodes: Int32[np.ndarray, "n a"]) -> Int32[np.ndarray, "n k"]:
    """Rows that are equal if and only if the weights of two nodes have the same shapes and can be shared."""
    op, kind = nodes[:, Column.OP], nodes[:, Column.KIND]
    learnt, added = np.isin(op, (Op.SCALE, Op.SHIFT)), op == Op.EXTEND
    whole = ((op == Op.LAYERNORM) & (nodes[:, Column.AXIS] == 3)) | added
    # A learnt tensor that spans rows or columns has the height or width of the map.
    sizes = [
        nodes[:, column] * ((learnt & (kind >> axis & 1 > 0)) | whole)
        for axis, column in ((1, Column.H_OUT), (2, Column.W_OUT))
    ]
    sizes += [nodes[:, column] * added for column in (Column.H_IN, Column.W_IN)]
    return np.column_stack([nodes[:, _SHAPE], *sizes])


def groups_of(
    tied: Int32[np.ndarray, " n"], owner: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """The nodes that share weights, and for each the index of its group over all graphs."""
    members = np.flatnonzero(tied)
    pairs = np.stack([owner[members], tied[members].astype(np.int64)], axis=1)
    return members, np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)


def repeated(tied: Int32[np.ndarray, " n"], owner: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    """The nodes whose weights belong to an earlier node of the same graph."""
    if not tied.any():
        return np.zeros(0, np.int64)
    members, group = groups_of(tied, owner)
    first = np.unique(group, return_index=True)[1]
    return np.delete(members, first)


def differing_weights(nodes: Int32[np.ndarray, "n a"], owner: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Nodes that share weights with a node whose weights have different shapes, which is invalid."""
    bad = np.zeros(len(nodes), bool)
    if not nodes[:, Column.TIED].any():
        return bad
    members, group = groups_of(nodes[:, Column.TIED], owner)
    shapes = weight_shapes(nodes[members])
    first = np.unique(group, return_index=True)[1]
    bad[members] = (shapes != shapes[first][group]).any(1)
    return bad


def counted_once(nodes: Int32[np.ndarray, "n a"], held: Mapping[int, tuple[Hashable, ...]]) -> Int32[np.ndarray, "n a"]:
    """The rows, changed so that a tensor used by operations of different kinds is learnt by only one of them.

    ``held``: the learnt tensors of each node. A class token that is concatenated to a map and later added to one is
    learnt by the concatenation and fixed in the addition. Nodes of the same kind are unchanged, since they can be tied;
    so are layers whose attributes determine their number of weights.
    """
    out = nodes.copy()
    shapes = [tuple(row) for row in weight_shapes(nodes).tolist()]
    single = np.isin(nodes[:, Column.OP], _SINGLE)
    owners: dict[Hashable, tuple[int, ...]] = {}
    for node in sorted(held, key=lambda node: (bool(single[node]), node)):
        owned = [owners.setdefault(key, shapes[node]) == shapes[node] for key in held[node]]
        if single[node] and owned and not any(owned):
            out[node, Column.PARAMS] = 0
    return out


def tied(nodes: Int32[np.ndarray, "n a"], keys: Mapping[int, Hashable]) -> Int32[np.ndarray, "n a"]:
    """The rows with group numbers: nodes with the same key and weight shape share weights.

    Groups are numbered in order of their first nodes. Nodes with key None share nothing.
    """
    shapes = weight_shapes(nodes).tolist()
    groups: dict[Hashable, list[int]] = {}
    for node, key in sorted(keys.items()):
        if key is not None:
            groups.setdefault((key, *shapes[node]), []).append(node)
    shared = [members for members in groups.values() if len(members) > 1]
    out = nodes.copy()
    for number, members in enumerate(shared, 1):
        out[members, Column.TIED] = number
    return out
