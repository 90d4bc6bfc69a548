"""Resize of ONNX gives the numbers that onnxruntime gives, or is told as an operation outside the vocabulary."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from example_counts import examples
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx_models import model_of, node
from onnx_numbers import assert_as_onnxruntime

from gennape.errors import InvalidGraphError
from gennape.search_spaces.importing.onnx import from_onnx

PLACES = ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric", "align_corners", "asymmetric")
ROUNDINGS = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")


def resize(size: tuple[int, int], scales: Any = None, sizes: Any = None, **attributes: Any) -> onnx.ModelProto:
    given = {"s": np.array([1, 1, *scales], np.float32)} if scales else {"s": np.array([1, 2, *sizes])}
    resized = node("Resize", "x _ s" if scales else "x _ _ s", **attributes)
    return model_of(resized, opset=19, shape=(1, 2, *size), **given)


def image(size: tuple[int, int]) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=(1, 2, *size)).astype(np.float32)


@pytest.mark.parametrize(("places", "rounding"), [*product(("half_pixel", "asymmetric"), ROUNDINGS)])
def test_whole_factors_repeat_pixels_where_they_do(places: str, rounding: str) -> None:
    """Rounded half pixels and asymmetric floors repeat each pixel; other roundings shift them."""
    model = resize((4, 5), [2, 3], coordinate_transformation_mode=places, nearest_mode=rounding, mode="nearest")
    repeats = rounding.startswith("round") if places == "half_pixel" else rounding == "floor"
    assert assert_as_onnxruntime(model, image((4, 5)), executable=repeats) == repeats


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize("sizes", [(1, 1), (1, 7), (4, 1), (8, 10), (2, 5), (3, 4)])
def test_sizes_of_one_and_others(mode: str, places: str, sizes: tuple[int, int]) -> None:
    model = resize((4, 5), sizes=sizes, mode=mode, coordinate_transformation_mode=places)
    assert_as_onnxruntime(model, image((4, 5)), executable=False, tolerance=1e-4)


def test_what_pytorch_exports_is_executed() -> None:
    for mode, places in (("linear", "pytorch_half_pixel"), ("linear", "align_corners"), ("cubic", "half_pixel")):
        model = resize((4, 5), sizes=(8, 7), mode=mode, coordinate_transformation_mode=places)
        assert assert_as_onnxruntime(model, image((4, 5)), tolerance=1e-4)
    model = resize((4, 5), sizes=(1, 7), mode="linear", coordinate_transformation_mode="pytorch_half_pixel")
    assert assert_as_onnxruntime(model, image((4, 5)), tolerance=1e-4)


@settings(max_examples=examples(120), deadline=None)
@given(data=st.data())
def test_every_resize_gives_the_numbers_of_onnxruntime(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    mode = data.draw(st.sampled_from(["nearest", "linear", "cubic"]))
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": data.draw(st.sampled_from(PLACES))}
    if mode == "nearest":
        attributes["nearest_mode"] = data.draw(st.sampled_from(ROUNDINGS))
    else:
        attributes["antialias"] = data.draw(st.sampled_from([0, 0, 0, 1]))
        attributes["cubic_coeff_a"] = data.draw(st.sampled_from([-0.75, -0.75, -0.5]))
    if data.draw(st.booleans()):
        model = resize(
            size, data.draw(st.tuples(*[st.sampled_from([0.3, 0.5, 2 / 3, 1, 1.5, 2, 2.5, 3])] * 2)), **attributes
        )
    else:
        model = resize(size, None, data.draw(st.tuples(*[st.integers(1, 16)] * 2)), **attributes)
    try:
        from_onnx(model)
    except InvalidGraphError as error:
        assert "it resizes" in str(error)  # noqa: PT017 - a side without a pixel
        assume(False)
    try:
        assert_as_onnxruntime(model, image(size), executable=False, tolerance=1e-3)
    except onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException:
        assume(False)  # what onnxruntime refuses


def test_an_aspect_ratio_is_kept() -> None:
    """4x5 to at most 8x8 is a factor of 1.6 for both: 6.4 and 8, rounded."""
    for policy, sides in (("not_larger", [6, 8]), ("not_smaller", [8, 10])):
        model = model_of(
            node("Resize", "x _ _ s", mode="linear", keep_aspect_ratio_policy=policy, axes=[2, 3]),
            opset=19,
            shape=(1, 2, 4, 5),
            s=np.array([8, 8]),
        )
        assert from_onnx(model).graph.nodes[-1, 5:7].tolist() == sides
        assert_as_onnxruntime(model, image((4, 5)), executable=False, tolerance=1e-4)
