from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gennape.search_spaces.graphs.builder import GraphBuilder, Value
from gennape.search_spaces.graphs.graph import Column, ComputationGraph
from gennape.search_spaces.graphs.operations import RESIZE_MODES
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.graphs.plan import ELEMENTWISE

RandomGraph = Callable[[int], ComputationGraph]


def _convolution(b: GraphBuilder, x: Value, rng: np.random.Generator) -> Value:
    kernel = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    groups = int(rng.choice([g for g in (1, 2, 3) if x.c % g == 0]))
    c_out = groups * int(rng.integers(1, 5))
    stride = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
    return b.conv(x, c_out, kernel, stride, None, int(rng.integers(1, 3)), groups, bool(rng.integers(2)))


def _pool(b: GraphBuilder, x: Value, rng: np.random.Generator) -> Value:
    kernel, stride, ceil_mode = int(rng.integers(1, 4)), int(rng.integers(1, 4)), bool(rng.integers(2))
    if kernel > min(x.h, x.w):
        return b.relu(x)
    padding = int(rng.integers(kernel // 2 + 1))
    if rng.integers(2):
        return b.maxpool(x, kernel, stride, padding, ceil_mode)
    return b.avgpool(x, kernel, stride, padding, ceil_mode, bool(rng.integers(2)))


def _slice(b: GraphBuilder, x: Value, rng: np.random.Generator) -> Value:
    offset = int(rng.integers(x.c))
    c = int(rng.integers(1, x.c - offset + 1))
    return b.slice(x, c, int(rng.integers(min(2, x.h))), int(rng.integers(min(2, x.w))), offset)


def _spatial(b: GraphBuilder, x: Value, rng: np.random.Generator) -> Value:
    """Operations that move pixels or change their number."""
    h, w = (int(n) for n in rng.integers(1, 12, size=2))
    before, after = ((0, int(i), int(j)) for i, j in rng.integers(0, 2, size=(2, 2)))
    step = (int(rng.integers(1, 3)), int(rng.integers(1, 3)))
    choices = [
        lambda: b.resize(x, h, w, RESIZE_MODES[int(rng.integers(len(RESIZE_MODES)))]),
        lambda: b.pad(x, before, after, "constant", float(rng.integers(2))),
        lambda: b.pad(x, before, after, "replicate"),
        lambda: b.pad(x, (1, 0, 0), (0, 1, 1)),
        lambda: b.slice(x, x.c, step=step),
        lambda: b.depth_to_space(x, 2) if x.c % 4 == 0 else b.zero(x),
        lambda: b.space_to_depth(x, 2) if x.h % 2 == x.w % 2 == 0 else b.zero(x),
        lambda: b.permute(x, (1, 2, 0)),
        lambda: b.reshape(x, x.c * x.h, x.w, 1),
        lambda: b.concat(x, x, axis=int(rng.integers(1, 3))),
    ]
    return choices[int(rng.integers(len(choices)))]()


def _newer(b: GraphBuilder, x: Value, rng: np.random.Generator) -> Value:
    """Operations of networks after the convolutional ones."""
    axes = tuple(int(axis) for axis in np.flatnonzero(rng.integers(2, size=3)))
    choices = [
        lambda: b.layernorm(x, 1e-6),
        lambda: b.layernorm(x, bias=False),
        lambda: b.layernorm(x, axis=3),
        lambda: b.groupnorm(x, x.c, affine=bool(rng.integers(2))) if x.h * x.w > 1 else b.relu(x),
        lambda: b.batchnorm(x, affine=False),
        lambda: b.softmax(x, int(rng.integers(3))),
        lambda: b.scale(x, axes, 1.0 if axes else 0.5),
        lambda: b.shift(x, axes, 0.0 if axes else -1.5),
        lambda: b.scale(x, axes or (1,), params=0),
        lambda: b.power(b.shift(b.power(x, 2.0), (), 0.5), float(rng.choice([-1.0, 0.5, -0.5]))),
        lambda: b.leakyrelu(x, 0.125, int(rng.choice([0, 1, x.c]))),
        lambda: b.gelu(x, tanh=True),
        lambda: b.linear(x, 4, bool(rng.integers(2))),
        lambda: b.conv_transpose(x, 2, 3, 2, 1, 1, bias=True),
        lambda: b.matmul(b.softmax(b.matmul(x, x, transposed=True), 2), x),
        lambda: b.add(x, b.mean(x)),
        lambda: b.mul(x, b.slice(x, 1)),
        lambda: b.extend(
            x, int(rng.integers(1, 4)), int(rng.integers(3)), bool(rng.integers(2)), *[0] * int(rng.integers(2))
        ),
    ]
    return choices[int(rng.integers(len(choices)))]()


def _step(b: GraphBuilder, values: list[Value], rng: np.random.Generator) -> Value:
    x = values[int(rng.integers(max(0, len(values) - 3), len(values)))]
    alike = [v for v in values if v.shape == x.shape]
    joinable = [v for v in values if v.shape[1:] == x.shape[1:]]
    choices = [
        lambda: _convolution(b, x, rng),
        lambda: _pool(b, x, rng),
        lambda: _slice(b, x, rng),
        lambda: b.batchnorm(x, 1e-3),
        lambda: b.depthwise(x, 3, int(rng.integers(1, 3))),
        lambda: b.relu(x),
        lambda: b.relu(x),
        lambda: b.add(x, *(alike[int(i)] for i in rng.integers(len(alike), size=rng.integers(1, 3)))),
        lambda: b.mul(x, alike[int(rng.integers(len(alike)))]),
        lambda: b.mul(x, b.linear(b.mean(x), x.c)),
        lambda: b.concat(x, *(joinable[int(i)] for i in rng.integers(len(joinable), size=rng.integers(0, 3)))),
        lambda: b.mean(x),
        *[lambda: _newer(b, x, rng)] * 4,
        *[lambda: _spatial(b, x, rng)] * 2,
    ]
    return choices[int(rng.integers(len(choices)))]()


@pytest.fixture(scope="session")
def random_graph() -> RandomGraph:
    """Small networks that use every operation, by seed."""

    def make(seed: int) -> ComputationGraph:
        rng = np.random.default_rng(seed)
        b = GraphBuilder()
        values = [b.input(3, int(rng.integers(5, 11)), int(rng.integers(5, 11)))]
        for _ in range(int(rng.integers(1, 14))):
            values.append(_step(b, values, rng))
        last = values[-1]
        b.output(b.relu(b.linear(b.mean(last), 5)) if rng.integers(2) else last)
        graph = b.build()
        relus = np.flatnonzero(graph.nodes[:, Column.OP] == Op.RELU)
        graph.nodes[relus, Column.OP] = rng.choice([int(op) for op in ELEMENTWISE], size=len(relus))
        return graph

    return make
