"""OFA-ResNet50: elastic depth, expansion and width bottlenecks on ImageNet (Cai et al., 2020)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int64

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families.ofa_units import RESOLUTION_GENE, RESOLUTIONS, ofa_resolution
from gennape.search_spaces.families.space import Architecture, Gene, SearchSpace, index_of, require_keys, shown
from gennape.search_spaces.graphs.blocks import conv_bn, conv_bn_relu, fragment, make_divisible
from gennape.search_spaces.graphs.builder import GraphBuilder, Value

EXPANSIONS = (0.2, 0.25, 0.35)
MULTIPLIERS = (0.65, 0.8, 1.0)
BASE_DEPTHS = (2, 2, 4, 2)
SLOTS = (4, 4, 6, 4)  # blocks of a unit at its greatest depth
STARTS = (0, 4, 8, 14)
CHANNELS = (256, 512, 1024, 2048)
STRIDES = (1, 2, 2, 2)


class OfaResNet(SearchSpace):
    """Genome: resolution, stem residual, four extra depths, six widths, 18 expansions; unused expansions are 0."""

    name = "ofa_resnet"
    genes = (
        RESOLUTION_GENE,
        Gene("stem residual", (False, True)),
        *(Gene(f"extra depth of unit {u + 1}", (0, 1, 2)) for u in range(4)),
        *(Gene(f"width of {part}", (0, 1, 2)) for part in ("stem middle", "stem", *(f"unit {u}" for u in range(1, 5)))),
        *(Gene(f"expansion of block {i + 1}", EXPANSIONS) for i in range(18)),
    )

    def canonical(self, genomes: Int64[np.ndarray, "n g"]) -> Int64[np.ndarray, "n g"]:
        """Expansions of absent blocks are 0; stem width indices 0 and 1 give the same width and become 0."""
        out = genomes.copy()
        for slots, start, base, u in zip(SLOTS, STARTS, BASE_DEPTHS, range(4), strict=True):
            absent = np.arange(slots) >= base + genomes[:, 2 + u, None]
            out[:, 12 + start : 12 + start + slots][absent] = 0
        out[:, 6] = np.where(out[:, 6] == 1, 0, out[:, 6])
        return out

    def encode(self, genome: Int64[np.ndarray, " g"]) -> Architecture:
        """``{"resolution", "stem_residual", "width": [6 indices], "expand": [[ratio per block] per unit]}``."""
        expand = [[EXPANSIONS[g] for g in blocks] for blocks in _blocks(genome)]
        return {
            "resolution": RESOLUTIONS[genome[0]],
            "stem_residual": bool(genome[1]),
            "width": genome[6:12].tolist(),
            "expand": expand,
        }

    def decode(self, architecture: Architecture) -> Int64[np.ndarray, " g"]:
        """Reads what ``encode`` writes, and OFA's ``{"d", "e", "w"}`` with ``"r"`` or ``"resolution"``."""
        if isinstance(architecture, dict) and "d" in architecture:
            architecture = _from_ofa(architecture)
        fields = require_keys(architecture, ("resolution", "stem_residual", "width", "expand"), self.name)
        width, expand = fields["width"], fields["expand"]
        if not isinstance(width, list) or len(width) != 6:
            raise InvalidArchitectureError(f"{self.name}: width must be 6 indices, got {shown(width)}")
        if not isinstance(expand, list) or len(expand) != 4 or not all(isinstance(u, list) for u in expand):
            raise InvalidArchitectureError(f"{self.name}: expand must be 4 lists of ratios, got {shown(expand)}")
        genome = np.zeros(len(self.genes), np.int64)
        genome[0] = index_of(self.genes[0], fields["resolution"], self.name)
        genome[1] = index_of(self.genes[1], fields["stem_residual"], self.name)
        for i, index in enumerate(width):
            genome[6 + i] = index_of(self.genes[6 + i], index, self.name)
        for u, ratios in enumerate(expand):
            genome[2 + u] = index_of(self.genes[2 + u], len(ratios) - BASE_DEPTHS[u], self.name)
            for i, ratio in enumerate(ratios):
                genome[12 + STARTS[u] + i] = index_of(self.genes[12 + STARTS[u] + i], ratio, self.name)
        canonical: Int64[np.ndarray, " g"] = self.canonical(genome[None])[0]
        return canonical

    def emit(self, b: GraphBuilder, genome: Int64[np.ndarray, " g"]) -> Value:
        """Stem with an optional residual convolution, max pool, four units of bottlenecks, classifier."""
        r = RESOLUTIONS[genome[0]]
        stem_out = make_divisible(64 * MULTIPLIERS[genome[7]])
        stem_mid = make_divisible(make_divisible(64 * MULTIPLIERS[genome[6]]) // 2)
        x = _stem(b, b.input(3, r, r), stem_mid, stem_out, bool(genome[1]))
        for u, blocks in enumerate(_blocks(genome)):
            c_out = make_divisible(CHANNELS[u] * MULTIPLIERS[genome[8 + u]])
            for i, expansion in enumerate(blocks):
                x = _bottleneck(b, x, c_out, STRIDES[u] if i == 0 else 1, EXPANSIONS[expansion])
        return b.linear(b.mean(x), 1000)


def ofa_dict(genome: Int64[np.ndarray, " g"]) -> dict[str, list[Any]]:
    """The network as OFA writes it: ``{"d", "e", "w", "r"}``, one expansion per possible block, absent blocks 0."""
    e: list[float] = [0] * sum(SLOTS)
    for start, blocks in zip(STARTS, _blocks(genome), strict=True):
        e[start : start + len(blocks)] = [EXPANSIONS[gene] for gene in blocks]
    depths = [2 if genome[1] else 0, *genome[2:6].tolist()]
    return {"d": depths, "e": e, "w": genome[6:12].tolist(), "r": [RESOLUTIONS[genome[0]]]}


def _blocks(genome: Int64[np.ndarray, " g"]) -> list[list[int]]:
    values = genome.tolist()
    return [values[12 + STARTS[u] : 12 + STARTS[u] + BASE_DEPTHS[u] + values[2 + u]] for u in range(4)]


def _from_ofa(architecture: dict[str, Any]) -> Architecture:
    fields = require_keys(architecture, ("r" if "r" in architecture else "resolution", "d", "e", "w"), OfaResNet.name)
    resolution = ofa_resolution(fields["r"]) if "r" in fields else fields["resolution"]
    d, e, w = fields["d"], fields["e"], fields["w"]
    if not (isinstance(d, list) and len(d) == 5 and isinstance(e, list) and len(e) == 18 and isinstance(w, list)):
        raise InvalidArchitectureError(f"ofa_resnet: d, e, w must hold 5, 18 and 6 entries, got {shown(architecture)}")
    if not all(extra in (0, 1, 2) for extra in d):
        raise InvalidArchitectureError(f"ofa_resnet: depths d must be 0, 1 or 2, got {shown(d)}")
    expand = [e[STARTS[u] : STARTS[u] + BASE_DEPTHS[u] + d[1 + u]] for u in range(4)]
    return {"resolution": resolution, "stem_residual": d[0] == 2, "width": w, "expand": expand}


@fragment
def _stem(b: GraphBuilder, image: Value, mid: int, out: int, residual: bool) -> Value:
    x = conv_bn_relu(b, image, mid, 3, 2)
    if residual:
        x = b.add(x, conv_bn_relu(b, x, mid, 3))
    return b.maxpool(conv_bn_relu(b, x, out, 3), 3, 2, 1)


@fragment
def _bottleneck(b: GraphBuilder, x: Value, c_out: int, stride: int, expansion: float) -> Value:
    mid = make_divisible(round(c_out * expansion))
    y = conv_bn_relu(b, x, mid)
    y = conv_bn_relu(b, y, mid, 3, stride)
    y = conv_bn(b, y, c_out)
    if stride != 1 or x.c != c_out:
        # OFA keeps a 1x1 average pool in the shortcut even at stride 1.
        x = conv_bn(b, b.avgpool(x, stride, stride, ceil_mode=True), c_out)
    return b.relu(b.add(y, x))
