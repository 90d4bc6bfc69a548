"""``convert --onnx --shape``: the shape counts where a file leaves that of its input open, and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gennape.errors import OpenShapeError
from gennape.platform.conversion.inputs import onnx_folder
from gennape.platform.conversion.parts import _read
from gennape.search_spaces.graphs.cost import macs
from gennape.search_spaces.graphs.graph import pack

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, shape: list[int | str]) -> Path:
    """A convolution of 3 to 4 channels, 3x3 with padding: 108 multiply-accumulates a pixel."""
    conv = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    weight = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in (("x", shape), ("y", None))]
    graph = helper.make_graph([conv], "one", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_only_open_shapes_are_filled_in(tmp_path: Path) -> None:
    free, fixed = write(tmp_path / "free.onnx", ["n", 3, "h", "w"]), write(tmp_path / "fixed.onnx", [1, 3, 8, 8])
    with pytest.raises(OpenShapeError):
        _read(free, 2**20, None)
    graphs = pack([_read(path, 2**20, shape) for path in (free, fixed) for shape in ((3, 16, 16), (1, 3, 16, 16))])
    assert macs(graphs).tolist() == [108 * 256, 108 * 256, 108 * 64, 108 * 64]


def test_a_data_set_of_another_shape_is_another_one(tmp_path: Path) -> None:
    write(tmp_path / "free.onnx", ["n", 3, "h", "w"])
    without, with_shape = onnx_folder(tmp_path), onnx_folder(tmp_path, shape=(3, 8, 8))
    assert "shape" not in without.describe()  # those that were begun before go on
    assert with_shape.describe() == {**without.describe(), "shape": [3, 8, 8]}
    assert with_shape.part(0, range(1)).shape == (3, 8, 8)  # type: ignore[attr-defined]
