"""OFA-MobileNetV3, width 1.2: five units of two to four inverted-bottleneck layers on ImageNet (Cai et al., 2020)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int64

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.builder import GraphBuilder, Value, fragment, make_divisible
from gennape.search_spaces.graph import ComputationGraph
from gennape.search_spaces.space import Architecture, Gene, SearchSpace, index_of, require_keys

LAYERS = tuple((e, k) for e in (3, 4, 6) for k in (3, 5, 7))
DEPTHS = (2, 3, 4)
RESOLUTIONS = tuple(range(128, 257, 4))
STUDIED = (192, 208, 224)
# Output channels, stride, squeeze-excitation, hard-swish of each unit.
UNITS = ((32, 2, False, False), (48, 2, True, False), (96, 2, False, True), (136, 1, True, True), (192, 2, True, True))


class OfaMobileNetV3(SearchSpace):
    """Genome: resolution, five depths, then the (expansion, kernel) of four layers per unit; unused layers are 0."""

    name = "ofa_mbv3"
    genes = (
        Gene("resolution", RESOLUTIONS, tuple(RESOLUTIONS.index(r) for r in STUDIED)),
        *(Gene(f"depth of unit {u + 1}", DEPTHS) for u in range(5)),
        *(Gene(f"(expansion, kernel) of unit {u + 1}, layer {i + 1}", LAYERS) for u in range(5) for i in range(4)),
    )

    def canonical(self, genomes: Int64[np.ndarray, "n g"]) -> Int64[np.ndarray, "n g"]:
        """Layers beyond a unit's depth are set to 0."""
        depth = genomes[:, 1:6, None] + DEPTHS[0]
        layers = np.where(np.arange(4) < depth, genomes[:, 6:].reshape(-1, 5, 4), 0)
        return np.concatenate([genomes[:, :6], layers.reshape(len(genomes), 20)], axis=1)

    def encode(self, genome: Int64[np.ndarray, " g"]) -> Architecture:
        """``{"resolution": r, "units": [[[expansion, kernel], ...] per unit]}``."""
        units = [[list(LAYERS[g]) for g in layers] for layers in _layers(genome)]
        return {"resolution": RESOLUTIONS[genome[0]], "units": units}

    def decode(self, architecture: Architecture) -> Int64[np.ndarray, " g"]:
        """Reads what ``encode`` writes, and the published ``{"resolution", "blocks": [["mbconv3_e3_k3", ...], …]}``."""
        if isinstance(architecture, dict) and "blocks" in architecture:
            architecture = _from_blocks(architecture)
        fields = require_keys(architecture, ("resolution", "units"), self.name)
        units = fields["units"]
        if not isinstance(units, list) or len(units) != 5 or not all(isinstance(u, list) for u in units):
            raise InvalidArchitectureError(f"{self.name}: units must be 5 lists of layers, got {units!r}")
        genome = np.zeros(len(self.genes), np.int64)
        genome[0] = index_of(self.genes[0], fields["resolution"], self.name)
        for u, layers in enumerate(units):
            genome[1 + u] = index_of(self.genes[1 + u], len(layers), self.name)
            for i, layer in enumerate(layers):
                value = tuple(layer) if isinstance(layer, list) else layer
                genome[6 + 4 * u + i] = index_of(self.genes[6 + 4 * u + i], value, self.name)
        return genome

    def graph(self, genome: Int64[np.ndarray, " g"]) -> ComputationGraph:
        """Stem, first block, five units, final expansion, feature mix, classifier."""
        b = GraphBuilder()
        r = RESOLUTIONS[genome[0]]
        x = _stem(b, b.input(3, r, r))
        for (c_out, stride, se, swish), layers in zip(UNITS, _layers(genome), strict=True):
            for i, layer in enumerate(layers):
                e, k = LAYERS[layer]
                x = _mbconv(b, x, c_out, e, k, stride if i == 0 else 1, se, swish)
        b.output(_head(b, x))
        return b.build()


def _layers(genome: Int64[np.ndarray, " g"]) -> list[list[int]]:
    values = genome.tolist()
    return [values[6 + 4 * u : 6 + 4 * u + DEPTHS[values[1 + u]]] for u in range(5)]


def _from_blocks(architecture: dict[str, Any]) -> Architecture:
    fields = require_keys(architecture, ("resolution", "blocks"), OfaMobileNetV3.name)
    known = {f"mbconv3_e{e}_k{k}": [e, k] for e, k in LAYERS}
    try:
        units = [[known[layer] for layer in unit] for unit in fields["blocks"]]
    except (KeyError, TypeError) as error:
        raise InvalidArchitectureError(f"ofa_mbv3: unknown block {error}; known are {sorted(known)}") from None
    return {"resolution": fields["resolution"], "units": units}


def _act(b: GraphBuilder, x: Value, swish: bool) -> Value:
    return b.hardswish(x) if swish else b.relu(x)


@fragment
def _stem(b: GraphBuilder, image: Value) -> Value:
    x = b.hardswish(b.batchnorm(b.conv(image, 24, 3, 2)))
    y = b.relu(b.batchnorm(b.depthwise(x, 3)))
    return b.add(b.batchnorm(b.conv(y, 24)), x)


@fragment
def _mbconv(b: GraphBuilder, x: Value, c_out: int, e: int, k: int, stride: int, se: bool, swish: bool) -> Value:
    hidden = make_divisible(x.c * e)
    y = _act(b, b.batchnorm(b.conv(x, hidden)), swish)
    y = _act(b, b.batchnorm(b.depthwise(y, k, stride)), swish)
    if se:
        squeezed = b.relu(b.conv(b.mean(y), make_divisible(hidden // 4), bias=True))
        y = b.mul(y, b.hardsigmoid(b.conv(squeezed, hidden, bias=True)))
    y = b.batchnorm(b.conv(y, c_out))
    return b.add(y, x) if stride == 1 and c_out == x.c else y


@fragment
def _head(b: GraphBuilder, x: Value) -> Value:
    x = b.mean(b.hardswish(b.batchnorm(b.conv(x, 1152))))
    return b.linear(b.hardswish(b.conv(x, 1536)), 1000)
