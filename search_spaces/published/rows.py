"""Check published graphs against rows that the published builder wrote; see ``conformance`` for the files.

Rows count nodes, edges and operations. Some also list nodes and edges, which must match the graph up to node order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gennape.search_spaces.graphs.graph import ComputationGraph
from gennape.search_spaces.published.graphs import VOCABULARY, PublishedGraph, features, published_graph

Node = tuple[Any, ...]
Edges = Sequence[Sequence[int]]
_COUNTED: dict[str, type] = {
    "n_nodes": int,
    "n_weighted": int,
    "n_edges": int,
    "op_counts": dict,
    "weighted_op_counts": dict,
    "feature_max": dict,
    "n_bias": int,
}


def is_published_row(content: Mapping[str, Any]) -> bool:
    """Whether a row describes a published graph, not a measured network."""
    return "op_counts" in content


def check_published(graph: ComputationGraph, content: Mapping[str, Any]) -> list[str]:
    """Differences between ``space.graph(genome, published=True)`` and a row; empty if there are none."""
    if wrong := [key for key, kind in _COUNTED.items() if not isinstance(content.get(key), kind)]:
        return [f"{key} is {content.get(key)!r}, not {_COUNTED[key].__name__}" for key in wrong]
    published = published_graph(graph)
    nodes = node_list(published)
    got = _counts(published, nodes)
    problems = [f"{key} is {got[key]}, expected {content[key]}" for key in _COUNTED if got[key] != content[key]]
    return problems if problems or "nodes" not in content else _structure(published, nodes, content)


def _structure(graph: PublishedGraph, nodes: list[Node], content: Mapping[str, Any]) -> list[str]:
    try:
        expected = [_expected(*node) for node in content["nodes"]]
        edges = [(int(source), int(target)) for source, target in content["edges"]]
        ends = {end for edge in edges for end in edge}
    except (KeyError, TypeError, ValueError) as error:
        return [f"nodes or edges cannot be read: {error!r}"]
    if not ends <= set(range(len(expected))):
        return [f"edges refer to nodes beyond the {len(expected)} listed"]
    if missing := Counter(expected) - Counter(nodes):
        return [f"{count} nodes {node} are expected but missing" for node, count in missing.items()]
    if not alike(nodes, graph.edges.tolist(), expected, edges):
        return ["the nodes are as expected, but the edges differ"]
    return []


def node_list(graph: PublishedGraph) -> list[Node]:
    """Nodes as published: operation, weighted, resolution, shape, strides, bias."""
    columns = (graph.op, graph.weighted, graph.resolution, graph.shape, graph.strides, graph.bias)
    return [
        (
            VOCABULARY[op],
            weighted,
            tuple(resolution),
            tuple(shape) if weighted else (),
            (1, *strides, 1) if any(strides) else None,
            bias,
        )
        for op, weighted, resolution, shape, strides, bias in zip(*(c.tolist() for c in columns), strict=True)
    ]


def _expected(op: str, weighted: int, resolution: list[int], shape: list[int], strides: Any, bias: bool) -> Node:
    return op, bool(weighted), tuple(resolution), tuple(shape), strides and tuple(strides), bias


def _counts(graph: PublishedGraph, nodes: list[Node]) -> dict[str, Any]:
    shown = features(graph)
    return {
        "n_nodes": len(nodes),
        "n_weighted": int(graph.weighted.sum()),
        "n_edges": len(graph.edges),
        "op_counts": dict(Counter(node[0] for node in nodes)),
        "weighted_op_counts": dict(Counter(node[0] for node in nodes if node[1])),
        "feature_max": {
            "hw": float(shown.resolution[:, :4].max()),
            "c": float(shown.resolution[:, 4:].max()),
            "kernel": int(shown.kernel.max()),
        },
        "n_bias": int(graph.bias.sum()),
    }


def alike(nodes: list[Node], edges: Edges, other: list[Node], other_edges: Edges) -> bool:
    """Whether colour refinement cannot distinguish two attributed graphs."""
    names: dict[Any, int] = {}
    return _colours(nodes, edges, names) == _colours(other, other_edges, names)


def _colours(nodes: list[Node], edges: Edges, names: dict[Any, int]) -> list[Counter[int]]:
    """Colour counts of each refinement round, in which nodes are coloured by their neighbours' colours."""
    before: list[list[int]] = [[] for _ in nodes]
    after: list[list[int]] = [[] for _ in nodes]
    for source, target in edges:
        before[target].append(source)
        after[source].append(target)
    colour = [names.setdefault(node, len(names)) for node in nodes]
    counts = [Counter(colour)]
    for _ in nodes:
        around = [
            (colour[i], tuple(sorted(colour[k] for k in before[i])), tuple(sorted(colour[k] for k in after[i])))
            for i in range(len(nodes))
        ]
        colour = [names.setdefault(key, len(names)) for key in around]
        counts.append(Counter(colour))
        if len(counts[-1]) == len(counts[-2]):
            break
    return counts
