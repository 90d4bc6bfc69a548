"""What of ONNX's own test suite is read, and whether it is read right: ``python benchmarks/onnx_node_tests.py --table``.

The suite is that of the installed ``onnx``: a small model for each case of each operator (``onnx.backend.test``), with
inputs and what they give. It runs twice.

raw: each model as it is. Most have several inputs or a batch, which no network of one image has.

adapted: each model whose first input is a tensor of numbers becomes a network of one image. The image is that input's
numbers as [1, c, h, w], which a Reshape brings into the shape that the case has; its other inputs become initialisers;
its first output, as one row, becomes the only one. Left out, and counted, are cases that no part of an image network can
be: on text, sequences, optional values and complex numbers, random ones, steps of training, operators of other domains.

A case is *read* where the importer gives a graph, *executed* where that graph holds no operation outside the vocabulary,
so that its numbers can be compared with what the suite expects, *refused* where the importer raises an error of gennape,
and *wrong* where numbers or costs cannot be right, or anything else is raised. The exit status is 1 where one is wrong,
or fewer adapted cases are read than ``--least``.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from gennape.errors import GennapeError
from gennape.search_spaces.graph import Column, ComputationGraph
from gennape.search_spaces.module import GraphModule, compile_graph
from gennape.search_spaces.onnx_import import from_onnx
from gennape.search_spaces.ops import Op
from gennape.search_spaces.plan import NOT_EXECUTABLE

#: Most seconds that a case may take.
SECONDS = 60
OUTCOMES = ("read, executed", "read, others", "refused", "wrong")
#: Operators and domains that no network of one image has.
LEFT_OUT = {
    "text": ("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "TfIdfVectorizer", "LabelEncoder"),
    "random": ("Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"),
    "training": ("Adagrad", "Adam", "Momentum", "Gradient", "SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"),
    "files": ("ImageDecoder",),
}
_REASONS = {op: reason for reason, ops in LEFT_OUT.items() for op in ops}


@dataclass(frozen=True)
class Case:
    """A model of the suite, what is given to it, and what it should make of it."""

    name: str
    kind: str
    model: onnx.ModelProto
    inputs: list[Any]
    outputs: list[Any]
    rtol: float
    atol: float


def cases() -> Iterator[Case]:
    """Every model of the suite that the package holds or makes."""
    from onnx.backend.test.case.node import collect_testcases  # noqa: PLC0415 - takes half a minute
    from onnx.backend.test.loader import load_model_tests  # noqa: PLC0415

    for case in collect_testcases(None):
        inputs, outputs = case.data_sets[0]
        yield Case(case.name, "node", case.model, [*inputs], [*outputs], case.rtol, case.atol)
    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        for case in load_model_tests(kind=kind):
            folder = Path(case.model_dir)
            model = onnx.load(folder / "model.onnx")
            data = folder / "test_data_set_0"
            inputs = [_tensor(data / f"input_{i}.pb", value) for i, value in enumerate(model.graph.input)]
            outputs = [_tensor(data / f"output_{i}.pb", value) for i, value in enumerate(model.graph.output)]
            yield Case(case.name, kind, model, inputs, outputs, case.rtol, case.atol)


def _tensor(path: Path, value: onnx.ValueInfoProto) -> Any:
    if not path.exists() or not value.type.HasField("tensor_type"):
        return None
    return numpy_helper.to_array(onnx.load_tensor(path))


# A network of one image ------------------------------------------------------------------------------------------------


def adapted(case: Case) -> Case | str:
    """The case as a network of one image, or why there is none."""
    graph = case.model.graph
    operators = [node.op_type for node in graph.node]
    left_out = next((_REASONS[op] for op in operators if op in _REASONS), None)
    if left_out or any(entry.domain not in ("", "ai.onnx") for entry in case.model.opset_import):
        return left_out or "other domains"
    initial = {tensor.name for tensor in graph.initializer}
    values = [value for value in graph.input if value.name not in initial]
    if not values or not case.outputs:
        return "no input"
    image, expected = case.inputs[0], case.outputs[0]
    if not all(value.type.HasField("tensor_type") for value in (*values, graph.output[0])):
        return "sequences"
    numeric = [_is_numeric(x) for x in (*case.inputs[: len(values)], expected)]
    if not all(numeric):
        return "text"
    if 0 in image.shape or expected.size == 0:
        return "empty tensors"
    return _network(case, values, image, expected)


def _is_numeric(x: Any) -> bool:
    return isinstance(x, np.ndarray | np.generic) and np.asarray(x).dtype.kind in "biufV" and "complex" not in str(x.dtype)


def _network(case: Case, values: list[onnx.ValueInfoProto], image: Any, expected: Any) -> Case:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    first, result = values[0], graph.output[0].name
    shape, elem = np.asarray(image).shape, first.type.tensor_type.elem_type
    dims = (1, *((1,) * (3 - len(shape)) if False else ()), *_map(shape))
    given = [_initializer(value, x) for value, x in zip(values[1:], case.inputs[1:], strict=False)]
    nodes = [
        helper.make_node("Reshape", ["drill_image", "drill_shape"], [first.name]),
        *graph.node,
        helper.make_node("Reshape", [result, "drill_row"], ["drill_result"]),
    ]
    sizes = [
        numpy_helper.from_array(np.array(shape, np.int64), "drill_shape"),
        numpy_helper.from_array(np.array([1, -1], np.int64), "drill_row"),
    ]
    kind = graph.output[0].type.tensor_type.elem_type
    for field in ("node", "input", "output"):
        del getattr(graph, field)[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*given, *sizes])
    graph.input.append(helper.make_tensor_value_info("drill_image", elem, dims))
    graph.output.append(helper.make_tensor_value_info("drill_result", kind, None))
    expected = np.asarray(expected).reshape(1, -1)
    return Case(case.name, case.kind, model, [np.asarray(image).reshape(dims)], [expected], case.rtol, case.atol)


def _map(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of a tensor: leading dimensions are channels, those that are missing 1."""
    if len(shape) < 3:
        c, h, w = (*shape, 1, 1, 1)[:3]
        return c, h, w
    return prod(shape[:-2]), shape[-2], shape[-1]


def _initializer(value: onnx.ValueInfoProto, x: Any) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.asarray(x), value.name)
    return tensor


# What comes of it ------------------------------------------------------------------------------------------------------


def outcome(case: Case) -> tuple[str, str]:
    """One of ``OUTCOMES`` and what is to be said about it."""
    try:
        graph = from_onnx(case.model).graph
    except GennapeError as error:
        return "refused", " / ".join(str(error).splitlines()[:2])[:300]
    except Exception as error:  # noqa: BLE001 - what the drill looks for
        return "wrong", f"{type(error).__name__}: {error}"
    if np.isin(graph.nodes[:, Column.OP], NOT_EXECUTABLE).any():
        return "read, others", ""
    try:
        return _compared(case, graph)
    except Exception as error:  # noqa: BLE001 - what the drill looks for
        return "wrong", f"executed: {type(error).__name__}: {error}"


def _compared(case: Case, graph: ComputationGraph) -> tuple[str, str]:
    module = compile_graph(graph).eval()
    weights(module, case.model)
    image = case.inputs[0]
    if not isinstance(image, np.ndarray) or image.shape[1:] != module.image_shape or image.shape[0] != 1:
        image = np.asarray(image).reshape(1, *module.image_shape)
    with torch.no_grad():
        made = module.double()(torch.from_numpy(image.astype(np.float64))).numpy().reshape(-1)
    wanted = np.asarray(case.outputs[0]).astype(np.float64).reshape(-1)
    if made.shape != wanted.shape:
        return "wrong", f"{made.size} numbers for {wanted.size}"
    tolerance = max(case.rtol, 1e-2 if case.outputs[0].dtype.itemsize < 4 else 1e-3)
    if np.allclose(made, wanted, rtol=tolerance, atol=max(case.atol, 1e-5), equal_nan=True):
        return "read, executed", ""
    if case.kind != "node" and np.allclose(np.sort(made), np.sort(wanted), rtol=tolerance, atol=1e-5):
        return "read, executed", "in another order"
    return "wrong", f"numbers differ by up to {np.nanmax(np.abs(made - wanted)):.3g}"


def weights(module: GraphModule, model: onnx.ModelProto) -> None:
    """Give the layers the constants of the operators that they were read from, in order of execution."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    learnt = [
        (node, held)
        for node in model.graph.node
        if (held := [constants[name] for name in node.input if name in constants and name and "drill" not in name])
        and any(x.dtype.kind == "f" and x.size > 0 for x in held)
    ]
    layers = [layer for layer in module.children() if any(True for _ in (*layer.parameters(), *layer.buffers()))]
    queue = [x for _, held in learnt for x in held]
    nodes = {node.op_type: {a.name: helper.get_attribute_value(a) for a in node.attribute} for node, _ in learnt}
    for layer in layers:
        for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
            if name == "num_batches_tracked":
                continue
            size = tensor.numel()
            at = next((i for i, x in enumerate(queue) if x.size == size), None)
            if at is None:
                raise ValueError(f"no constant of the model has the {size} numbers of {name}")
            values = queue.pop(at).astype(np.float64)
            turned = name == "weight" and isinstance(layer, torch.nn.Linear)
            if turned and not nodes.get("Gemm", {}).get("transB"):
                values = values.T
            if "Gemm" in nodes:
                values = values * nodes["Gemm"].get("alpha" if turned else "beta", 1.0)
            tensor.data = torch.from_numpy(np.ascontiguousarray(values)).reshape(tensor.shape)


def main() -> None:
    """Run the suite and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names that hold this text")
    parser.add_argument("--list", default="", help="print the cases of this outcome")
    parser.add_argument("--least", type=int, default=0, help="fewest adapted cases to be read")
    parser.add_argument("--table", action="store_true", help="print the figures as Markdown")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _too_long)
    counts: dict[str, Counter[str]] = {"raw": Counter(), "adapted": Counter()}
    left_out: Counter[str] = Counter()
    slowest, start = (0.0, ""), time.monotonic()
    for case in cases():
        if given.only not in case.name:
            continue
        small = adapted(case)
        if isinstance(small, str):
            left_out[small] += 1
        for way, todo in (("raw", case), ("adapted", small)):
            if isinstance(todo, str):
                continue
            began = time.monotonic()
            signal.alarm(SECONDS)
            found, why = outcome(todo)
            signal.alarm(0)
            slowest = max(slowest, (time.monotonic() - began, f"{case.name}, {way}"))
            counts[way][found] += 1
            if found == "wrong" or (given.list and given.list in f"{way} {found}"):
                sys.stdout.write(f"{way} {found}: {case.name}: {why}\n")
    _report(counts, left_out, given.table)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        f"\n{time.monotonic() - start:.0f} s, the slowest {slowest[0]:.1f} s ({slowest[1]}), {memory:.0f} MB\n"
    )
    read = sum(counts["adapted"][o] for o in OUTCOMES[:2])
    if any(count["wrong"] for count in counts.values()) or read < given.least:
        sys.exit(1)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"over {SECONDS} s")


def _report(counts: dict[str, Counter[str]], left_out: Counter[str], table: bool) -> None:
    rows = [("", *OUTCOMES, "all")]
    rows += [(way, *(f"{count[o]:,}" for o in OUTCOMES), f"{count.total():,}") for way, count in counts.items()]
    if table:
        rows.insert(1, ("---", *["--:"] * (len(OUTCOMES) + 1)))
    for row in rows:
        sys.stdout.write(("| " + " | ".join(row) + " |" if table else "\t".join(row)) + "\n")
    reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
    sys.stdout.write(f"\nnot adapted: {left_out.total():,} ({reasons})\n")


if __name__ == "__main__":
    main()
