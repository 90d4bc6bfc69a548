"""What tf2onnx and Keras write, against onnxruntime: outputs compared in order of channels, height and width."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx_models import model_of, node
from torch_modules import ops_of

from gennape.search_spaces.graphs.graph import pack, validate
from gennape.search_spaces.graphs.module import GraphModule, compile_graph
from gennape.search_spaces.importing.onnx import from_onnx

RNG = np.random.default_rng(0)


def _noise(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return RNG.standard_normal(shape).astype(np.float32)


def _compared(model: onnx.ModelProto, *held: Any) -> list[str]:
    """Operations of an import that computes what onnxruntime does; ``held`` are its layers' tensors, in order."""
    imported = from_onnx(model)
    assert imported.others == {}
    validate(pack([imported.graph]))
    module: GraphModule = compile_graph(imported.graph).eval()
    state = module.state_dict()
    assert len(state) == len(held)
    for tensor, value in zip(state.values(), held, strict=True):
        tensor.copy_(torch.as_tensor(np.array(value)).reshape(tensor.shape))
    x = _noise(1, *module.image_shape)
    model.ir_version = 10
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (expected,) = session.run(None, {"x": x})
    with torch.no_grad():
        result = module(torch.from_numpy(x)).numpy()
    if expected.ndim == 4 and expected.shape != result.shape:
        expected = expected.transpose(0, 3, 1, 2)  # axes of a graph are those of its last node
    np.testing.assert_allclose(result.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)
    return ops_of(imported.graph)


NHWC = node("Transpose", "x", "t", perm=[0, 2, 3, 1])


@pytest.mark.parametrize(
    "attributes",
    [
        {"output_shape": [16, 20]},
        {"output_shape": [15, 19]},
        {"output_shape": [17, 20]},
        {"output_shape": [15, 19], "auto_pad": "SAME_UPPER"},
        {"output_shape": [15, 19], "auto_pad": "SAME_LOWER"},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "VALID"},
        {"pads": [0, 0, 1, 1]},
        {"pads": [1, 0, 0, 1], "output_padding": [1, 0]},
        {"pads": [0, 0, 2, 3]},
    ],
)
def test_transposed_convolutions_of_a_given_size(attributes: dict[str, Any]) -> None:
    weight, bias = _noise(3, 5, 3, 3), _noise(5)
    made = node("ConvTranspose", "x w b", strides=[2, 2], **attributes)
    assert "CONVTRANSPOSE" in _compared(model_of(made, w=weight, b=bias), weight, bias)


@pytest.mark.parametrize("kernel", [2, 4])
def test_even_kernels_of_transposed_convolutions(kernel: int) -> None:
    weight = _noise(3, 2, kernel, kernel)
    made = node("ConvTranspose", "x w", strides=[2, 2], output_shape=[16, 20])
    assert _compared(model_of(made, w=weight), weight) == ["CONVTRANSPOSE"]


@pytest.mark.parametrize("shape", [(1, 1, 3), (3,), (1, 1, 1, 3)])
def test_slopes_of_channels_that_lie_last(shape: tuple[int, ...]) -> None:
    slope = _noise(*shape)
    operations = _compared(model_of(NHWC, node("PRelu", "t s"), s=slope), slope)
    assert operations == ["LEAKYRELU"]


def test_slopes_of_every_place() -> None:
    slope = _noise(8, 10, 3)
    operations = _compared(model_of(NHWC, node("PRelu", "t s"), s=slope), slope.transpose(2, 0, 1))
    assert set(operations) == {"RELU", "SCALE", "ADD"}


def _normalisation(form: str, gain: bool, bias: bool, axes: list[int]) -> tuple[list[onnx.NodeProto], str]:
    """Keras' layer normalisation of t."""
    nodes = [
        node("ReduceMean", "t", "m", axes=axes),
        node("Sub", "t m", "d"),
        node("Mul", "d d", "q"),
        node("ReduceMean", "q", "v", axes=axes),
        node("Add", "v e", "a"),
        node("Sqrt", "a", "r"),
        node("Reciprocal", "r", "i"),
        *[node("Mul", "i g", "f")] * gain,
    ]
    factor = "f" if gain else "i"
    if form == "centred":
        nodes += [node("Mul", f"d {factor}", "n" if bias else "y"), *[node("Add", "n b", "y")] * bias]
    else:
        last = node("Add", "xf s", "y") if bias else node("Sub", "xf mf", "y")
        nodes += [node("Mul", f"t {factor}", "xf"), node("Mul", f"m {factor}", "mf")]
        nodes += [*[node("Sub", "b mf", "s")] * bias, last]
    return nodes, factor


@pytest.mark.parametrize("axes", [[-1], [3]])
@pytest.mark.parametrize(("gain", "bias"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("form", ["centred", "shifted"])
def test_layer_normalisation_by_a_reciprocal(form: str, gain: bool, bias: bool, axes: list[int]) -> None:
    nodes, _ = _normalisation(form, gain, bias, axes)
    constants = {"e": np.float32(1e-3), **({"g": _noise(3)} if gain else {}), **({"b": _noise(3)} if bias else {})}
    held = [constants[name] for name in ("g", "b") if name in constants]
    assert _compared(model_of(NHWC, *nodes, opset=17, **constants), *held) == ["LAYERNORM"]


def test_layer_normalisation_over_several_dimensions() -> None:
    nodes, _ = _normalisation("centred", True, True, [1, 2])
    constants = {"e": np.float32(1e-3), "g": _noise(3), "b": _noise(3)}
    _compared(model_of(NHWC, *nodes, opset=17, **constants), constants["g"], constants["b"])


def test_a_mean_that_others_take_stays() -> None:
    nodes, _ = _normalisation("centred", False, False, [-1])
    nodes[-1].output[0] = "n"
    model = model_of(NHWC, *nodes, node("Add", "n m"), opset=17, e=np.float32(1e-3))
    assert "LAYERNORM" not in _compared(model)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    made = node("DepthToSpace", "x", blocksize=2, mode=mode)
    operations = _compared(model_of(made, shape=(1, 12, 4, 5)))
    assert operations[-1] == "DEPTHTOSPACE"
    assert len(operations) == (1 if mode == "CRD" else 4)


def test_space_to_depth() -> None:
    """A layer follows: where numbers lie at the end of a network is not kept."""
    weight = _noise(4, 12, 3, 3)
    model = model_of(node("SpaceToDepth", "x", "s", blocksize=2), node("Conv", "s w"), w=weight)
    assert _compared(model, weight) == ["SPACETODEPTH", "RESHAPE", "PERMUTE", "RESHAPE", "CONV"]


FLIPS = {
    "gather": [node("Gather", "x i", axis=1)],
    "slice": [node("Slice", "x from to at back")],
    "split": [node("Split", "x parts", "r g b", axis=1), node("Concat", "b g r", axis=1)],
    "last": [NHWC, node("Gather", "t i", "f", axis=3), node("Transpose", "f", perm=[0, 3, 1, 2])],
}


@pytest.mark.parametrize("name", FLIPS)
def test_colours_in_another_order(name: str) -> None:
    constants = {"i": np.array([2, 1, 0]), "from": np.array([-1]), "to": np.array([-9]), "at": np.array([1])}
    constants |= {"back": np.array([-1]), "parts": np.array([1, 1, 1])}
    model = model_of(
        *FLIPS[name], **{key: constants[key] for part in FLIPS[name] for key in part.input if key in constants}
    )
    assert _compared(model) == ["SLICE"] * 3 + ["CONCAT"]
