"""NAS-Bench-301, the DARTS space: a normal and a reduction cell (Zela et al., 2022; Liu, Simonyan and Yang, 2019)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Int64

from gennape.errors import ConfigError, InvalidArchitectureError
from gennape.search_spaces.families.space import Architecture, Gene, SearchSpace, index_of, shown
from gennape.search_spaces.graphs.blocks import fragment
from gennape.search_spaces.graphs.builder import GraphBuilder, Value
from gennape.search_spaces.graphs.ops import Op

OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "none",
)
#: Those that the benchmark has; ``none``, an edge of zeros, is in genotypes of others that were trained.
SAMPLED = tuple(range(len(OPERATIONS) - 1))
CELLS = ("normal", "reduce")
NODES = 4  # intermediate nodes of a cell; states 0 and 1 are the two cells before, state i + 2 is node i
CONCAT = [2, 3, 4, 5]  # what a cell returns: all its nodes
#: The pairs of sources a node may have: distinct ones first (the benchmark's), then equal ones (the network's too).
SOURCES = tuple((*combinations(range(n), 2), *((k, k) for k in range(n))) for n in range(2, NODES + 2))
N_DISTINCT = tuple(n * (n - 1) // 2 for n in range(2, NODES + 2))
CLASSES = 10
#: Channels before the first doubling, and cells, of the published graphs: 16 channels at a stem that triples them,
#: which their builder then takes for the cells' own number.
PUBLISHED = (48, 20)

_PREFIX = "NetworkSelectorDatasetInfo:darts:"
_EDGE_STARTS = (0, 2, 5, 9)  # number of the edge from state 0 into each node in the benchmark's configurations
_FIELD = re.compile(r"\s*(\w+)\s*=\s*(\[[^\[\]]*\]|range\(\s*2\s*,\s*6\s*\))\s*(?:,\s*|$)")
_PAIR = re.compile(r"\s*\(\s*(['\"])(\w+)\1\s*,\s*([0-9])\s*\)\s*(?:,\s*|$)")

Pairs = list[tuple[Any, Any]]


class NasBench301(SearchSpace):
    """Genome: for the four nodes of the normal cell, then of the reduction cell, the sources and their two operations.

    The sources are a pair with the lower first; the first operation is applied to it. Pairs of equal sources and the
    operation ``none``, which the benchmark does not have, are read but never sampled. ``channels`` and ``cells`` are
    the network's width and depth: 32 and 8 are those whose accuracies the benchmark tells, 36 and 20 those of the DARTS
    paper.
    """

    genes = tuple(
        gene
        for cell in CELLS
        for node, (pairs, distinct) in enumerate(zip(SOURCES, N_DISTINCT, strict=True))
        for gene in (
            Gene(f"sources of node {node + 1} of the {cell} cell", pairs, tuple(range(distinct))),
            Gene(f"first operation of node {node + 1} of the {cell} cell", OPERATIONS, SAMPLED),
            Gene(f"second operation of node {node + 1} of the {cell} cell", OPERATIONS, SAMPLED),
        )
    )

    def __init__(self, channels: int = 32, cells: int = 8) -> None:
        """Other settings than 32 and 8 are named ``nb301_c<channels>_l<cells>``; :class:`ConfigError` if impossible."""
        if channels < 2 or channels % 2 or cells < 3:
            raise ConfigError(
                f"a DARTS network has an even number of channels and at least 3 cells, got {channels} and {cells}"
            )
        self.name = "nb301" if (channels, cells) == (32, 8) else f"nb301_c{channels}_l{cells}"
        self.channels, self.cells = channels, cells

    def canonical(self, genomes: Int64[np.ndarray, "n g"]) -> Int64[np.ndarray, "n g"]:
        """Two operations on one source are sorted: their sum is the same."""
        nodes = genomes.reshape(len(genomes), 2 * NODES, 3)
        equal = nodes[:, :, :1] >= np.tile(N_DISTINCT, 2)[None, :, None]
        pairs = np.where(equal, np.sort(nodes[:, :, 1:], axis=2), nodes[:, :, 1:])
        return np.concatenate([nodes[:, :, :1], pairs], axis=2).reshape(genomes.shape)

    def encode(self, genome: Int64[np.ndarray, " g"]) -> Architecture:
        """``{"normal": [[operation, source] x 8], "reduce": [...]}``; pairs 2i and 2i + 1 feed node i."""
        return {cell: [list(pair) for pair in pairs] for cell, pairs in _cells(genome).items()}

    def decode(self, architecture: Architecture) -> Int64[np.ndarray, " g"]:
        """Reads what ``encode`` writes, DARTS' ``Genotype(...)`` string and the benchmark's configuration.

        ``normal_concat`` and ``reduce_concat`` may be given and must be all nodes. The two pairs of a node may stand in
        either order. A configuration is recognised by its keys; keys that are not of the cells are ignored.
        """
        if isinstance(architecture, str):
            architecture = read_genotype(architecture)
        elif isinstance(architecture, dict) and any(str(key).startswith(_PREFIX) for key in architecture):
            architecture = read_configuration(architecture)
        genes = [gene for cell in _read_cells(architecture) for node in range(NODES) for gene in _node(cell, node)]
        indices = [index_of(gene, value, self.name) for gene, value in zip(self.genes, genes, strict=True)]
        canonical: Int64[np.ndarray, " g"] = self.canonical(np.array([indices], np.int64))[0]
        return canonical

    def emit(self, b: GraphBuilder, genome: Int64[np.ndarray, " g"]) -> Value:
        """Stem, cells of which those at one and two thirds reduce, classifier. Published graphs have one size."""
        values = tuple(genome.tolist())
        half = len(values) // 2
        c, cells = PUBLISHED if b.published else (self.channels, self.cells)
        s0, s1 = _stems(b, b.input(3, 32, 32), c if b.published else 3 * c)
        reductions = (cells // 3, 2 * cells // 3)
        for i in range(cells):
            reduces = i in reductions
            c = 2 * c if reduces else c
            x = _halve(b, s0, c) if i - 1 in reductions else _relu_conv_bn(b, s0, c)
            y = _relu_conv_bn(b, s1, c)
            s0, s1 = s1, _cell(b, x, y, values[half:] if reduces else values[:half], 2 if reduces else 1)
        if b.published:
            pooled = b.mean(s1, Op.GLOBAL)
            return b.conv(pooled, CLASSES)
        return b.linear(b.mean(s1), CLASSES)


def auxiliary_params(channels: int) -> int:
    """Parameters of the classifier that only training has, after the second reduction of a DARTS network."""
    # 1x1 convolution to 128 and 2x2 to 768, each with its normalisation, then fully connected.
    return 16 * channels * 128 + 2 * 128 + 128 * 768 * 4 + 2 * 768 + 768 * CLASSES + CLASSES


# The encodings --------------------------------------------------------------------------------------------------------


def _cells(genome: Int64[np.ndarray, " g"]) -> dict[str, Pairs]:
    """The eight (operation, source) of each cell."""
    nodes = genome.reshape(2, NODES, 3).tolist()
    return {
        cell: [
            (OPERATIONS[op], source)
            for node, (pair, *ops) in enumerate(rows)
            for op, source in zip(ops, SOURCES[node][pair], strict=True)
        ]
        for cell, rows in zip(CELLS, nodes, strict=True)
    }


def genotype_string(genome: Int64[np.ndarray, " g"]) -> str:
    """DARTS' own ``Genotype(normal=[('op', source), ...], normal_concat=range(2, 6), reduce=[...], ...)``."""
    fields = [f"{cell}={pairs}, {cell}_concat=range(2, 6)" for cell, pairs in _cells(genome).items()]
    return f"Genotype({', '.join(fields)})"


def read_genotype(text: str) -> dict[str, Any]:
    """The fields of a ``Genotype(...)`` string as JSON; raises :class:`InvalidArchitectureError` for another.

    Nothing is evaluated: the string must be a call with keywords that hold lists of pairs, lists of numbers or the
    range that DARTS prints.
    """
    match = re.fullmatch(r"\s*Genotype\s*\((.*)\)\s*", text, re.DOTALL)
    if match is None:
        raise InvalidArchitectureError(f"nb301: a genotype string is Genotype(normal=[...], ...), got {text[:200]!r}")
    fields: dict[str, Any] = {}
    for key, value in _every(_FIELD, match[1]):
        if key in fields:
            raise InvalidArchitectureError(f"nb301: {key} stands twice in the genotype")
        fields[key] = _list(value)
    return fields


def _list(text: str) -> list[Any]:
    if text.startswith("range"):
        return CONCAT
    if "(" not in text:
        return [int(number) if re.fullmatch(r"[0-9]", number.strip()) else number for number in text[1:-1].split(",")]
    return [[op, int(source)] for _, op, source in _every(_PAIR, text[1:-1])]


def _every(pattern: re.Pattern[str], text: str) -> list[tuple[str, ...]]:
    """The groups of consecutive matches, which must make up the text."""
    found, position = [], 0
    while position < len(text):
        match = pattern.match(text, position)
        if match is None:
            raise InvalidArchitectureError(f"nb301: the genotype cannot be read at {text[position : position + 60]!r}")
        found.append(match.groups())
        position = match.end()
    return found


def configuration(genome: Int64[np.ndarray, " g"]) -> dict[str, str]:
    """The entries of the benchmark's ConfigSpace dictionary: operations of edges, inputs of nodes.

    Raises :class:`InvalidArchitectureError` where a node's sources are equal, which the benchmark cannot express.
    """
    entries = {}
    for cell, pairs in _cells(genome).items():
        for node in range(NODES):
            (first, a), (second, c) = pairs[2 * node : 2 * node + 2]
            if a == c:
                raise InvalidArchitectureError(f"nb301: node {node + 1} of the {cell} cell has {a} as both sources")
            for op, source in ((first, a), (second, c)):
                entries[f"{_PREFIX}edge_{cell}_{_EDGE_STARTS[node] + source}"] = op
            if node:
                entries[f"{_PREFIX}inputs_node_{cell}_{node + 2}"] = f"{a}_{c}"
    return entries


def read_configuration(entries: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a ConfigSpace dictionary as JSON; keys that are not of the cells' active edges are ignored."""
    cells: dict[str, Any] = {}
    for cell in CELLS:
        cells[cell] = []
        for node in range(NODES):
            given = _entry(entries, f"inputs_node_{cell}_{node + 2}") if node else "0_1"
            match = re.fullmatch(r"([0-9])_([0-9])", str(given))
            if match is None:
                raise InvalidArchitectureError(
                    f"nb301: inputs of node {node + 2} are written as 0_1, got {shown(given)}"
                )
            for source in (int(match[1]), int(match[2])):
                edge = _entry(entries, f"edge_{cell}_{_EDGE_STARTS[node] + source}")
                cells[cell].append([edge, source])
    return cells


def _entry(entries: Mapping[str, Any], key: str) -> Any:
    if _PREFIX + key not in entries:
        raise InvalidArchitectureError(f"nb301: the configuration lacks {_PREFIX}{key}")
    return entries[_PREFIX + key]


def _read_cells(architecture: Any) -> list[Pairs]:
    """The eight pairs of each cell of a JSON architecture, their form checked but not their values."""
    known = {*CELLS, *(f"{cell}_concat" for cell in CELLS)}
    if not isinstance(architecture, dict) or not set(CELLS) <= set(architecture) <= known:
        raise InvalidArchitectureError(
            f"nb301: an architecture is an object with {list(CELLS)}, perhaps their _concat; got {shown(architecture)}"
        )
    for key in known - set(CELLS):
        concat = architecture.get(key, CONCAT)
        if not isinstance(concat, list | tuple) or list(concat) != CONCAT:
            raise InvalidArchitectureError(f"nb301: {key} must be {CONCAT}, got {shown(concat)}")
    return [_read_pairs(cell, architecture[cell]) for cell in CELLS]


def _read_pairs(cell: str, pairs: Any) -> Pairs:
    if not isinstance(pairs, list | tuple) or len(pairs) != 2 * NODES:
        raise InvalidArchitectureError(
            f"nb301: {cell} must be {2 * NODES} pairs [operation, source], got {shown(pairs)}"
        )
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or type(pair[1]) is not int:
            raise InvalidArchitectureError(f"nb301: a pair of {cell} must be [operation, source], got {shown(pair)}")
    return [(op, source) for op, source in pairs]


def _node(pairs: Pairs, node: int) -> tuple[Any, ...]:
    """Sources, first and second operation of a node; the sources sorted."""
    (first, a), (second, c) = sorted(pairs[2 * node : 2 * node + 2], key=lambda pair: pair[1])
    return (a, c), first, second


# The network ----------------------------------------------------------------------------------------------------------


def _stems(b: GraphBuilder, image: Value, c: int) -> tuple[Value, Value]:
    """What the first cell takes for the two cells before it."""
    if b.published:
        first, second = (b.conv(image, c, 3) for _ in range(2))
        return b.batchnorm(b.relu(first)), b.batchnorm(b.relu(second))
    stem = b.batchnorm(b.conv(image, c, 3))
    return stem, stem


@fragment
def _relu_conv_bn(b: GraphBuilder, x: Value, c: int) -> Value:
    return b.batchnorm(b.conv(b.relu(x), c))


@fragment
def _halve(b: GraphBuilder, x: Value, c: int) -> Value:
    """Half the resolution by two convolutions, the second of which sees the image one pixel further on."""
    x = b.relu(x)
    shifted = b.slice(x, x.c, 1, 1)
    return b.batchnorm(b.concat(b.conv(x, c // 2, 1, 2), b.conv(shifted, c // 2, 1, 2)))


@fragment
def _separable(b: GraphBuilder, x: Value, kernel: int, stride: int) -> Value:
    y = b.batchnorm(b.conv(b.depthwise(b.relu(x), kernel, stride), x.c))
    y = y if b.published else b.relu(y)  # the published network activates once only
    return b.batchnorm(b.conv(b.depthwise(y, kernel), x.c))


@fragment
def _dilated(b: GraphBuilder, x: Value, kernel: int, stride: int) -> Value:
    return b.batchnorm(b.conv(b.depthwise(b.relu(x), kernel, stride, 2), x.c))


def _skip(b: GraphBuilder, x: Value, stride: int) -> Value:
    if stride == 2:
        return _halve(b, x, x.c)
    return b.identity(x) if b.published else x


_EMITTERS: dict[str, Callable[[GraphBuilder, Value, int], Value]] = {
    "max_pool_3x3": lambda b, x, stride: b.maxpool(x, 3, stride, 1),
    "avg_pool_3x3": lambda b, x, stride: b.avgpool(x, 3, stride, 1),
    "skip_connect": _skip,
    "sep_conv_3x3": lambda b, x, stride: _separable(b, x, 3, stride),
    "sep_conv_5x5": lambda b, x, stride: _separable(b, x, 5, stride),
    "dil_conv_3x3": lambda b, x, stride: _dilated(b, x, 3, stride),
    "dil_conv_5x5": lambda b, x, stride: _dilated(b, x, 5, stride),
}


def _zeros(b: GraphBuilder, x: Value, stride: int) -> Value:
    """What a node of two edges that are ``none`` holds."""
    return b.zero(b.slice(x, x.c, step=(stride, stride)))


@fragment
def _cell(b: GraphBuilder, s0: Value, s1: Value, genes: tuple[int, ...], stride: int) -> Value:
    """The four nodes side by side. In a reduction the edges from the cells before have stride 2.

    An edge that is ``none`` adds zeros to its node, and so nothing.
    """
    states = [s0, s1]
    for node in range(NODES):
        pair, *ops = genes[3 * node : 3 * node + 3]
        terms = [
            _EMITTERS[OPERATIONS[op]](b, states[source], stride if source < 2 else 1)
            for op, source in zip(ops, SOURCES[node][pair], strict=True)
            if OPERATIONS[op] != "none"
        ]
        first = SOURCES[node][pair][0]
        states.append(b.add(*terms) if terms else _zeros(b, states[first], stride if first < 2 else 1))
    return b.concat(*states[2:])
