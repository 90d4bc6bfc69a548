"""HiAML: its original string and its published graphs."""

from __future__ import annotations

import numpy as np
import pytest
from hiaml_blocks import BLOCKS

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families.hiaml import HiAML, original_string
from gennape.search_spaces.graphs.graph import Column
from gennape.search_spaces.graphs.ops import Op


def test_original_string() -> None:
    space = HiAML()
    architecture = ["hiaml_z", "hiaml_a22", "hiaml_src0", "hiaml_l20"]
    genome = space.decode(architecture)
    assert original_string(genome) == "_z_a22_src0_l20"
    assert space.encode(space.decode("_z_a22_src0_l20")) == architecture


@pytest.mark.parametrize("text", ["", "z_a22_src0", "_z_a22_src0", "_z_a22_src0_l20_z", "_z_a22_src0_l21", "_hiaml_z"])
def test_refuses_other_strings(text: str) -> None:
    with pytest.raises(InvalidArchitectureError, match="hiaml"):
        HiAML().decode(text)


def test_what_is_no_string_of_blocks_is_shown_as_it_was_given() -> None:
    with pytest.raises(InvalidArchitectureError, match=r"4 block names, got 'resnet'$"):
        HiAML().decode("resnet")


@pytest.mark.parametrize(
    ("block", "relu", "relu6", "add"),
    [(block, of.relu, of.relu6, of.add) for block, of in BLOCKS.items()],
)
def test_activations_of_published_graphs(block: str, relu: int, relu6: int, add: int) -> None:
    """Counts from the families' specification (section 7.5): in the published graphs CR has ReLU, in networks ReLU6."""
    space = HiAML()
    genome = space.decode(f"_{block}" * 4)
    counts = {
        published: np.bincount(space.graph(genome, published=published).nodes[:, Column.OP], minlength=len(Op))
        for published in (False, True)
    }
    assert counts[True][[Op.RELU, Op.RELU6, Op.ADD]].tolist() == [relu, relu6, add]
    # A stem and eight block ends; all other activations of the network are ReLU6.
    assert counts[False][[Op.RELU, Op.RELU6, Op.ADD]].tolist() == [9, relu + relu6 - 9, add]
