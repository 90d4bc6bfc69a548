"""ProxylessNAS on OFA's supernet, width 1.3: five units of two to four layers and a last one, on ImageNet.

Cai et al., "ProxylessNAS" (2019) and "Once-for-All" (2020).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from gennape.search_spaces.families.ofa_units import RESOLUTIONS, OfaUnits, unit_genes, unit_layers
from gennape.search_spaces.graphs.blocks import fragment
from gennape.search_spaces.graphs.builder import GraphBuilder, Value

EPS = 1e-3
# Output channels and stride of each unit.
UNITS = ((32, 2), (56, 2), (104, 2), (128, 1), (248, 2), (416, 1))


class ProxylessNAS(OfaUnits):
    """Genome: resolution, five depths, four layers per unit and one of the sixth; unused layers are 0."""

    name = "proxylessnas"
    layer = "mbconv2"
    genes = unit_genes(len(UNITS))

    def emit(self, b: GraphBuilder, genome: Int64[np.ndarray, " g"]) -> Value:
        """Stem, first block, six units, feature mix, classifier."""
        r = RESOLUTIONS[genome[0]]
        x = _stem(b, b.input(3, r, r))
        for (c_out, stride), layers in zip(UNITS, unit_layers(genome), strict=True):
            for i, (e, k) in enumerate(layers):
                x = _mbconv(b, x, c_out, e, k, stride if i == 0 else 1)
        return _head(b, x)


def _bn_relu6(b: GraphBuilder, x: Value) -> Value:
    return b.relu6(b.batchnorm(x, EPS))


@fragment
def _stem(b: GraphBuilder, image: Value) -> Value:
    x = _bn_relu6(b, b.conv(image, 40, 3, 2))
    x = _bn_relu6(b, b.depthwise(x, 3))
    return b.batchnorm(b.conv(x, 24), EPS)


@fragment
def _mbconv(b: GraphBuilder, x: Value, c_out: int, e: int, k: int, stride: int) -> Value:
    y = _bn_relu6(b, b.conv(x, x.c * e))
    y = _bn_relu6(b, b.depthwise(y, k, stride))
    y = b.batchnorm(b.conv(y, c_out), EPS)
    return b.add(y, x) if stride == 1 and c_out == x.c else y


@fragment
def _head(b: GraphBuilder, x: Value) -> Value:
    x = b.mean(_bn_relu6(b, b.conv(x, 1664)))
    # The published graph keeps the dropout, which passes its input on.
    return b.linear(b.identity(x) if b.published else x, 1000)
