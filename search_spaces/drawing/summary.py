"""Summarise a network in a few lines of text: size, cost, and the share of each operation."""

from __future__ import annotations

import numpy as np

from gennape.search_spaces.drawing.diagram import by, op_name
from gennape.search_spaces.graphs.cost import macs, node_macs, own_params, params
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, pack
from gennape.search_spaces.graphs.ops import Op


def summary(graph: ComputationGraph) -> str:
    """Nodes, shapes, MACs, FLOPs and parameters of a graph, and a table of its operations, the costliest first."""
    packed = pack([graph])
    n_macs, n_params = node_macs(packed), own_params(packed)
    lines = [
        f"{graph.n_nodes:,} nodes, {len(graph.edges):,} edges, height by width by channels {_ends(graph)}",
        cost_line(graph),
        "",
        f"{'operation':<16}{'nodes':>7}{'MACs':>10}{'parameters':>12}",
    ]
    op = graph.nodes[:, Column.OP]
    rows = []
    for code in np.unique(op).tolist():
        own = op == code
        rows.append((-int(n_macs[own].sum()), -int(own.sum()), code))
    for _, count, code in sorted(rows):
        shares = [_percent(int(cost[op == code].sum()), int(cost.sum())) for cost in (n_macs, n_params)]
        lines.append(f"{op_name(code):<16}{-count:>7,}{shares[0]:>10}{shares[1]:>12}")
    return "\n".join(lines)


def cost_line(graph: ComputationGraph) -> str:
    """Cost of a network in one line."""
    packed = pack([graph])
    total_macs, total_params = int(macs(packed)[0]), int(params(packed)[0])
    return f"{quantity(total_macs)} MACs, {quantity(2 * total_macs)} FLOPs, {quantity(total_params)} parameters"


def _ends(graph: ComputationGraph) -> str:
    rows = {row[Column.OP]: row for row in graph.nodes.tolist()}
    ends = (rows[Op.INPUT], rows[Op.OUTPUT])
    return " to ".join(by((row[Column.H_OUT], row[Column.W_OUT], row[Column.C_OUT])) for row in ends)


def _percent(part: int, whole: int) -> str:
    if part == 0:
        return "-"
    return f"{100 * part / whole:.1f} %" if 1000 * part >= whole else "< 0.1 %"


def quantity(value: int | float) -> str:
    """Three digits and a prefix: ``25.6 M``."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g}"
