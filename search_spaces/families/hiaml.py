"""HiAML: four stages on CIFAR-10, each repeating one of 14 machine-found blocks twice (GENNAPE, AAAI-23)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Int64

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families.space import Architecture, Gene, SearchSpace, index_of, shown
from gennape.search_spaces.graphs.blocks import fragment
from gennape.search_spaces.graphs.builder import GraphBuilder, Value

STAGES = ((64, 1), (128, 2), (128, 1), (256, 2))  # output channels and stride of each stage's first block


def _conv(b: GraphBuilder, x: Value, c: int, k: int, s: int = 1) -> Value:
    return b.batchnorm(b.conv(x, c, k, s))


def _conv6(b: GraphBuilder, x: Value, c: int, k: int, s: int = 1) -> Value:
    y = _conv(b, x, c, k, s)
    # The networks have ReLU6 here, the published graphs ReLU.
    return b.relu(y) if b.published else b.relu6(y)


def _split(b: GraphBuilder, x: Value, c: int, s: int = 1) -> Value:
    """A 3x3 convolution in two steps, 1x3 with the whole stride and 3x1."""
    y = b.relu6(b.batchnorm(b.conv(x, c, (1, 3), s)))
    return b.relu6(b.batchnorm(b.conv(y, c, (3, 1))))


def _project(b: GraphBuilder, x: Value, c: int, s: int) -> Value:
    return _conv(b, x, c, 1, s) if s == 2 or x.c != c else x


def _z(b: GraphBuilder, x: Value, c: int, s: int) -> tuple[Value, ...]:
    a = _conv6(b, x, c, 3, s)
    return a, _split(b, a, c)


def _a22(b: GraphBuilder, x: Value, c: int, s: int) -> tuple[Value, ...]:
    a = _conv6(b, x, c, 3, s)
    return a, _conv(b, _conv6(b, a, c, 1), c, 1)


def _b23(b: GraphBuilder, x: Value, c: int, s: int) -> tuple[Value, ...]:
    y = _split(b, _split(b, x, c, s), c)
    return _project(b, x, c, s), y


def _j30(b: GraphBuilder, x: Value, c: int, s: int) -> tuple[Value, ...]:
    y = _split(b, _conv6(b, x, c, 3, s), c)
    return _project(b, x, c, s), y


def _g30(b: GraphBuilder, x: Value, c: int, s: int) -> tuple[Value, ...]:
    p = _project(b, x, c, s)
    a = _split(b, x, c, s)
    return a, _conv(b, _split(b, b.add(p, a), c), c, 1)


def _r30(b: GraphBuilder, x: Value, c: int, s: int) -> tuple[Value, ...]:
    p, q = _project(b, x, c, s), _project(b, x, c, s)
    a = _split(b, x, c, s)
    return q, _conv(b, b.add(p, a), c, 1), _split(b, a, c)


def _l20(b: GraphBuilder, x: Value, c: int, s: int) -> tuple[Value, ...]:
    return (_conv(b, _conv6(b, x, c, 3, s), c, 1),)


def _t20(b: GraphBuilder, x: Value, c: int, s: int) -> tuple[Value, ...]:
    return _conv(b, x, c, 1, s), _split(b, x, c, s)


def _t31(b: GraphBuilder, x: Value, c: int, s: int) -> tuple[Value, ...]:
    p, q = _project(b, x, c, s), _project(b, x, c, s)
    y = _conv6(b, _split(b, x, c, s), c, 1)
    return q, y, _split(b, b.add(p, y), c)


def _src0(b: GraphBuilder, x: Value, c: int, s: int) -> tuple[Value, ...]:
    a = _conv6(b, x, c, 1, s)
    return a, _conv(b, _conv6(b, a, c, 3), c, 3)


def _src1(b: GraphBuilder, x: Value, c: int, s: int) -> tuple[Value, ...]:
    return _conv6(b, x, c, 1, s), _conv(b, _conv6(b, x, x.c, 3), c, 3, s)


def _src3(b: GraphBuilder, x: Value, c: int, s: int) -> tuple[Value, ...]:
    q = _conv(b, x, c, 1, s)
    return q, _conv(b, _conv6(b, _conv6(b, x, x.c, 1), c, 3, s), c, 1)


def _src7(b: GraphBuilder, x: Value, c: int, s: int) -> tuple[Value, ...]:
    a = _conv(b, x, c, 1, s)
    return a, _split(b, _split(b, a, c), c)


def _src8(b: GraphBuilder, x: Value, c: int, s: int) -> tuple[Value, ...]:
    a = _conv(b, x, c, 1, s)
    return a, _conv(b, _split(b, a, c), c, 1)


#: What each block sums before its final ReLU.
BLOCKS: dict[str, Callable[[GraphBuilder, Value, int, int], tuple[Value, ...]]] = {
    "hiaml_z": _z,
    "hiaml_a22": _a22,
    "hiaml_b23": _b23,
    "hiaml_j30": _j30,
    "hiaml_g30": _g30,
    "hiaml_r30": _r30,
    "hiaml_l20": _l20,
    "hiaml_t20": _t20,
    "hiaml_t31": _t31,
    "hiaml_src0": _src0,
    "hiaml_src1": _src1,
    "hiaml_src3": _src3,
    "hiaml_src7": _src7,
    "hiaml_src8": _src8,
}
NAMES = tuple(BLOCKS)
_PREFIX = "hiaml_"


@fragment
def _block(b: GraphBuilder, x: Value, name: str, c: int, stride: int) -> Value:
    return b.relu(b.add(*BLOCKS[name](b, x, c, stride)))


class HiAML(SearchSpace):
    """Genome: the block of each of four stages."""

    name = "hiaml"
    genes = tuple(Gene(f"block of stage {i + 1}", NAMES) for i in range(4))

    def encode(self, genome: Int64[np.ndarray, " g"]) -> Architecture:
        """The four block names."""
        return [NAMES[g] for g in genome]

    def decode(self, architecture: Architecture) -> Int64[np.ndarray, " g"]:
        """Reads what ``encode`` and :func:`original_string` write."""
        names = architecture
        if isinstance(architecture, str):
            names = [f"{_PREFIX}{part}" for part in architecture.split("_")[1:]]
        if not isinstance(names, list) or len(names) != 4:
            raise InvalidArchitectureError(f"{self.name}: an architecture is 4 block names, got {shown(architecture)}")
        indices = [index_of(gene, name, self.name) for gene, name in zip(self.genes, names, strict=True)]
        return np.array(indices, np.int64)

    def emit(self, b: GraphBuilder, genome: Int64[np.ndarray, " g"]) -> Value:
        """Stem at stride 2, four stages of two blocks, classifier."""
        x = b.relu(_conv(b, b.input(3, 32, 32), 64, 3, 2))
        for gene, (c, stride) in zip(genome.tolist(), STAGES, strict=True):
            x = _block(b, x, NAMES[gene], c, stride)
            x = _block(b, x, NAMES[gene], c, 1)
        return b.linear(b.mean(x), 10)


def original_string(genome: Int64[np.ndarray, " g"]) -> str:
    """The architecture as the family's own code writes it: ``_z_a22_src0_l20``."""
    return "".join("_" + NAMES[g].removeprefix(_PREFIX) for g in genome.tolist())
