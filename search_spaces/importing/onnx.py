"""Import a network from ONNX: its structure becomes a computation graph, its weights stay in the file."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx

from gennape.errors import InvalidDataError, InvalidGraphError
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, pack, validate
from gennape.search_spaces.graphs.operations import other_kind
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.imported import Imported
from gennape.search_spaces.importing.onnx_nodes.call import Call, Result, Sequence
from gennape.search_spaces.importing.onnx_nodes.constants import evaluate, is_evaluated
from gennape.search_spaces.importing.onnx_nodes.file import MAX_BYTES, Constant, read_model, without_weights
from gennape.search_spaces.importing.onnx_nodes.network import OnnxNetwork, OnnxNode, needed, network_of
from gennape.search_spaces.importing.onnx_nodes.number_types import casts, number_types
from gennape.search_spaces.importing.onnx_nodes.operators import FUSED_OPERATORS, OPERATORS
from gennape.search_spaces.importing.onnx_nodes.patterns import FUSED, fuse
from gennape.search_spaces.importing.onnx_nodes.runtime import as_onnx
from gennape.search_spaces.importing.onnx_nodes.sharing import Origin, with_shared_weights
from gennape.search_spaces.importing.passes import tidied
from gennape.search_spaces.importing.tracing.traced_value import TracedValue, default_groups, grouped, settle, sizes

#: Most problems that an error lists, most seconds of an import, and largest cost of a node.
_MAX_LISTED, _MAX_SECONDS, _MAX_COST = 200, 60.0, 2.0**53
#: Most bytes of folded constants that are kept.
_MAX_CONSTANTS = 64 * 2**20


def read_onnx(
    path: Path, max_bytes: int = MAX_BYTES, shape: tuple[int, ...] | None = None, max_inputs: int | None = None
) -> ComputationGraph:
    """The network in the ONNX file at ``path``, of opset 11 to 28.

    Only the structure is read, never weights or external data, so memory does not grow with them. A free first
    dimension of the input is the batch and set to 1; for other free dimensions give the input's ``shape``.

    Raises :class:`InvalidDataError` if the file cannot be read, is larger than ``max_bytes`` or is not ONNX. Raises
    :class:`InvalidGraphError` with a list of all nodes that a computation graph cannot express, or if the operators
    have more than ``max_inputs`` inputs in total, which determine the time of an import.
    """
    return import_onnx(path, max_bytes, shape, max_inputs).graph


def import_onnx(
    path: Path, max_bytes: int = MAX_BYTES, shape: tuple[int, ...] | None = None, max_inputs: int | None = None
) -> Imported:
    """Like :func:`read_onnx`, with a count of the operations outside the vocabulary."""
    network = network_of(read_model(path, max_bytes), shape)
    inputs = sum(len(node.inputs) for node in network.nodes)
    if max_inputs is not None and inputs > max_inputs:
        raise InvalidGraphError(
            f"the operators of the model take {inputs} inputs, more than the {max_inputs} allowed; divide the network"
        )
    return _imported(network)


def from_onnx(model: onnx.ModelProto, shape: tuple[int, ...] | None = None) -> Imported:
    """Like :func:`import_onnx`, for a model in memory, which is not changed."""
    return _imported(network_of(without_weights(model), shape))


@dataclass(slots=True)
class _Draft:
    """The state that passes share: a file's operators, constants, problems and dtypes."""

    nodes: list[OnnxNode]
    constants: dict[str, Constant]
    network: OnnxNetwork
    deadline: float
    problems: list[str] = field(default_factory=list)
    types: dict[str, int] = field(default_factory=dict)


def _undo_runtime(draft: _Draft) -> list[OnnxNode]:
    """Turn a runtime's fused operators back into standard ONNX operators."""
    return as_onnx(draft.nodes, draft.constants)


def _with_types(draft: _Draft) -> list[OnnxNode]:
    """Infer the dtypes of all values; keep only casts that change results."""
    (name, _), network = draft.network.input, draft.network
    draft.types = number_types(draft.nodes, {name: network.type, **{k: x.type for k, x in draft.constants.items()}})
    return casts(draft.nodes, draft.types)


def _without_constants(draft: _Draft) -> list[OnnxNode]:
    """Constant folding: compute nodes that do not depend on the image, and return the others."""
    rest, held = [], 0
    for node in draft.nodes:
        fixed = not node.domain and is_evaluated(node.op) and all(not x or x in draft.constants for x in node.inputs)
        if not fixed:
            rest.append(node)
            continue
        try:
            _check_time(draft.deadline, node)
            made = evaluate(node, [draft.constants.get(x) for x in node.inputs], draft.network.opset)
            held += sum(x.values.nbytes for x in made if x.values is not None)
            if held > _MAX_CONSTANTS:  # from here on only shapes are kept
                made = [replace(x, values=None) for x in made]
            draft.constants.update((name, x) for name, x in zip(node.outputs, made, strict=False) if name)
        except InvalidGraphError as error:
            draft.problems.append(f"node {node}: {error}")
    return rest


def _with_patterns(draft: _Draft) -> list[OnnxNode]:
    """Fuse operators that exporters decomposed."""
    return fuse(draft.nodes, draft.constants, draft.network.output)


def _needed(draft: _Draft) -> list[OnnxNode]:
    """Remove nodes that the output does not depend on."""
    return needed(draft.nodes, draft.network.output)


#: Passes over a file's operators, in order, before the graph is built; :data:`.passes.PASSES` then change the graph.
NODE_PASSES: tuple[Callable[[_Draft], list[OnnxNode]], ...] = (
    _undo_runtime,
    _with_types,
    _without_constants,
    _with_patterns,
    _needed,
)


def _imported(network: OnnxNetwork) -> Imported:
    draft = _Draft(network.nodes, dict(network.constants), network, time.monotonic() + _MAX_SECONDS)
    for one_pass in NODE_PASSES:
        draft.nodes = one_pass(draft)
    constants, problems = draft.constants, draft.problems
    name, shape = network.input
    builder, groups = GraphBuilder(), default_groups(shape)
    image = grouped(builder.input(*sizes(shape, groups)), shape, groups)
    values: dict[str, Result] = {**constants, name: image}
    call = Call(OnnxNode("", "", (), ()), (), builder, network.opset, set(), {}, draft.types)
    origins: list[Origin] = []
    for node in draft.nodes:
        _check_time(draft.deadline, node)
        # A node is not reported because its input failed; only if its operator is unknown.
        lost = any(x and x not in values for x in node.inputs)
        try:
            first, taken = builder.size, _prepared(call, node, values)
            results = [] if lost and _is_known(node) else _results(taken)
            learnt = tuple(x for x in taken.constants if x is not None and x.params)
            origins.append(Origin(first, builder.size, learnt))
            values.update((name, made) for name, made in zip(node.outputs, results, strict=False) if name)
        except InvalidGraphError as error:
            problems.append(f"node {node}: {error}")
    result = values.get(network.output)
    if problems or not isinstance(result, TracedValue):
        raise _refused(problems or [f"the output {network.output!r} does not depend on the input"])
    builder.output(settle(builder, result).value)
    graph = with_shared_weights(*tidied(builder.build()), origins)
    _check_cost(graph)
    validate(pack([graph]))
    return Imported(graph, _counted(graph, call.others))


def _check_time(deadline: float, node: OnnxNode) -> None:
    if time.monotonic() > deadline:
        raise InvalidDataError(f"the import took over {_MAX_SECONDS:.0f} s, up to node {node}; simplify the model")


def _prepared(call: Call, node: OnnxNode, values: dict[str, Result]) -> Call:
    """The call of an operator, with the values of its inputs."""
    taken = [values.get(name) for name in node.inputs]
    sequences = [x for x in taken if isinstance(x, Sequence)]
    if sequences and node.op != "SequenceAt":
        raise InvalidGraphError("its input is a sequence; pass the elements instead")
    xs = tuple(None if isinstance(x, Sequence) else x for x in taken)
    return replace(call, node=node, xs=xs, sequence=sequences[0] if sequences else None)


def _check_cost(graph: ComputationGraph) -> None:
    """Refuse sizes whose products overflow the cost counters."""
    nodes = np.maximum(graph.nodes, 1).astype(np.float64)
    made = [Column.C_IN, Column.C_OUT, Column.KERNEL_H, Column.KERNEL_W, Column.H_OUT, Column.W_OUT]
    taken = [Column.C_IN, Column.H_IN, Column.W_IN, Column.W_OUT]
    worst = max(nodes[:, made].prod(1).max(), nodes[:, taken].prod(1).max(), graph.scalars.max())
    if worst > _MAX_COST:
        raise InvalidGraphError(
            f"a node of the model would cost {worst:.1e} multiply-accumulates, over {_MAX_COST:.1e}"
        )


def _counted(graph: ComputationGraph, names: set[str]) -> dict[str, int]:
    """How often each operation outside the vocabulary is in the graph."""
    kinds = Counter(graph.nodes[graph.nodes[:, Column.OP] == Op.OTHER, Column.KIND].tolist())
    # The last two are not operators: the import adds them to arrange a tensor's dimensions for the next operator.
    named = {name: kinds[other_kind(name)] for name in sorted(names | {"rearrange", "expand"})}
    return {name: count for name, count in named.items() if count}


def _is_known(node: OnnxNode) -> bool:
    if node.domain:
        return node.domain == FUSED and node.op in FUSED_OPERATORS
    return node.op in OPERATORS or is_evaluated(node.op)


def _results(call: Call) -> list[Result]:
    """The operator's outputs, as nodes or as constants."""
    node = call.node
    if all(not isinstance(x, TracedValue) for x in call.xs) and is_evaluated(node.op) and not node.domain:
        return [*evaluate(node, call.constants, call.opset)]
    operator = (FUSED_OPERATORS if node.domain == FUSED else {} if node.domain else OPERATORS).get(node.op)
    if operator is None:
        raise InvalidGraphError("no operation is known for it")
    made = operator(call)
    results = made if isinstance(made, list) else [made]
    if len(results) < node.n_taken:
        raise InvalidGraphError(f"its output {node.n_taken} is used; only the first {len(results)} can be imported")
    return results


def _refused(problems: list[str]) -> InvalidGraphError:
    listed = problems[:_MAX_LISTED] + [f"and {len(problems) - _MAX_LISTED} more"] * (len(problems) > _MAX_LISTED)
    return InvalidGraphError(
        f"the model cannot be expressed as a computation graph, {len(problems)} of its parts are not supported:\n  "
        + "\n  ".join(listed)
        + "\nreplace them in the network, or fold constants when exporting"
    )
