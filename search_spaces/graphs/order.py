"""The order in which nodes that take from each other can be computed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heappop, heappush


def topological_order(inputs: Sequence[Collection[int]]) -> list[int]:
    """Nodes so that each is behind those that it takes from, of several the first one first.

    Args:
        inputs: For each node the nodes that it takes from.

    Nodes of a cycle, and those that take from one, are left out.

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
