"""The tests check the shapes in annotations."""

import numpy as np
import pytest
from jaxtyping import Float64, TypeCheckError
from typechecking import names_a_shape

from gennape.search_spaces.drawing.diagram import Edges
from gennape.search_spaces.families.registry import family


def test_a_wrong_shape_is_an_error():
    space = family("hiaml")
    with pytest.raises(TypeCheckError):
        space.graphs(space.sample(np.random.default_rng(0), 3)[0])


def test_a_wrong_dtype_is_an_error():
    space = family("hiaml")
    with pytest.raises(TypeCheckError):
        space.graphs(space.sample(np.random.default_rng(0), 3).astype(np.float32))


def _shaped(x: Float64[np.ndarray, "n 2"]) -> None: ...


def _returns(x: int) -> "Float64[np.ndarray, 'n']": ...


def _alias(x: "list[Edges]") -> None: ...


def _plain(x: int, y: "np.ndarray") -> str: ...


def test_functions_that_name_a_shape():
    assert [names_a_shape(f) for f in (_shaped, _returns, _alias, _plain)] == [True, True, True, False]
