from __future__ import annotations

import math
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import ConfigError, WorkspaceError
from gennape.search_spaces.drawing import columns
from gennape.search_spaces.drawing.columns import LAYER_GAP
from gennape.search_spaces.drawing.diagram import KIND_OF, KINDS, TIMES, Diagram, by, label, plain_diagram
from gennape.search_spaces.drawing.files import WRITERS, draw
from gennape.search_spaces.drawing.folding import folded_diagram
from gennape.search_spaces.drawing.layers import arrange, cut_layers, layers_of
from gennape.search_spaces.drawing.layout import Picture, Rectangle, lay_out
from gennape.search_spaces.drawing.sizes import describe_sizes, draw_sizes, sample_sizes
from gennape.search_spaces.drawing.summary import quantity, summary
from gennape.search_spaces.drawing.svg import COLOURS, svg
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.graphs.blocks import conv_bn_relu
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.cost import macs, params
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, pack
from gennape.search_spaces.graphs.ops import Op

RandomGraph = Callable[[int], ComputationGraph]
SVG = "{http://www.w3.org/2000/svg}"


def residual(blocks: int, width: int = 8) -> ComputationGraph:
    """An input, a convolution, ``blocks`` equal residual blocks, an output."""
    b = GraphBuilder()
    x = conv_bn_relu(b, b.input(3, 16, 16), width, 3)
    for _ in range(blocks):
        x = b.relu(b.add(b.batchnorm(b.conv(conv_bn_relu(b, x, width, 1), width, 3)), x))
    b.output(x)
    return b.build()


def sampled(space: SearchSpace, seed: int) -> ComputationGraph:
    return space.graph(space.sample(np.random.default_rng(seed), 1)[0])


def apart(a: Rectangle, b: Rectangle) -> bool:
    return a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y


def points(picture: Picture) -> list[tuple[float, float]]:
    """Points along all edges: 24 of each curve, one every 2 pixels of a straight line."""
    found = []
    for path in picture.paths:
        x, y = 0.0, 0.0
        for name, numbers in path:
            ends = [(x, y), *zip(numbers[::2], numbers[1::2], strict=True)]
            n = 24 if name in "CQ" else int(math.hypot(ends[-1][0] - x, ends[-1][1] - y) / 2) + 1
            degree = len(ends) - 1
            for t in np.linspace(0, 1, n) if name != "M" else []:
                weights = [math.comb(degree, i) * t**i * (1 - t) ** (degree - i) for i in range(degree + 1)]
                found.append(
                    (
                        float(sum(w * p[0] for w, p in zip(weights, ends, strict=True))),
                        float(sum(w * p[1] for w, p in zip(weights, ends, strict=True))),
                    )
                )
            x, y = ends[-1]
    return found


def check_picture(diagram: Diagram) -> Picture:
    """What is true of every picture."""
    picture = lay_out(diagram, "a title")
    areas = picture.areas
    assert len(areas) == len(diagram.boxes)
    for i, area in enumerate(areas):
        assert 0 <= area.x <= area.x + area.width <= picture.width
        assert 0 <= area.y <= area.y + area.height <= picture.height
        assert all(apart(area, other) for other in areas[:i])
    # Edges arrive at the upper side of boxes; none goes through a box.
    assert len(picture.arrows) == len(diagram.edges)
    trace = np.array(points(picture)).reshape(-1, 2)
    for area in areas:
        inside = (trace[:, 0] > area.x) & (trace[:, 0] < area.x + area.width)
        inside &= (trace[:, 1] > area.y + 0.5) & (trace[:, 1] < area.y + area.height - 0.5)
        assert not inside.any()
    assert ((trace >= 0) & (trace <= [picture.width, picture.height])).all()
    # The texts on edges lie beside boxes, not on them, and not on each other.
    texts = [Rectangle(t.x, t.y - 8.0, 5.0 * len(t.text), 8.0) for t in picture.labels]
    for i, text in enumerate(texts):
        assert all(apart(text, area) for area in areas)
        assert all(apart(text, other) for other in texts[:i])
        inside = (trace > [text.x, text.y]) & (trace < [text.x + text.width, text.y + text.height])
        assert not inside.all(1).any()
    return picture


def check_svg(picture: Picture) -> None:
    root = ET.fromstring(svg(picture))  # noqa: S314  # our own file
    boxes = [g for g in root.iter(f"{SVG}g") if "box" in (g.get("class") or "").split()]
    assert len(boxes) == len(picture.boxes)
    for g, box in zip(boxes, picture.boxes, strict=True):
        assert [title.text for title in g.iter(f"{SVG}title")] == [box.tooltip]
        assert [text.text for text in g.iter(f"{SVG}text")] == list(box.lines)


def drawn_nodes(diagram: Diagram) -> list[int]:
    return sorted(node for box in diagram.boxes for node in box.nodes)


# Properties ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), fold=st.booleans(), shuffle=st.booleans(), tallest=st.sampled_from([150.0, 9e9]))
def test_every_picture(random_graph: RandomGraph, seed: int, fold: bool, shuffle: bool, tallest: float) -> None:
    """Small networks use every operation; a low page cuts them into columns."""
    graph = random_graph(seed)
    if shuffle:
        graph = graph.relabel(np.random.default_rng(seed).permutation(graph.n_nodes))
    diagram = (folded_diagram if fold else plain_diagram)(graph)
    assert drawn_nodes(diagram) == list(range(graph.n_nodes))
    with mock.patch.object(columns, "_TALLEST", tallest):
        picture = check_picture(diagram)
    check_svg(picture)
    if tallest > 1e9:
        for source, target in diagram.edges.tolist():
            assert picture.areas[source].y + picture.areas[source].height < picture.areas[target].y


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 24), seed=st.integers(0, 2**32 - 1), density=st.floats(0, 1))
def test_layers_of_any_acyclic_graph(n: int, seed: int, density: float) -> None:
    """Any number of starts and ends, too; every layer is used and every vertex stands in its layer once."""
    rng = np.random.default_rng(seed)
    rank = rng.permutation(n)
    pairs = [(int(a), int(b)) for i, a in enumerate(rank) for b in rank[i + 1 :] if rng.random() < density]
    edges = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    layer = layers_of(n, edges)
    assert all(layer[a] < layer[b] for a, b in pairs)
    assert set(layer) == set(range(max(layer) + 1))
    layers = arrange(n, edges)
    assert sorted(v for row in layers.order for v in row) == list(range(len(layers.layer)))
    assert all(layers.layer[v] == i for i, row in enumerate(layers.order) for v in row)
    assert all(layers.layer[w] == layers.layer[v] + 1 for v, below in enumerate(layers.below) for w in below)
    assert [layers.layer[v] for v in layers.spine] == list(range(len(layers.order)))
    # Bends lead every edge to its end, and the value of no other box.
    for a, b in pairs:
        v = b
        while layers.layer[v] > layers.layer[a] + 1:
            (v,) = [w for w in layers.above[v] if layers.owner[w] == a]
        assert a in layers.above[v]


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
@pytest.mark.parametrize("fold", [True, False])
def test_every_family(space: SearchSpace, fold: bool) -> None:
    graph = sampled(space, 1)
    diagram = (folded_diagram if fold else plain_diagram)(graph)
    assert drawn_nodes(diagram) == list(range(graph.n_nodes))
    assert (len(diagram.boxes) < graph.n_nodes) == fold
    check_svg(check_picture(diagram))


# What is drawn -------------------------------------------------------------------------------------------------------


def test_labels() -> None:
    b = GraphBuilder()
    x = b.input(4, 32, 32)
    x = b.conv(x, 64, 3, 2)
    x = b.conv(x, 8, (1, 5), (1, 2), groups=4)
    x = b.depthwise(x, 3, dilation=2)
    x = b.maxpool(x, 3, 2, 1)
    b.output(b.linear(b.mean(b.relu6(b.batchnorm(x))), 10))
    texts = [label(row).replace(TIMES, "x") for row in b.build().nodes.tolist()]
    assert texts == [
        "input",
        "conv 3x3 /2 ·64",
        "conv 1x5 /1x2 g4 ·8",
        "depthwise 3x3 dilated 2",
        "max pool 3x3 /2",
        "bn",
        "relu6",
        "global mean",
        "linear ·10",
        "output",
    ]


def test_every_operation_has_a_name_and_a_colour() -> None:
    assert set(KIND_OF) == set(Op)
    assert set(COLOURS) == set(KINDS)
    assert sum(map(len, KINDS.values())) == len(Op)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("kind", COLOURS)
def test_text_contrasts_with_its_box(kind: str) -> None:
    light, dark = sorted(map(luminance, COLOURS[kind]), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_tooltip_tells_all_attributes() -> None:
    b = GraphBuilder()
    x = b.conv(b.input(4, 8, 6), 16, (3, 1), 2, groups=2, bias=True)
    b.output(b.batchnorm(x, 0.25))
    boxes = plain_diagram(b.build()).boxes
    # 16 x 2 x 3 weights on 4 x 3 pixels, and 16 biases
    assert boxes[1].tooltip.replace(TIMES, "x") == (
        "1: conv, 8x6x4 → 4x3x16, kernel 3x1, stride 2x2, padding 1x0, dilation 1x1, groups 2, bias 1, "
        "1,152 MACs, 112 parameters"
    )
    assert boxes[2].tooltip.endswith("scalar 0.25, 32 parameters")


def test_folding_of_chains_gates_and_repetitions() -> None:
    b = GraphBuilder()
    x = b.hardswish(b.batchnorm(b.conv(b.input(3, 8, 8), 8, 3)))
    squeezed = b.relu(b.linear(b.mean(x), 2))
    x = b.mul(x, b.hardsigmoid(b.linear(squeezed, 8)))
    y = b.batchnorm(b.conv(b.relu(x), 8, 3))
    b.output(b.relu(b.add(y, x)))
    diagram = folded_diagram(b.build())
    assert [tuple(line.replace(TIMES, "x") for line in box.lines) for box in diagram.boxes] == [
        ("input",),
        ("conv 3x3 ·8", "bn → h-swish"),
        ("squeeze-excite ·2",),
        ("conv 3x3 ·8", "relu → conv → bn"),
        ("add", "relu"),
        ("output",),
    ]
    assert diagram.edges.tolist() == [[0, 1], [1, 2], [2, 3], [2, 4], [3, 4], [4, 5]]
    assert diagram.frames == ()


def test_repetitions_are_drawn_once() -> None:
    graph = residual(5)
    diagram = folded_diagram(graph)
    (frame,) = diagram.frames
    assert frame.times == 5
    assert [diagram.boxes[i].lines[0].split()[0] for i in frame.boxes] == ["conv", "conv", "add"]
    assert len(diagram.boxes) == 6  # input, stem, three of the block, output
    assert drawn_nodes(diagram) == list(range(graph.n_nodes))
    ((area, text),) = check_picture(diagram).frames
    assert text.text == f"{TIMES}5"
    picture = lay_out(diagram, "")
    inside = {i for i, box in enumerate(picture.areas) if not apart(area, box)}
    assert inside == set(frame.boxes)


def test_blocks_that_differ_are_drawn_each() -> None:
    b = GraphBuilder()
    x = b.input(4, 8, 8)
    for kernel in (3, 5, 3, 5, 1):
        x = b.add(conv_bn_relu(b, conv_bn_relu(b, x, 4, kernel), 4, 1), x)
    b.output(x)
    diagram = folded_diagram(b.build())
    (frame,) = diagram.frames  # two kernels, twice
    assert (frame.times, len(frame.boxes)) == (2, 6)
    assert len(diagram.boxes) == 2 + 6 + 3


def test_cut_layers() -> None:
    # 0 - 1 - 2 - 3 with 0 - 2: all paths go through 0, 2 and 3
    edges = np.array([[0, 1], [0, 2], [1, 2], [2, 3]], np.int64)
    assert cut_layers([0, 1, 2, 3], edges) == [0, 2, 3]


def test_chains_are_straight_and_short_edges_downward() -> None:
    graph = residual(3)
    picture = check_picture(plain_diagram(graph))
    main = [picture.areas[i] for i in range(graph.n_nodes)]
    middles = {round(area.x + area.width / 2, 3) for area in main}
    assert len(middles) <= 2  # one for each column
    assert all(a.y + a.height + LAYER_GAP <= b.y + 1e-6 or b.x > a.x for a, b in zip(main[:-1], main[1:], strict=True))


def test_large_networks_become_columns_and_stay_readable() -> None:
    graph = residual(150)
    assert graph.n_nodes > 1000
    start = time.process_time()
    picture = lay_out(plain_diagram(graph), "")
    text = svg(picture)
    assert time.process_time() - start < 10  # takes less than one second; machines differ
    assert 0.4 < picture.width / picture.height < 3
    assert len({round(area.x) for area in picture.areas if area.width == picture.areas[0].width}) > 5
    assert text.count("<title>") == graph.n_nodes
    assert len(folded_diagram(graph).boxes) == 6


def test_shapes_on_edges() -> None:
    few = lay_out(folded_diagram(residual(1)), "")
    assert len(few.labels) == len(few.boxes) - 1  # every box but the output feeds one
    many = lay_out(plain_diagram(residual(20)), "")
    assert [text.text for text in many.labels] == [by((16, 16, 3)), by((16, 16, 8))]  # where they change


def test_names_from_outside_are_escaped() -> None:
    picture = lay_out(plain_diagram(residual(1)), "<script>&\x00")
    root = ET.fromstring(svg(picture))  # noqa: S314
    assert "<script>&\ufffd" in [text.text for text in root.iter(f"{SVG}text")]


# Files ---------------------------------------------------------------------------------------------------------------

MAGIC = {".svg": b"<svg ", ".png": b"\x89PNG", ".pdf": b"%PDF", ".dot": b"digraph "}


@pytest.mark.parametrize("suffix", WRITERS)
def test_formats(suffix: str, tmp_path: Path) -> None:
    to = tmp_path / f"graph{suffix}"
    to.write_text("old")
    diagram = folded_diagram(residual(2))
    draw(diagram, "$x$ & y", to)
    first = to.read_bytes()
    assert first.startswith(MAGIC[suffix])
    draw(diagram, "$x$ & y", to)
    assert to.read_bytes() == first
    assert list(tmp_path.iterdir()) == [to]


def test_refuses_unknown_suffixes_and_bad_folders(tmp_path: Path) -> None:
    diagram = plain_diagram(residual(1))
    with pytest.raises(ConfigError, match=r"'graph\.gif': its suffix must be one of \.svg, \.png, \.pdf, \.dot"):
        draw(diagram, "", tmp_path / "graph.gif")
    for suffix in WRITERS:
        with pytest.raises(WorkspaceError, match="cannot write"):
            draw(diagram, "", tmp_path / "missing" / f"graph{suffix}")
    assert list(tmp_path.iterdir()) == []


# Text and sizes ------------------------------------------------------------------------------------------------------


def test_quantity() -> None:
    values = {0: "0", 7: "7", 999: "999", 999.9: "1 k", 1500: "1.5 k", 25_557_032: "25.6 M", 4.1e9: "4.1 G"}
    assert {value: quantity(value) for value in values} == values


def test_summary_counts() -> None:
    b = GraphBuilder()
    x = b.relu(b.conv(b.input(3, 8, 8), 4, 3))  # 3 x 4 x 9 weights, 64 pixels
    b.output(b.linear(b.mean(x), 10))  # 4 x 10 weights, 10 biases
    lines = summary(b.build()).replace(TIMES, "x").splitlines()
    assert lines[0] == "6 nodes, 5 edges, height by width by channels 8x8x3 to 1x1x10"
    assert lines[1] == "6.95 k MACs, 13.9 k FLOPs, 158 parameters"  # 6912 + 40, 108 + 50
    rows = {line[:16].strip(): line[16:].split() for line in lines[4:]}
    assert rows["conv"] == ["1", "99.4", "%", "68.4", "%"]
    assert rows["linear"] == ["1", "0.6", "%", "31.6", "%"]
    assert rows["relu"] == ["1", "-", "-"]
    assert [line.split()[0] for line in lines[4:6]] == ["conv", "linear"]


def test_sizes_are_those_of_the_sampled_networks(tmp_path: Path) -> None:
    space = family("hiaml")
    sizes = sample_sizes(space, 300, np.random.default_rng(5))
    graphs = space.graphs(space.sample(np.random.default_rng(5), 300))
    assert sizes.params.tolist() == params(graphs).tolist()
    assert sizes.macs.tolist() == macs(graphs).tolist()
    text = describe_sizes(sizes)
    assert text.startswith(f"hiaml: {quantity(float(np.median(sizes.params)))} parameters (")
    other = sample_sizes(family("nb101"), 20, np.random.default_rng(5))
    for suffix in (".svg", ".png", ".pdf"):
        draw_sizes([sizes, other], tmp_path / f"sizes{suffix}")
        assert MAGIC[suffix] in (tmp_path / f"sizes{suffix}").read_bytes()
    assert text in (tmp_path / "sizes.svg").read_text()
    with pytest.raises(ConfigError, match=r"one of \.svg, \.png, \.pdf"):
        draw_sizes([sizes], tmp_path / "sizes.dot")
    with pytest.raises(WorkspaceError, match="cannot write"):
        draw_sizes([sizes], tmp_path / "missing" / "sizes.svg")


def test_sizes_of_one_network(tmp_path: Path) -> None:
    """All bins and axes hold where nothing varies."""
    draw_sizes([sample_sizes(family("nb101"), 1, np.random.default_rng(0))], tmp_path / "one.svg")


def test_drawing_leaves_the_graph_alone() -> None:
    graph = sampled(family("nb101"), 2)
    before = canonical_hashes(pack([graph]))
    lay_out(folded_diagram(graph), "")
    assert canonical_hashes(pack([graph])) == before
    assert int((graph.nodes[:, Column.OP] == Op.INPUT).sum()) == 1
