"""Layers that share one set of weights: which can, which do, and how many numbers they hold together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
from jaxtyping import Bool, Int32, Int64

from gennape.search_spaces.graphs.columns import Column
from gennape.search_spaces.graphs.ops import Op

#: What tells the shapes of a layer's weights, whatever the size of the map it is applied to.
_SHAPE = (
    *(Column.OP, Column.C_IN, Column.C_OUT, Column.KERNEL_H, Column.KERNEL_W, Column.GROUPS, Column.BIAS),
    *(Column.AXIS, Column.PARAMS, Column.KIND),
)

#: Operations whose one tensor may be learnt or fixed.
_SINGLE = (Op.SCALE, Op.SHIFT, Op.EXTEND)


def weight_shapes(nodes: Int32[np.ndarray, "n a"]) -> Int32[np.ndarray, "n k"]:
    """Rows that are equal where the weights of two nodes have the same shapes: only such can be shared."""
    op, kind = nodes[:, Column.OP], nodes[:, Column.KIND]
    learnt, added = np.isin(op, (Op.SCALE, Op.SHIFT)), op == Op.EXTEND
    whole = ((op == Op.LAYERNORM) & (nodes[:, Column.AXIS] == 3)) | added
    # A learnt tensor that spans rows or columns is as high or wide as the map.
    sizes = [
        nodes[:, column] * ((learnt & (kind >> axis & 1 > 0)) | whole)
        for axis, column in ((1, Column.H_OUT), (2, Column.W_OUT))
    ]
    sizes += [nodes[:, column] * added for column in (Column.H_IN, Column.W_IN)]
    return np.column_stack([nodes[:, _SHAPE], *sizes])


def groups_of(
    tied: Int32[np.ndarray, " n"], owner: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"]]:
    """The nodes that share weights, and for each the number of its group among those of all graphs, from 0."""
    members = np.flatnonzero(tied)
    pairs = np.stack([owner[members], tied[members].astype(np.int64)], axis=1)
    return members, np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)


def repeated(tied: Int32[np.ndarray, " n"], owner: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
    """The nodes whose weights an earlier node of the same graph holds."""
    if not tied.any():
        return np.zeros(0, np.int64)
    members, group = groups_of(tied, owner)
    first = np.unique(group, return_index=True)[1]
    return np.delete(members, first)


def differing_weights(nodes: Int32[np.ndarray, "n a"], owner: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Nodes that claim to share the weights of a node whose weights have other shapes."""
    bad = np.zeros(len(nodes), bool)
    if not nodes[:, Column.TIED].any():
        return bad
    members, group = groups_of(nodes[:, Column.TIED], owner)
    shapes = weight_shapes(nodes[members])
    first = np.unique(group, return_index=True)[1]
    bad[members] = (shapes != shapes[first][group]).any(1)
    return bad


def counted_once(nodes: Int32[np.ndarray, "n a"], held: Mapping[int, tuple[Hashable, ...]]) -> Int32[np.ndarray, "n a"]:
    """The rows, where a tensor that operations of different kinds work with is learnt by one of them alone.

    ``held`` tells the learnt tensors of nodes. A class token that is joined to a map and later added to one is learnt
    where it is joined, and fixed where it is added. Nodes of one kind keep what they learn: they can be tied. So do
    layers whose attributes tell how many weights they have.
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
    """The rows with numbers of groups: nodes of one key, and weights of one shape, share them.

    Groups are numbered in order of their first nodes. A key of None shares nothing.
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
