"""The conformance suite finds families that trip over malformed architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families.checks import check_bad_architectures, check_search_space
from gennape.search_spaces.families.malformed import malformed
from gennape.search_spaces.families.registry import FAMILIES
from gennape.search_spaces.families.space import Gene, SearchSpace, index_of, require_keys
from gennape.search_spaces.graphs.builder import GraphBuilder, Value


class Depths(SearchSpace):
    """Two stages of one or two layers; ``decode`` is what a test makes of it."""

    name = "depths"
    genes = (Gene("first", (1, 2)), Gene("second", (1, 2)))

    def __init__(self, decode: Callable[[Any], Any]) -> None:
        self._decode = decode

    def encode(self, genome: np.ndarray) -> Any:
        return {"depth": [int(i) + 1 for i in genome]}

    def decode(self, architecture: Any) -> np.ndarray:
        return np.asarray(self._decode(architecture), np.int64)

    def emit(self, b: GraphBuilder, genome: np.ndarray) -> Value:
        x = b.input(3, 4, 4)
        for _ in range(int(genome.sum()) + 2):
            x = b.conv(x, 4, 3)
        return x


def careful(architecture: Any) -> list[int]:
    stages = require_keys(architecture, ["depth"], "depths")["depth"]
    if not isinstance(stages, list) or len(stages) != 2:
        raise InvalidArchitectureError(f"depths: depth is a list of two numbers, got {str(stages)[:80]}")
    return [index_of(gene, value, "depths") for gene, value in zip(Depths.genes, stages, strict=True)]


def unchecked_list(architecture: Any) -> list[int]:
    stages = require_keys(architecture, ["depth"], "depths")["depth"]
    return [index_of(gene, value, "depths") for gene, value in zip(Depths.genes, stages, strict=True)]


def unchecked_keys(architecture: Any) -> list[int]:
    return careful({"depth": architecture["depth"]})


def test_a_careful_family_passes() -> None:
    check_search_space(Depths(careful))


@pytest.mark.parametrize(
    ("decode", "told"),
    [(unchecked_list, "TypeError|ValueError"), (unchecked_keys, "TypeError|KeyError|IndexError")],
)
def test_a_family_that_trips_is_named_with_what_it_was_given(decode: Callable[[Any], Any], told: str) -> None:
    with pytest.raises(AssertionError, match=rf"depths: decode of .* raises ({told}): .*InvalidArchitectureError"):
        check_search_space(Depths(decode))


def test_the_smallest_case() -> None:
    """``{"depth": 3}`` where a list belongs."""

    def only_this(architecture: Any) -> list[int]:
        if architecture == {"depth": 3}:
            return [len(architecture["depth"])]
        return careful(architecture)

    with pytest.raises(AssertionError, match=r"decode of \{'depth': 3\} raises TypeError"):
        check_search_space(Depths(only_this))


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
def test_shipped_families_refuse_in_a_sentence(space: SearchSpace) -> None:
    check_bad_architectures(space, 1)


def test_parts_are_replaced_left_out_and_doubled() -> None:
    made = [make() for make in malformed({"a": [1, 2]})]
    assert {"a": [2]} in made
    assert {} in made
    assert {"a": [1, 2, 1]} in made
    assert {"a": None} in made
    assert {"a": [1, 2], "unknown": 1} in made
