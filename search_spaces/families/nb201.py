"""NAS-Bench-201: one cell of four nodes with an operation on each of its six edges (Dong and Yang, 2020)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int64

from gennape.errors import ConfigError, InvalidArchitectureError
from gennape.search_spaces.families.space import Architecture, Gene, SearchSpace, index_of, require_keys, shown
from gennape.search_spaces.graphs.blocks import fragment
from gennape.search_spaces.graphs.builder import GraphBuilder, Value

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
#: The edges (source, target) in genome order, which is also the order of the benchmark's strings.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
#: Side of the image and number of classes of the benchmark's three datasets, under the benchmark's names.
DATASETS = {"cifar10": (32, 10), "cifar100": (32, 100), "ImageNet16-120": (16, 120)}
CELLS = 5  # of each stage
# The inputs of each edge as GENNAPE's caches write them: 0 is the cell's input, k the output of the k-th operation.
_CACHE_INPUTS = [[0], [0], [1], [0], [1], [2, 3]]
_STRING = re.compile(r"\+".join(r"\|" + "".join(rf"([^|+~]+)~{k}\|" for k in range(node)) for node in (1, 2, 3)))


class NasBench201(SearchSpace):
    """Genome: the operations of the six edges.

    Sampling draws from all 15,625 cells, as the benchmark is queried, also those with ``none``; GENNAPE's published
    graphs are of the 4,096 cells without it. Datasets other than CIFAR-10 differ in the image and the classifier and
    are named after it: ``nb201_cifar100``, ``nb201_imagenet16_120``.
    """

    genes = tuple(Gene(f"operation of edge {source}->{target}", OPERATIONS) for source, target in EDGES)

    def __init__(self, dataset: str = "cifar10") -> None:
        """``dataset`` is a key of :data:`DATASETS`; raises :class:`ConfigError` for another."""
        if dataset not in DATASETS:
            raise ConfigError(f"NAS-Bench-201 has no dataset {dataset!r}; known are {', '.join(DATASETS)}")
        self.name = "nb201" if dataset == "cifar10" else f"nb201_{dataset.lower().replace('-', '_')}"
        self.side, self.classes = DATASETS[dataset]

    def encode(self, genome: Int64[np.ndarray, " g"]) -> Architecture:
        """The benchmark's own string, see :func:`arch_string`."""
        return arch_string(genome)

    def decode(self, architecture: Architecture) -> Int64[np.ndarray, " g"]:
        """Reads the benchmark's string, ``{"ops": [six, by edge]}`` and the pair (ops, inputs) of GENNAPE's caches."""
        operations = _operations(architecture)
        if not isinstance(operations, list | tuple) or len(operations) != len(EDGES):
            raise InvalidArchitectureError(f"nb201: a cell has {len(EDGES)} operations, got {shown(operations)}")
        indices = [index_of(gene, op, self.name) for gene, op in zip(self.genes, operations, strict=True)]
        return np.array(indices, np.int64)

    def emit(self, b: GraphBuilder, genome: Int64[np.ndarray, " g"]) -> Value:
        """Stem, three stages of five cells with residual reductions between, classifier."""
        operations = tuple(genome.tolist())
        x = b.batchnorm(b.conv(b.input(3, self.side, self.side), 16, 3))
        for stage in range(3):
            if stage:
                x = _reduction(b, x, 16 << stage)
            for _ in range(CELLS):
                x = _cell(b, x, operations)
        # The published network has a dropout here, which leaves an identity, and neither normalises nor activates.
        x = b.identity(b.mean(x)) if b.published else b.mean(b.relu(b.batchnorm(x)))
        return b.linear(x, self.classes)


def arch_string(genome: Int64[np.ndarray, " g"]) -> str:
    """The benchmark's string ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``: nodes by ``+``, ``~k`` the source node."""
    edges = [f"{OPERATIONS[op]}~{source}|" for op, (source, _) in zip(genome.tolist(), EDGES, strict=True)]
    return f"|{edges[0]}+|{''.join(edges[1:3])}+|{''.join(edges[3:])}"


def read_arch_string(text: str) -> tuple[str, ...]:
    """The operations of the six edges in a benchmark string; raises :class:`InvalidArchitectureError` for another."""
    match = _STRING.fullmatch(text)
    if match is None:
        raise InvalidArchitectureError(
            f"nb201: an architecture string is |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, got {shown(text)}"
        )
    return match.groups()


def _operations(architecture: Any) -> Any:
    """What an encoding in any of the known forms says the operations are."""
    if isinstance(architecture, str):
        return read_arch_string(architecture)
    if isinstance(architecture, list | tuple) and len(architecture) == 2:
        operations, inputs = architecture
        rows = [list(sources) for sources in inputs] if _is_rows(inputs) else inputs
        if rows != _CACHE_INPUTS:
            raise InvalidArchitectureError(
                f"nb201: the inputs of the operations are {_CACHE_INPUTS}, got {shown(inputs)}"
            )
        return operations
    return require_keys(architecture, ("ops",), "nb201")["ops"]


def _is_rows(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(row, list | tuple) for row in value)


def isomorphism_string(genome: Int64[np.ndarray, " g"]) -> str:
    """The benchmark's string that equal cells share: sums sorted, skips left out, what is surely zero written ``#``.

    A sum of zeros is ``#+#``, which the next edge no longer takes for zero: so the benchmark defines it.
    """
    nodes = ["0", "", "", ""]
    for target in (1, 2, 3):
        terms = []
        for op, (source, end) in zip(genome.tolist(), EDGES, strict=True):
            if end == target:
                terms.append(_term(OPERATIONS[op], nodes[source]))
        nodes[target] = "+".join(sorted(terms))
    return nodes[3]


def _term(operation: str, source: str) -> str:
    if operation == "none" or source == "#":
        return "#"
    return source if operation == "skip_connect" else f"({source})@{operation}"


def reaches_output(genome: Int64[np.ndarray, " g"]) -> bool:
    """Whether a path without ``none`` leads from the cell's input to its output; else all its outputs are zero."""
    reached = {0}
    for op, (source, target) in zip(genome.tolist(), EDGES, strict=True):
        if OPERATIONS[op] != "none" and source in reached:
            reached.add(target)
    return 3 in reached


# The network ----------------------------------------------------------------------------------------------------------


@fragment
def _relu_conv_bn(b: GraphBuilder, x: Value, c: int, kernel: int, stride: int = 1) -> Value:
    return b.batchnorm(b.conv(b.relu(x), c, kernel, stride))


def _none(b: GraphBuilder, x: Value) -> Value:
    # The published builder multiplies by a constant, which its graphs do not show.
    return x if b.published else b.zero(x)


def _pool(b: GraphBuilder, x: Value) -> Value:
    pooled = b.avgpool(x, 3, 1, 1)
    return b.batchnorm(pooled) if b.published else pooled


_EMITTERS: dict[str, Callable[[GraphBuilder, Value], Value]] = {
    "none": _none,
    "skip_connect": lambda _, x: x,
    "nor_conv_1x1": lambda b, x: _relu_conv_bn(b, x, x.c, 1),
    "nor_conv_3x3": lambda b, x: _relu_conv_bn(b, x, x.c, 3),
    "avg_pool_3x3": _pool,
}


@fragment
def _cell(b: GraphBuilder, x: Value, operations: tuple[int, ...]) -> Value:
    edges = [_EMITTERS[OPERATIONS[op]] for op in operations]
    first = edges[0](b, x)
    second = b.add(edges[1](b, x), edges[2](b, first))
    terms = edges[3](b, x), edges[4](b, first), edges[5](b, second)
    # The benchmark sums from the left, the published network from the right.
    return b.add(terms[0], b.add(terms[1], terms[2])) if b.published else b.add(*terms)


@fragment
def _reduction(b: GraphBuilder, x: Value, c: int) -> Value:
    """Residual block of stride 2; its shortcut has no normalisation, and nothing follows the sum."""
    if b.published:
        y = b.conv(b.relu(b.conv(x, x.c, 3)), c, 3, 2)
        return b.relu(b.add(y, b.conv(b.avgpool(x, 3, 2, 1), c)))
    y = _relu_conv_bn(b, _relu_conv_bn(b, x, c, 3, 2), c, 3)
    return b.add(y, b.conv(b.avgpool(x, 2, 2), c))
