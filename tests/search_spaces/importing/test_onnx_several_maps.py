"""Several maps inside a network, of whose channels a normalisation takes each map's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from onnx_models import model_of, node
from onnx_numbers import assert_as_onnxruntime

from gennape.search_spaces.importing.onnx import from_onnx

X = np.random.default_rng(0).normal(size=(1, 8, 3, 3)).astype(np.float32)
SHAPES = {"s": np.array([2, 4, 3, 3]), "t": np.array([1, 8, 3, 3]), "n": np.array([4])}


def normalised(op: str, learnt: bool, opset: int = 21, **attributes: Any) -> Any:
    """Two maps of four channels, normalised by ones and zeros that are filled in or held by the file."""
    fills = [
        node("ConstantOfShape", "n", name, value=numpy_helper.from_array(np.array([value], np.float32)))
        for name, value in (("ones", 1), ("zeros", 0))
    ]
    held = {"ones": np.ones(4, np.float32), "zeros": np.zeros(4, np.float32)} if learnt else {}
    nodes = [node("Reshape", "x s", "m"), node(op, "m ones zeros", "i", **attributes), node("Reshape", "i t")]
    return model_of(*([] if learnt else fills), *nodes, opset=opset, shape=(1, 8, 3, 3), **SHAPES, **held)


@pytest.mark.parametrize(
    ("op", "attributes"), [("InstanceNormalization", {}), ("GroupNormalization", {"num_groups": 2})]
)
def test_each_map_is_normalised_by_itself(op: str, attributes: dict[str, Any]) -> None:
    assert assert_as_onnxruntime(normalised(op, learnt=False, **attributes), X, tolerance=1e-4)
    name = "instance_norm" if op.startswith("I") else "group_norm"
    assert from_onnx(normalised(op, learnt=True, **attributes)).others == {name: 1}
