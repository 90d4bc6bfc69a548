"""Attention, rotary positions and normalisations of ONNX's opsets 23 and 24, against ONNX's own reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx.reference import ReferenceEvaluator
from onnx_models import model_of, node
from torch import Tensor
from torch_modules import Forward, ops_of

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import pack, validate
from gennape.search_spaces.graphs.module import GraphModule, compile_graph
from gennape.search_spaces.importing.imported import Imported
from gennape.search_spaces.importing.onnx import from_onnx
from gennape.search_spaces.importing.torch import trace

#: Heads of queries, keys and values, cut out of the channels.
_CUT = node("Split", "x parts", "q k v", axis=1)


def _image(model: onnx.ModelProto) -> np.ndarray[Any, np.dtype[np.float32]]:
    shape = [max(1, dim.dim_value) for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _compared(model: onnx.ModelProto, **held: Any) -> Imported:
    """The import of a model, which computes what ONNX's reference does; ``held`` are its layers' tensors by name."""
    imported = from_onnx(model)
    assert imported.others == {}
    validate(pack([imported.graph]))
    module: GraphModule = compile_graph(imported.graph).eval()
    state = module.state_dict()
    for name, value in held.items():
        state[name].copy_(torch.as_tensor(np.array(value)).reshape(state[name].shape))
    x = _image(model)
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    c, h, w = module.image_shape
    with torch.no_grad():
        result = module(
            torch.from_numpy(x).reshape(1, c, h, w)
            if x.ndim == 4
            else torch.from_numpy(x.T[..., None].reshape(1, c, h, w))
        )
    assert result.numel() == expected.size
    np.testing.assert_allclose(np.sort(result.numpy().ravel()), np.sort(expected.ravel()), rtol=1e-4, atol=1e-5)
    return imported


def _attention(q: int, kv: int, opset: int = 23, mask: Any = None, **attributes: Any) -> onnx.ModelProto:
    """Attention of an image's channels: heads of queries, keys and values, each of 5 places and 4 numbers."""
    constants: dict[str, Any] = {"parts": np.array([q, kv, kv])}
    if mask is not None:
        constants["mask"] = np.asarray(mask)
    made = node("Attention", "q k v mask" if mask is not None else "q k v", "y", **attributes)
    return model_of(_CUT, made, opset=opset, shape=(1, q + 2 * kv, 5, 4), **constants)


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize(
    ("q", "kv", "attributes"),
    [
        (2, 2, {}),
        (2, 2, {"scale": 0.3}),
        (2, 2, {"softcap": 2.0}),
        (2, 2, {"is_causal": 1}),
        (4, 2, {}),
        (6, 1, {"is_causal": 1, "softcap": 1.5, "scale": 2.0}),
    ],
)
def test_attention_of_four_dimensions(q: int, kv: int, attributes: dict[str, Any], opset: int) -> None:
    imported = _compared(_attention(q, kv, opset, **attributes))
    # Two products for each head: 5 x 4 x 5, and 5 x 5 x 4.
    assert cost.macs(pack([imported.graph])).tolist() == [q * 2 * 100]
    assert cost.params(pack([imported.graph])).tolist() == [0]


@pytest.mark.parametrize("kv", [3, 1])
def test_attention_of_three_dimensions(kv: int) -> None:
    """The heads lie in the last dimension, 3 of queries with 4 numbers each."""
    sizes = np.array([12, 4 * kv, 4 * kv])
    model = model_of(
        node("Split", "x parts", "q k v", axis=2),
        node("Attention", "q k v", "y", q_num_heads=3, kv_num_heads=kv),
        opset=23,
        shape=(1, 5, int(sizes.sum())),
        parts=sizes,
    )
    imported = _compared(model)
    assert cost.macs(pack([imported.graph])).tolist() == [3 * 2 * 5 * 5 * 4]


def test_attention_is_what_it_is_taken_apart() -> None:
    """The same graph as its products and its softmax, and as PyTorch's."""
    apart = model_of(
        _CUT,
        node("Transpose", "k", "t", perm=[0, 1, 3, 2]),
        node("MatMul", "q t", "s"),
        node("Mul", "s half", "z"),
        node("Softmax", "z", "w", axis=-1),
        node("MatMul", "w v", "y"),
        shape=(1, 6, 5, 4),
        parts=np.array([2, 2, 2]),
        half=np.float32(0.5),
    )

    def forward(_: Any, x: Tensor) -> Tensor:
        y: Tensor = F.scaled_dot_product_attention(*x.split(2, 1))
        return y

    graphs = [from_onnx(_attention(2, 2)).graph, from_onnx(apart).graph, trace(Forward(forward), (6, 5, 4)).graph]
    assert len({*canonical_hashes(pack(graphs))}) == 1


@pytest.mark.parametrize(
    "mask",
    [
        np.tri(5, dtype=bool),
        np.where(np.tri(5), 0, -np.inf).astype(np.float32),
        np.tri(5, dtype=bool)[None, None].repeat(2, 1),
    ],
)
def test_fixed_masks_learn_nothing(mask: Any) -> None:
    whole = np.where(mask, 0.0, -np.inf) if mask.dtype == bool else mask
    held = whole.reshape(-1, 5, 5)
    imported = _compared(_attention(2, 2, mask=mask), **{"shift1.weight": held if len(held) > 1 else held[0]})
    assert cost.params(pack([imported.graph])).tolist() == [0]


def test_a_bias_of_many_numbers_is_learnt() -> None:
    bias = np.random.default_rng(1).standard_normal((2, 5, 5)).astype(np.float32)
    imported = _compared(_attention(2, 2, mask=bias), **{"shift1.weight": bias})
    assert cost.params(pack([imported.graph])).tolist() == [50]


def test_causal_attention_of_pytorch_is_that_of_onnx() -> None:
    def forward(_: Any, x: Tensor) -> Tensor:
        y: Tensor = F.scaled_dot_product_attention(*x.split(2, 1), is_causal=True)
        return y

    traced = trace(Forward(forward), (6, 5, 4))
    assert traced.others == {}
    graphs = [traced.graph, from_onnx(_attention(2, 2, is_causal=1)).graph]
    assert len({*canonical_hashes(pack(graphs))}) == 1
    x = torch.randn(3, 6, 5, 4)
    torch.testing.assert_close(compile_graph(traced.graph)(x), forward(None, x))


def test_outputs_that_nothing_takes_are_left_out() -> None:
    made = node("Attention", "q k v _ _ _", "y key value scores")
    model = model_of(_CUT, made, opset=23, shape=(1, 6, 5, 4), parts=np.array([2, 2, 2]))
    assert from_onnx(model).graph == from_onnx(_attention(2, 2)).graph


def test_caches_are_refused() -> None:
    made = node("Attention", "q k v _ q k", "y")
    model = model_of(_CUT, made, opset=23, shape=(1, 6, 5, 4), parts=np.array([2, 2, 2]))
    with pytest.raises(InvalidGraphError, match="past_key, past_value"):
        from_onnx(model)


@pytest.mark.parametrize("part", [0, 4])
@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("positions", [False, True])
def test_rotary_positions(part: int, interleaved: int, positions: bool) -> None:
    """Fixed sines and cosines: two products, twice, with tensors that nothing learns."""
    half, rng = (part or 8) // 2, np.random.default_rng(3)
    angles = rng.standard_normal((5, half)) if positions else rng.standard_normal((1, 5, half))
    constants = {"c": np.cos(angles).astype(np.float32), "s": np.sin(angles).astype(np.float32)}
    if positions:
        constants["p"] = np.array([[4, 2, 0, 1, 3]])
    made = node(
        "RotaryEmbedding", "x c s p" if positions else "x c s", "y", rotary_embedding_dim=part, interleaved=interleaved
    )
    model = model_of(made, opset=23, shape=(1, 2, 5, 8), **constants)
    rows = np.array([4, 2, 0, 1, 3]) if positions else slice(None)
    cosine, sine = (constants[name].reshape(-1, 5, half)[0][rows] for name in ("c", "s"))
    names = [step.name for step in compile_graph(from_onnx(model).graph).plan if step.name.startswith("scale")]
    weights = [name for name in names if f"{name}.weight" in compile_graph(from_onnx(model).graph).state_dict()]
    assert len(weights) == 4
    held = {f"{name}.weight": value for name, value in zip(weights, (cosine, sine, sine, cosine), strict=True)}
    assert cost.params(pack([_compared(model, **held).graph])).tolist() == [0]


def test_rms_normalisation() -> None:
    scale = np.random.default_rng(2).standard_normal(6).astype(np.float32)
    made = node("RMSNormalization", "x s", "y", epsilon=1e-3)
    imported = _compared(model_of(made, opset=23, shape=(1, 3, 4, 6), s=scale), **{"scale1.weight": scale})
    assert cost.params(pack([imported.graph])).tolist() == [6]


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_swish(alpha: float) -> None:
    imported = _compared(model_of(node("Swish", "x", "y", alpha=alpha), opset=24, shape=(1, 3, 4, 6)))
    assert ops_of(imported.graph) == (["SWISH"] if alpha == 1 else ["SCALE", "SIGMOID", "MUL"])
