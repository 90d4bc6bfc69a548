"""Topological order of nodes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heappop, heappush


def topological_order(inputs: Sequence[Collection[int]]) -> list[int]:
    """Nodes in an order in which each follows its inputs; ties are broken by index.

    Args:
        inputs: For each node the nodes that it depends on.

    Nodes of a cycle, and those that depend on one, are left out.

    >>> topological_order([[2], [0], []])
    [2, 0, 1]
    """
    consumers: list[list[int]] = [[] for _ in inputs]
    for node, sources in enumerate(inputs):
        for source in sources:
            consumers[source].append(node)
    waiting = [len(sources) for sources in inputs]
    ready = [node for node, count in enumerate(waiting) if count == 0]  # sorted, so a heap
    order = []
    while ready:
        node = heappop(ready)
        order.append(node)
        for consumer in consumers[node]:
            waiting[consumer] -= 1
            if waiting[consumer] == 0:
                heappush(ready, consumer)
    return order
