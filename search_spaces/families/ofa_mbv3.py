"""OFA-MobileNetV3, width 1.2: five units of two to four inverted-bottleneck layers on ImageNet (Cai et al., 2020)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from gennape.search_spaces.families.ofa_units import RESOLUTIONS, OfaUnits, unit_genes, unit_layers
from gennape.search_spaces.graphs.blocks import fragment, make_divisible
from gennape.search_spaces.graphs.builder import GraphBuilder, Value

# Output channels, stride, squeeze-excitation, hard-swish of each unit.
UNITS = ((32, 2, False, False), (48, 2, True, False), (96, 2, False, True), (136, 1, True, True), (192, 2, True, True))


class OfaMobileNetV3(OfaUnits):
    """Genome: resolution, five depths, then the (expansion, kernel) of four layers per unit; unused layers are 0."""

    name = "ofa_mbv3"
    layer = "mbconv3"
    genes = unit_genes(len(UNITS))

    def emit(self, b: GraphBuilder, genome: Int64[np.ndarray, " g"]) -> Value:
        """Stem, first block, five units, final expansion, feature mix, classifier."""
        r = RESOLUTIONS[genome[0]]
        x = _stem(b, b.input(3, r, r))
        for (c_out, stride, se, swish), layers in zip(UNITS, unit_layers(genome), strict=True):
            for i, (e, k) in enumerate(layers):
                x = _mbconv(b, x, c_out, e, k, stride if i == 0 else 1, se, swish)
        return _head(b, x)


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
    x = b.hardswish(b.conv(x, 1536))
    # The published graph keeps the dropout, which passes its input on.
    return b.linear(b.identity(x) if b.published else x, 1000)
