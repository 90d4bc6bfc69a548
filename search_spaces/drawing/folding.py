"""Draw a network with fewer boxes: chains and gates become one box, repetitions one copy in a frame."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from gennape.search_spaces.drawing.diagram import (
    ACTIVATIONS,
    NORMALISATIONS,
    Box,
    Diagram,
    Frame,
    label,
    merged_box,
    node_box,
    node_tooltips,
    op_name,
    unique_edges,
)
from gennape.search_spaces.drawing.layers import cut_layers, layers_of
from gennape.search_spaces.graphs.graph import Column, ComputationGraph
from gennape.search_spaces.graphs.ops import MERGES, Op

#: Operations that join the box before them, and those that join the box after them.
_TRAILING = frozenset({*ACTIVATIONS, *NORMALISATIONS, Op.IDENTITY, Op.ZERO})
_LEADING = _TRAILING | {Op.PAD}
_ENDS = frozenset({Op.INPUT, Op.OUTPUT})
#: A product of x and one activation of x is an activation too.
_SELF_GATES = {Op.HARDSIGMOID: "h-swish", Op.RELU6: "x·relu6", Op.SIGMOID: "swish"}
_MAX_GATE = 12  # nodes
_MAX_PERIOD = 16  # segments
_MAX_LINE = 30  # characters


@dataclass(slots=True)
class _Unit:
    """Nodes that are always drawn in one box."""

    nodes: list[int]
    op: Op  # a gated activation counts as swish
    name: str  # short
    text: str  # with kernel, stride and others
    trailing: bool
    leading: bool
    alone: bool = False


def folded_diagram(graph: ComputationGraph) -> Diagram:
    """Few boxes: a convolution with its normalisation and activation in one, gates in one, repetitions in a frame."""
    rows = graph.nodes.tolist()
    n = len(rows)
    inputs: list[list[int]] = [[] for _ in range(n)]
    fan_out = [0] * n
    for source, target in graph.edges.tolist():
        inputs[target].append(source)
        fan_out[source] += 1
    units, unit_of = _units(rows, inputs, fan_out)
    edges = {(unit_of[a], unit_of[b]) for a, b in graph.edges.tolist() if unit_of[a] != unit_of[b]}
    groups, group_of = _groups(units, edges)
    tooltips = node_tooltips(graph)
    boxes = tuple(_group_box([units[u] for u in group], rows, tooltips) for group in groups)
    joined = {(group_of[a], group_of[b]) for a, b in edges if group_of[a] != group_of[b]}
    keys = [tuple(tuple(rows[node]) for node in box.nodes) for box in boxes]
    return _collapse_repeats(Diagram(boxes, unique_edges(joined)), keys)


# Gates ---------------------------------------------------------------------------------------------------------------


def _units(rows: list[list[int]], inputs: list[list[int]], fan_out: list[int]) -> tuple[list[_Unit], list[int]]:
    """Units of single nodes, and of gates (h-swish, squeeze-excite) with their product."""
    gates = {node: gate for node in range(len(rows)) if (gate := _gate(node, rows, inputs, fan_out))}
    inside = {member: node for node, gate in gates.items() for member in gate[0]}
    units: list[_Unit] = []
    unit_of = [-1] * len(rows)
    for node, row in enumerate(rows):
        if node in inside:
            continue
        op = Op(row[Column.OP])
        if node in gates:
            members, name, text = gates[node]
            activation = name != "squeeze-excite"
            unit = _Unit([*members, node], Op.SWISH if activation else op, name, text, activation, activation)
        else:
            unit = _Unit([node], op, op_name(op), label(row), op in _TRAILING, op in _LEADING, op in _ENDS)
        unit_of[node] = len(units)
        units.append(unit)
    for member, node in inside.items():
        unit_of[member] = unit_of[node]
    return units, unit_of


def _gate(
    node: int, rows: list[list[int]], inputs: list[list[int]], fan_out: list[int]
) -> tuple[list[int], str, str] | None:
    """Chain, name and text of a known gate, if ``node`` is x times a chain of operations on x; else None."""
    if rows[node][Column.OP] != Op.MUL or len(inputs[node]) != 2:
        return None
    for x, gate in (inputs[node], inputs[node][::-1]):
        chain: list[int] = []
        current = gate
        while current != x and len(chain) < _MAX_GATE and len(inputs[current]) == 1 and fan_out[current] == 1:
            chain.append(current)
            current = inputs[current][0]
        if current != x or not chain:
            continue
        ops = [Op(rows[member][Column.OP]) for member in chain]
        if len(ops) == 1 and ops[0] in _SELF_GATES:
            return chain, _SELF_GATES[ops[0]], _SELF_GATES[ops[0]]
        if ops[-1] is Op.MEAN and len(ops) > 2:
            width = min(rows[member][Column.C_OUT] for member in chain)
            return chain[::-1], "squeeze-excite", f"squeeze-excite ·{width}"
    return None


# Chains --------------------------------------------------------------------------------------------------------------


def _groups(units: list[_Unit], edges: set[tuple[int, int]]) -> tuple[list[list[int]], list[int]]:
    """Units that share a box: one main operation with the light ones before and after it."""
    before: list[list[int]] = [[] for _ in units]
    fan_out = [0] * len(units)
    for source, target in edges:
        before[target].append(source)
        fan_out[source] += 1
    layer = layers_of(len(units), unique_edges(edges))
    groups: list[list[int]] = []
    group_of = [-1] * len(units)
    for u in sorted(range(len(units)), key=lambda u: (layer[u], u)):
        unit = units[u]
        joins = None
        if len(before[u]) == 1 and fan_out[before[u][0]] == 1:
            candidate = group_of[before[u][0]]
            if _may_join([units[member] for member in groups[candidate]], unit):
                joins = candidate
        if joins is None:
            joins = len(groups)
            groups.append([])
        groups[joins].append(u)
        group_of[u] = joins
    return groups, group_of


def _may_join(group: list[_Unit], unit: _Unit) -> bool:
    """Whether ``unit``, the only successor of ``group``, is drawn in its box."""
    if unit.alone or group[0].alone:
        return False
    if all(member.leading for member in group):
        return True
    # A normalisation after a sum or concatenation belongs to the box below.
    starts = group[-1].op in MERGES and unit.op in NORMALISATIONS
    return unit.trailing and group[-1].op is not Op.PAD and not starts


def _group_box(units: list[_Unit], rows: list[list[int]], tooltips: list[str]) -> Box:
    """The box of a chain: its main operation on the first line, all others in order below."""
    main = next((i for i, unit in enumerate(units) if not unit.leading), 0)
    boxes = []
    for unit in units:
        parts = [node_box(rows[node], node, tooltips[node]) for node in unit.nodes]
        boxes.append(merged_box(parts, len(parts) - 1, (unit.text,)))
    names = [unit.name for unit in units]
    below = names[1:] if main == 0 else names
    return merged_box(boxes, main, (units[main].text, *_wrap(below)))


def _wrap(names: list[str]) -> list[str]:
    """Names joined by arrows, on as few lines as possible."""
    lines: list[str] = []
    for name in names:
        if lines and len(lines[-1]) + len(name) + 3 <= _MAX_LINE:
            lines[-1] += f" → {name}"
        else:
            lines.append(f"→ {name}" if lines else name)
    return lines


# Repetitions ---------------------------------------------------------------------------------------------------------


def _collapse_repeats(diagram: Diagram, keys: Sequence[Hashable]) -> Diagram:
    """Draw one copy of equal consecutive segments; a segment ends at a box that all paths pass through."""
    layer = layers_of(len(diagram.boxes), diagram.edges)
    cuts = cut_layers(layer, diagram.edges)
    segments: list[list[int]] = [[] for _ in cuts]
    for box in sorted(range(len(diagram.boxes)), key=lambda b: (layer[b], b)):
        position = bisect_left(cuts, layer[box])  # the first cut at or below the box
        if position < len(cuts):
            segments[position].append(box)
    signatures = _signatures(diagram, segments, keys)
    removed: dict[int, int] = {}  # a copy's box -> the box that is drawn for it
    frames = []
    for start, period, times in _runs(signatures, [len(segment) for segment in segments]):
        kept = [box for segment in segments[start : start + period] for box in segment]
        for k in range(1, times):
            copy = [box for segment in segments[start + k * period : start + (k + 1) * period] for box in segment]
            removed.update(zip(copy, kept, strict=True))
        frames.append(Frame(tuple(kept), times))
    return _without(diagram, removed, frames)


def _signatures(diagram: Diagram, segments: list[list[int]], keys: Sequence[Hashable]) -> list[Hashable]:
    """Keys that are equal for segments with equal boxes and edges."""
    inputs: list[list[int]] = [[] for _ in diagram.boxes]
    for source, target in diagram.edges.tolist():
        inputs[target].append(source)
    signatures: list[Hashable] = []
    for segment in segments:
        place = {box: i for i, box in enumerate(segment)}
        joins = tuple(tuple(sorted(place.get(source, -1) for source in inputs[box])) for box in segment)
        signatures.append((tuple(keys[box] for box in segment), joins))
    return signatures


def _runs(signatures: list[Hashable], sizes: list[int]) -> list[tuple[int, int, int]]:
    """(start, period, times) of repetitions, from the top, chosen to save the most boxes, at least two."""
    runs = []
    start = 0
    while start < len(signatures):
        best = (1, 0, 0, 1)  # boxes saved, shorter period preferred, period, times
        for period in range(1, min(_MAX_PERIOD, (len(signatures) - start) // 2) + 1):
            times = 1
            while (
                signatures[start + times * period : start + (times + 1) * period] == signatures[start : start + period]
            ):
                times += 1
            saved = (times - 1) * sum(sizes[start : start + period])
            best = max(best, (saved, -period, period, times))
        saved, _, period, times = best
        if saved > 1:
            runs.append((start, period, times))
            start += period * times
        else:
            start += 1
    return runs


def _without(diagram: Diagram, removed: dict[int, int], frames: list[Frame]) -> Diagram:
    """The diagram with copies merged into the boxes that are drawn for them; edges into a copy are dropped."""
    copies: dict[int, list[int]] = {}
    for copy, original in removed.items():
        copies.setdefault(original, []).append(copy)
    kept = [box for box in range(len(diagram.boxes)) if box not in removed]
    place = {box: i for i, box in enumerate(kept)}
    boxes = tuple(_with_copies(diagram.boxes[box], [diagram.boxes[c] for c in copies.get(box, [])]) for box in kept)
    edges = unique_edges((place[removed.get(a, a)], place[b]) for a, b in diagram.edges.tolist() if b not in removed)
    return Diagram(boxes, edges, tuple(replace(f, boxes=tuple(place[box] for box in f.boxes)) for f in frames))


def _with_copies(box: Box, copies: list[Box]) -> Box:
    if not copies:
        return box
    repeated = "; ".join(", ".join(map(str, copy.nodes)) for copy in copies)
    nodes = (*box.nodes, *(node for copy in copies for node in copy.nodes))
    return replace(box, nodes=nodes, tooltip=f"{box.tooltip}\nrepeated as {repeated}")
