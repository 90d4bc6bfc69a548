"""Two-Path: two parallel paths of blocks on CIFAR-10, joined by concatenation (GENNAPE, AAAI-23)."""

from __future__ import annotations

import re
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families import op_lists
from gennape.search_spaces.families.space import Architecture, Gene, SearchSpace, require_keys, shown
from gennape.search_spaces.graphs.blocks import fragment
from gennape.search_spaces.graphs.builder import GraphBuilder, Value

LENGTHS = (2, 3, 4)
# The two blocks of a path that reduce; the first n(n - 1)/2 pairs fit into a path of n blocks.
REDUCING = tuple(sorted(combinations(range(4), 2), key=lambda pair: pair[1]))
BLOCKS, SLOTS = 4, 3
_BLOCK = 1 + SLOTS  # genes of a block: number of operations, operations
_PATH = 2 + BLOCKS * _BLOCK  # genes of a path: number of blocks, reducing pair, blocks
_KEYS = ("path1", "path2", "path1_reduce_inds", "path2_reduce_inds")
_STRING = re.compile(r"Path1:\[(.*)\]\nPath1ReduceInds:\[(.*)\]\nPath2:\[(.*)\]\nPath2ReduceInds:\[(.*)\]\n?", re.ASCII)


def _conv6(b: GraphBuilder, x: Value, c: int, k: int | tuple[int, int], s: int = 1) -> Value:
    return b.relu6(b.batchnorm(b.conv(x, c, k, s)))


def _conv(b: GraphBuilder, x: Value, c: int, s: int, k: int) -> Value:
    return _conv6(b, x, c, k, s)


def _double(b: GraphBuilder, x: Value, c: int, s: int) -> Value:
    return _conv6(b, _conv6(b, x, x.c, 3, s), c, 3)


def _split(b: GraphBuilder, x: Value, c: int, s: int, k: int) -> Value:
    """A convolution in two steps, 1xk with the whole stride and kx1."""
    return _conv6(b, _conv6(b, x, c, (1, k), s), c, (k, 1))


def _bottleneck(b: GraphBuilder, x: Value, c: int, s: int, k: int, expand: int = 1, reduce: int = 1) -> Value:
    hidden = x.c * expand // reduce
    if b.published:
        # The published graphs have no activation here, the networks do.
        return b.batchnorm(b.conv(b.batchnorm(b.conv(x, hidden, k, s)), c, k))
    return _conv6(b, _conv6(b, x, hidden, k, s), c, k)


#: Operations that may stride and change channels.
CONV: dict[str, op_lists.Operation] = {
    "conv3x3": partial(_conv, k=3),
    "double3x3": _double,
    "conv5x5": partial(_conv, k=5),
    "bottleneck-r2-k3": partial(_bottleneck, k=3, reduce=2),
    "bottleneck-r4-k3": partial(_bottleneck, k=3, reduce=4),
    "bottleneck-e2-k3": partial(_bottleneck, k=3, expand=2),
    "inception_s3x3": partial(_split, k=3),
    "inception_s5x5": partial(_split, k=5),
}
#: Supplementary operations, of which a block has at most one.
SUPP: dict[str, op_lists.Operation] = {
    "conv1x1": partial(_conv, k=1),
    "bottleneck-r2-k1": partial(_bottleneck, k=1, reduce=2),
    "bottleneck-e2-k1": partial(_bottleneck, k=1, expand=2),
    "avgpool3x3": op_lists.avgpool,
    "maxpool3x3": op_lists.maxpool,
}
NAMES = (*CONV, *SUPP)
_OPS = (*CONV.values(), *SUPP.values())


@fragment
def _operation(b: GraphBuilder, x: Value, op: int, c: int, stride: int) -> Value:
    return _OPS[op](b, x, c, stride)


@fragment
def _block(b: GraphBuilder, x: Value, ops: tuple[int, ...], c: int, stride: int) -> Value:
    """The first convolution takes the block's stride and channels, even after a supplementary operation."""
    changing = next(i for i, op in enumerate(ops) if op < len(CONV))
    y = x
    for i, op in enumerate(ops):
        y = _operation(b, y, op, c, stride) if i == changing else _operation(b, y, op, y.c, 1)
    return b.add(y, x) if stride == 1 and c == x.c else y


@fragment
def _stem(b: GraphBuilder, image: Value) -> Value:
    return _conv6(b, _conv6(b, image, 32, 3), 32, 3, 2)


@fragment
def _head(b: GraphBuilder, first: Value, second: Value) -> Value:
    x = b.mean(_conv6(b, b.concat(first, second), 512, 3))
    # The published graph keeps the dropout, which passes its input on.
    return b.linear(b.identity(x) if b.published else x, 10)


def _path_genes(path: int) -> tuple[Gene, ...]:
    blocks = (
        (
            Gene(f"operations of path {path}, block {j + 1}", (1, 2, 3)),
            *(Gene(f"operation {i + 1} of path {path}, block {j + 1}", NAMES) for i in range(SLOTS)),
        )
        for j in range(BLOCKS)
    )
    return (
        Gene(f"blocks of path {path}", LENGTHS),
        Gene(f"reducing blocks of path {path}", REDUCING),
        *(gene for block in blocks for gene in block),
    )


class TwoPath(SearchSpace):
    """Genome: per path its number of blocks, the two that reduce, then four blocks of a length and three operations.

    Unused blocks and operations are 0.
    """

    name = "two_path"
    genes = (*_path_genes(1), *_path_genes(2))

    def canonical(self, genomes: Int64[np.ndarray, "n g"]) -> Int64[np.ndarray, "n g"]:
        """Blocks beyond a path's length and operations beyond a block's are set to 0."""
        out = genomes.copy()
        _, blocks = _views(out)
        used_blocks, used_ops = _used(out)
        blocks[..., 0] *= used_blocks
        blocks[..., 1:] *= used_ops
        return out

    def feasible(self, genomes: Int64[np.ndarray, "n g"]) -> Bool[np.ndarray, " n"]:
        """Both reducing blocks exist; each block has a convolution and at most one supplementary operation."""
        heads, blocks = _views(genomes)
        used_blocks, used_ops = _used(genomes)
        lengths = heads[..., 0] + LENGTHS[0]
        reducing = heads[..., 1] < lengths * (lengths - 1) // 2
        lawful = op_lists.lawful(blocks[..., 1:], used_ops, len(CONV)) | ~used_blocks
        return (reducing & lawful.all(2)).all(1)

    def sample(self, rng: np.random.Generator, n: int) -> Int64[np.ndarray, "n g"]:
        """``n`` canonical genomes, distributed as the published sampler's.

        Lengths are uniform, as are the reducing pairs given the length; operations as by :func:`op_lists.draw`.
        """
        genomes = np.zeros((n, len(self.genes)), np.int64)
        heads, blocks = _views(genomes)
        heads[..., 0] = rng.integers(len(LENGTHS), size=(n, 2))
        lengths = heads[..., 0] + LENGTHS[0]
        heads[..., 1] = rng.integers(lengths * (lengths - 1) // 2)
        blocks[..., 0] = rng.integers(SLOTS, size=(n, 2, BLOCKS))
        blocks[..., 1:] = op_lists.draw(rng, blocks[..., 0] + 1, SLOTS, len(CONV), len(SUPP))
        return self.canonical(genomes)

    def encode(self, genome: Int64[np.ndarray, " g"]) -> Architecture:
        """``{"path1": [{"op_names", "op_types"} per block], "path2", "path1_reduce_inds", "path2_reduce_inds"}``."""
        paths = _paths(genome)
        blocks = {f"path{p + 1}": [_encode_block(ops) for ops in path] for p, (path, _) in enumerate(paths)}
        return blocks | {f"path{p + 1}_reduce_inds": list(reducing) for p, (_, reducing) in enumerate(paths)}

    def decode(self, architecture: Architecture) -> Int64[np.ndarray, " g"]:
        """Reads what ``encode`` and :func:`original_string` write."""
        if isinstance(architecture, str):
            architecture = _from_string(architecture)
        fields = require_keys(architecture, _KEYS, self.name)
        paths = [self._read_path(fields[f"path{p}"], fields[f"path{p}_reduce_inds"], p) for p in (1, 2)]
        return np.array(paths[0] + paths[1], np.int64)

    def _read_path(self, blocks: Any, reducing: Any, path: int) -> list[int]:
        """The genes of a path."""
        if not isinstance(blocks, list) or len(blocks) not in LENGTHS:
            raise InvalidArchitectureError(
                f"{self.name}: path{path} must be a list of 2 to 4 blocks, got {shown(blocks)}"
            )
        if not isinstance(reducing, list) or tuple(reducing) not in REDUCING or reducing[1] >= len(blocks):
            raise InvalidArchitectureError(
                f"{self.name}: path{path}_reduce_inds must be 2 sorted indices of its {len(blocks)} blocks, "
                f"got {shown(reducing)}"
            )
        genes = [LENGTHS.index(len(blocks)), REDUCING.index(tuple(reducing))]
        for j, block in enumerate(blocks):
            where = f"{self.name}: path{path}, block {j}"
            fields = require_keys(block, ("op_names", "op_types"), where)
            ops = op_lists.read(fields["op_names"], fields["op_types"], list(CONV), list(SUPP), where)
            if len(ops) > SLOTS:
                raise InvalidArchitectureError(f"{where}: takes at most {SLOTS} operations, got {len(ops)}")
            genes += [len(ops) - 1, *ops, *[0] * (SLOTS - len(ops))]
        return genes + [0] * (_PATH - len(genes))

    def emit(self, b: GraphBuilder, genome: Int64[np.ndarray, " g"]) -> Value:
        """Two stem convolutions, both paths, their concatenation, a convolution, classifier."""
        stem = _stem(b, b.input(3, 32, 32))
        ends = []
        for path, reducing in _paths(genome):
            x = stem
            for j, ops in enumerate(path):
                x = _block(b, x, ops, 2 * x.c, 2) if j in reducing else _block(b, x, ops, x.c, 1)
            ends.append(x)
        return _head(b, *ends)


def original_string(genome: Int64[np.ndarray, " g"]) -> str:
    """The architecture as the family's own code prints it, four lines."""
    lines = []
    for p, (path, reducing) in enumerate(_paths(genome), 1):
        blocks = [_encode_block(ops) for ops in path]
        texts = [f"SPBlock({'+'.join(block['op_names'])};{'+'.join(block['op_types'])})" for block in blocks]
        lines += [f"Path{p}:[{', '.join(texts)}]\n", f"Path{p}ReduceInds:{list(reducing)}\n"]
    return "".join(lines)


def _from_string(text: str) -> Architecture:
    found = _STRING.fullmatch(text)
    if not found:
        raise InvalidArchitectureError(
            f"two_path: a string has the lines Path1:[SPBlock(op+op;type+type), ...], Path1ReduceInds:[i, j], "
            f"Path2:..., Path2ReduceInds:..., got {shown(text)}"
        )
    blocks, reducing = found.group(1, 3), found.group(2, 4)
    return dict(zip(_KEYS, [*map(_blocks_from_string, blocks), *map(_indices_from_string, reducing)], strict=True))


def _blocks_from_string(text: str) -> Architecture:
    parts = [re.fullmatch(r"SPBlock\(([^;]*);([^;]*)\)", part) for part in text.split(", ")]
    if not all(parts):
        raise InvalidArchitectureError(f"two_path: blocks are written SPBlock(op+op;type+type), got {shown(text)}")
    return [{"op_names": part[1].split("+"), "op_types": part[2].split("+")} for part in parts if part]


def _indices_from_string(text: str) -> Architecture:
    return [int(part) if re.fullmatch("[0-3]", part) else part for part in text.split(", ")]


def _encode_block(ops: tuple[int, ...]) -> dict[str, list[str]]:
    return {
        "op_names": [NAMES[op] for op in ops],
        "op_types": op_lists.types(ops, len(CONV)),
    }


def _paths(genome: Int64[np.ndarray, " g"]) -> list[tuple[list[tuple[int, ...]], tuple[int, int]]]:
    """Of each path, the operations of its blocks and the two that reduce."""
    values = genome.tolist()
    paths = []
    for path in (values[:_PATH], values[_PATH:]):
        starts = range(2, 2 + _BLOCK * LENGTHS[path[0]], _BLOCK)
        paths.append(([tuple(path[s + 1 : s + 2 + path[s]]) for s in starts], REDUCING[path[1]]))
    return paths


def _views(
    genomes: Int64[np.ndarray, "n g"],
) -> tuple[Int64[np.ndarray, "n 2 2"], Int64[np.ndarray, "n 2 blocks genes"]]:
    """Number of blocks and reducing pair of each path; its blocks. Views where ``genomes`` is contiguous."""
    paths = genomes.reshape(len(genomes), 2, _PATH)
    return paths[..., :2], paths[..., 2:].reshape(len(genomes), 2, BLOCKS, _BLOCK)


def _used(
    genomes: Int64[np.ndarray, "n g"],
) -> tuple[Bool[np.ndarray, "n 2 blocks"], Bool[np.ndarray, "n 2 blocks slots"]]:
    """Which blocks and which operations exist."""
    heads, blocks = _views(genomes)
    used_blocks = op_lists.within(heads[..., 0] + LENGTHS[0], BLOCKS)
    return used_blocks, op_lists.within(blocks[..., 0] + 1, SLOTS) & used_blocks[..., None]
