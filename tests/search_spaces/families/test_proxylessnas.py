"""ProxylessNAS, and the forms in which the OFA families are written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families import ofa_resnet, ofa_units
from gennape.search_spaces.families.ofa_mbv3 import OfaMobileNetV3
from gennape.search_spaces.families.ofa_resnet import OfaResNet
from gennape.search_spaces.families.proxylessnas import ProxylessNAS
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import Column, pack
from gennape.search_spaces.graphs.ops import Op

SPACE = ProxylessNAS()
# Depths 2, 3, 4, 2, 2 and 1, with every layer (3, 3) but those written out.
UNITS = [
    [[3, 5], [6, 7]],
    [[3, 3], [3, 3], [4, 3]],
    [[3, 3], [3, 3], [3, 3], [6, 5]],
    [[3, 3], [3, 3]],
    [[3, 3], [3, 3]],
    [[4, 7]],
]
BLOCKS = [[f"mbconv2_e{e}_k{k}" for e, k in unit] for unit in UNITS]
OFA = {
    "ks": [5, 7, 0, 0, 3, 3, 3, 0, 3, 3, 3, 5, 3, 3, 0, 0, 3, 3, 0, 0, 7],
    "e": [3, 6, 0, 0, 3, 3, 4, 0, 3, 3, 3, 6, 3, 3, 0, 0, 3, 3, 0, 0, 4],
    "d": [2, 3, 4, 2, 2, 1],
    "r": [208],
}


def _all(layer: list[int], depth: int) -> dict[str, Any]:
    return {"resolution": 224, "units": [[layer] * depth] * 5 + [[layer]]}


@pytest.mark.parametrize(
    ("architecture", "params", "macs"),
    [(_all([3, 3], 2), 3_718_832, 265_526_256), (_all([6, 7], 4), 7_942_056, 1_004_908_032)],
)
def test_smallest_and_largest(architecture: dict[str, Any], params: int, macs: int) -> None:
    """The range that the families' specification gives at resolution 224."""
    graphs = pack([SPACE.graph(SPACE.decode(architecture))])
    assert (int(cost.params(graphs)[0]), int(cost.macs(graphs)[0])) == (params, macs)


def test_structure() -> None:
    """A residual in every layer but the first block and the first of each unit; published, an identity besides."""
    genome = SPACE.decode({"resolution": 208, "units": UNITS})
    graph = SPACE.graph(genome)
    counts = np.bincount(graph.nodes[:, Column.OP], minlength=40)
    layers = 2 + 3 + 4 + 2 + 2 + 1
    assert counts[Op.ADD] == layers - 6
    assert counts[Op.DEPTHWISE] == layers + 1
    assert counts[Op.RELU6] == 2 * layers + 3
    assert counts[[Op.MUL, Op.RELU, Op.IDENTITY]].tolist() == [0, 0, 0]
    assert np.unique(graph.scalars[graph.nodes[:, Column.OP] == Op.BATCHNORM]).tolist() == [1e-3]
    published = SPACE.graph(genome, published=True)
    assert (published.nodes[:, Column.OP] == Op.IDENTITY).sum() == 1
    assert published.n_nodes == graph.n_nodes + 1


@pytest.mark.parametrize(
    "form",
    [
        {"resolution": 208, "blocks": BLOCKS},
        [208, BLOCKS],
        (208, BLOCKS),
        OFA,
        OFA | {"r": 208},
        # What stands at absent layers is ignored, and OFA's own sampler draws a depth for the sixth unit.
        OFA | {"e": [x or 7 for x in OFA["e"]], "d": [2, 3, 4, 2, 2, 3]},
    ],
)
def test_forms(form: Any) -> None:
    genome = SPACE.decode(form)
    assert SPACE.encode(genome) == {"resolution": 208, "units": UNITS}
    assert ofa_units.ofa_dict(genome) == OFA


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"resolution": 208, "units": UNITS[:5]}, "units must be 6 lists"),
        ({"resolution": 208, "units": [*UNITS[:5], UNITS[0]]}, "unit 6 has one layer, got 2"),
        ({"resolution": 208, "units": [[[3, 3]], *UNITS[1:]]}, "depth of unit 1 is 1"),
        ({"resolution": 208, "units": [*UNITS[:5], [[5, 3]]]}, "unit 6, layer 1"),
        ({"resolution": 210, "units": UNITS}, "resolution is 210"),
        ([208, [["mbconv3_e3_k3"] * 2] * 5 + [["mbconv3_e3_k3"]]], "unknown block 'mbconv3_e3_k3'"),
        (OFA | {"ks": OFA["ks"][:20]}, "ks must be a list of 21"),
        (OFA | {"d": [2, 3, 4, 2, "2", 1]}, "must be 2..4"),
        (OFA | {"r": [208, 224]}, "resolution is"),
        (OFA | {"w": [0]}, "unknown"),
    ],
)
def test_refuses(form: Any, message: str) -> None:
    with pytest.raises(InvalidArchitectureError, match=message):
        SPACE.decode(form)


@pytest.mark.parametrize(
    ("space", "printer"),
    [(SPACE, ofa_units.ofa_dict), (OfaMobileNetV3(), ofa_units.ofa_dict), (OfaResNet(), ofa_resnet.ofa_dict)],
    ids=lambda value: getattr(value, "name", ""),
)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_ofa_dicts_survive(space: SearchSpace, printer: Any, seed: int) -> None:
    for genome in space.sample(np.random.default_rng(seed), 8):
        printed = printer(genome)
        assert np.array_equal(space.decode(printed), genome)
        assert np.array_equal(space.decode(printed | {"r": printed["r"][0]}), genome)


def test_ofa_dict_of_a_resnet() -> None:
    """Smallest everything but the second unit, which has one block more; the stem keeps its residual."""
    architecture = {
        "resolution": 192,
        "stem_residual": True,
        "width": [0, 1, 2, 0, 1, 2],
        "expand": [[0.2, 0.25], [0.2, 0.35, 0.2], [0.2] * 4, [0.35] * 2],
    }
    expected = {
        "d": [2, 0, 1, 0, 0],
        "e": [0.2, 0.25, 0, 0, 0.2, 0.35, 0.2, 0, 0.2, 0.2, 0.2, 0.2, 0, 0, 0.35, 0.35, 0, 0],
        "w": [0, 1, 2, 0, 1, 2],
        "r": [192],
    }
    space = OfaResNet()
    assert ofa_resnet.ofa_dict(space.decode(architecture)) == expected
    assert space.encode(space.decode(expected)) == architecture
