"""Genes and encodings that the OFA families of inverted-bottleneck layers share."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int64

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families.space import Architecture, Gene, SearchSpace, index_of, require_keys, shown

LAYERS = tuple((e, k) for e in (3, 4, 6) for k in (3, 5, 7))
DEPTHS = (2, 3, 4)
RESOLUTIONS = tuple(range(128, 257, 4))
STUDIED = (192, 208, 224)
ELASTIC = 5  # units of two to four layers; a family may have units of one layer after them
_FIRST = 1 + ELASTIC  # gene of the first layer

RESOLUTION_GENE = Gene("resolution", RESOLUTIONS, tuple(RESOLUTIONS.index(r) for r in STUDIED))


def unit_genes(n_units: int) -> tuple[Gene, ...]:
    """Genes of ``n_units`` units, of which those after the fifth have one layer."""
    layers = [(u, i) for u in range(n_units) for i in range(4 if u < ELASTIC else 1)]
    return (
        RESOLUTION_GENE,
        *(Gene(f"depth of unit {u + 1}", DEPTHS) for u in range(ELASTIC)),
        *(Gene(f"(expansion, kernel) of unit {u + 1}, layer {i + 1}", LAYERS) for u, i in layers),
    )


def unit_layers(genome: Int64[np.ndarray, " g"]) -> list[list[tuple[int, int]]]:
    """(expansion, kernel) of the layers of each unit."""
    values = genome.tolist()
    depths = [DEPTHS[gene] for gene in values[1:_FIRST]] + [1] * (len(values) - _FIRST - 4 * ELASTIC)
    starts = range(_FIRST, len(values), 4)
    return [[LAYERS[gene] for gene in values[s : s + depth]] for s, depth in zip(starts, depths, strict=True)]


def ofa_dict(genome: Int64[np.ndarray, " g"]) -> dict[str, list[int]]:
    """The architecture in OFA's format: ``{"ks", "e", "d", "r"}``, layer i of unit u at 4u + i, absent layers 0."""
    ks, e = [0] * (len(genome) - _FIRST), [0] * (len(genome) - _FIRST)
    units = unit_layers(genome)
    for u, layers in enumerate(units):
        for i, layer in enumerate(layers):
            e[4 * u + i], ks[4 * u + i] = layer
    return {"ks": ks, "e": e, "d": [len(layers) for layers in units], "r": [RESOLUTIONS[genome[0]]]}


def ofa_resolution(r: Any) -> Any:
    """OFA's entry ``r``, which is a number or a list of one number."""
    return r[0] if isinstance(r, list | tuple) and len(r) == 1 else r


class OfaUnits(SearchSpace):
    """Genome: resolution, five depths, then the (expansion, kernel) of every layer; unused layers are 0."""

    #: What the family's published layer names start with, before ``_e3_k5``.
    layer: str

    def canonical(self, genomes: Int64[np.ndarray, "n g"]) -> Int64[np.ndarray, "n g"]:
        """Layers beyond a unit's depth are set to 0."""
        out = genomes.copy()
        elastic = out[:, _FIRST : _FIRST + 4 * ELASTIC].reshape(-1, ELASTIC, 4)
        used = np.arange(4) < genomes[:, 1:_FIRST, None] + DEPTHS[0]
        out[:, _FIRST : _FIRST + 4 * ELASTIC] = np.where(used, elastic, 0).reshape(len(out), 4 * ELASTIC)
        return out

    def encode(self, genome: Int64[np.ndarray, " g"]) -> Architecture:
        """``{"resolution": r, "units": [[[expansion, kernel], ...] per unit]}``."""
        units = [[list(layer) for layer in layers] for layers in unit_layers(genome)]
        return {"resolution": RESOLUTIONS[genome[0]], "units": units}

    def decode(self, architecture: Architecture) -> Int64[np.ndarray, " g"]:
        """Reads what ``encode`` writes and three published forms.

        These are ``{"resolution", "blocks": [["<layer>_e3_k5", ...] per unit]}``, the same as a pair ``[r, blocks]``,
        and OFA's ``{"ks", "e", "d", "r"}``.
        """
        if isinstance(architecture, list | tuple) and len(architecture) == 2:
            architecture = {"resolution": architecture[0], "blocks": architecture[1]}
        if isinstance(architecture, dict) and "blocks" in architecture:
            architecture = self._from_blocks(architecture)
        elif isinstance(architecture, dict) and "ks" in architecture:
            architecture = self._from_ofa(architecture)
        fields = require_keys(architecture, ("resolution", "units"), self.name)
        units, n_units = fields["units"], self._n_units
        if not isinstance(units, list) or len(units) != n_units or not all(isinstance(u, list) for u in units):
            raise InvalidArchitectureError(f"{self.name}: units must be {n_units} lists of layers, got {shown(units)}")
        genome = np.zeros(len(self.genes), np.int64)
        genome[0] = index_of(self.genes[0], fields["resolution"], self.name)
        for u, layers in enumerate(units):
            self._set_depth(genome, u, len(layers))
            for i, layer in enumerate(layers):
                gene = _FIRST + 4 * u + i
                genome[gene] = index_of(self.genes[gene], tuple(layer) if isinstance(layer, list) else layer, self.name)
        return genome

    @property
    def _n_units(self) -> int:
        return len(self.genes) - _FIRST - 3 * ELASTIC

    def _set_depth(self, genome: Int64[np.ndarray, " g"], u: int, depth: int) -> None:
        if u < ELASTIC:
            genome[1 + u] = index_of(self.genes[1 + u], depth, self.name)
        elif depth != 1:
            raise InvalidArchitectureError(f"{self.name}: unit {u + 1} has one layer, got {depth}")

    def _from_blocks(self, architecture: dict[str, Any]) -> Architecture:
        fields = require_keys(architecture, ("resolution", "blocks"), self.name)
        known = {f"{self.layer}_e{e}_k{k}": [e, k] for e, k in LAYERS}
        try:
            units = [[known[layer] for layer in unit] for unit in fields["blocks"]]
        except (KeyError, TypeError) as error:
            raise InvalidArchitectureError(
                f"{self.name}: unknown block {str(error)[:100]}; known are {sorted(known)}"
            ) from None
        return {"resolution": fields["resolution"], "units": units}

    def _from_ofa(self, architecture: dict[str, Any]) -> Architecture:
        fields = require_keys(architecture, ("ks", "e", "d", "r"), self.name)
        sizes = {"ks": len(self.genes) - _FIRST, "e": len(self.genes) - _FIRST, "d": self._n_units}
        for key, size in sizes.items():
            if not isinstance(fields[key], list) or len(fields[key]) != size:
                raise InvalidArchitectureError(f"{self.name}: {key} must be a list of {size}, got {shown(fields[key])}")
        depths = fields["d"][:ELASTIC]
        if not all(isinstance(depth, int) and depth in DEPTHS for depth in depths):
            raise InvalidArchitectureError(
                f"{self.name}: depths d of units 1 to {ELASTIC} must be 2..4, got {shown(depths)}"
            )
        # OFA runs a unit of one layer at min(1, d), and its own sampler leaves any depth there.
        depths = depths + [1] * (self._n_units - ELASTIC)
        pairs = [list(pair) for pair in zip(fields["e"], fields["ks"], strict=True)]
        units = [pairs[4 * u : 4 * u + depth] for u, depth in enumerate(depths)]
        return {"resolution": ofa_resolution(fields["r"]), "units": units}
