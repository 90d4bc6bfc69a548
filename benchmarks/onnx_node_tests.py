"""What of ONNX's own tests is read, and whether it is read right: ``python benchmarks/onnx_node_tests.py --table``.

The suite is that of the installed ``onnx`` (``onnx.backend.test``): a small model for each case of each operator, with
inputs and what they give. It runs twice.

raw: each model as it is. Most have several inputs or a batch, which no network of one image has.

adapted: each model whose first input is a tensor of numbers becomes a network of one image. The image holds that
input's numbers as [1, c, h, w], which a Reshape brings into the shape that the case has; the other inputs become
initialisers; the first output, as one row, is the only one. Models of opsets before 11 are converted by
``onnx.version_converter``. Left out, and counted, is what no part of an image network can be: text, sequences, optional
values and complex numbers, chance, steps of training, operators of other domains.

A case is *read* where the importer gives a graph. It is *executed* where that graph holds no operation outside the
vocabulary, so that its numbers are compared with what the suite expects or, where that differs, onnxruntime gives. It
is *refused* where the importer raises an error of gennape, and *wrong* where numbers differ or anything else is raised.
The exit status is 1 where a case is wrong, or fewer adapted cases are read than ``--least``.
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
from dataclasses import dataclass, replace
from itertools import permutations
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from gennape.errors import GennapeError
from gennape.search_spaces.graphs.graph import Column, ComputationGraph
from gennape.search_spaces.graphs.module import GraphModule, compile_graph
from gennape.search_spaces.graphs.plan import NOT_EXECUTABLE
from gennape.search_spaces.importing.onnx import from_onnx
from gennape.search_spaces.importing.onnx_nodes.network import OPSETS

#: Most seconds that a case may take, and the opset that old ones are converted to.
SECONDS, CONVERTED = 60, 13
#: Most factors of a result's dimensions that are compared in every order.
_MAX_FACTORS = 7
OUTCOMES = ("read, executed", "read, others", "refused", "wrong")
#: Operators and domains that no network of one image has.
LEFT_OUT = {
    "text": ("StringConcat", "StringNormalizer", "StringSplit", "RegexFullMatch", "TfIdfVectorizer", "LabelEncoder"),
    "random": ("Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial"),
    "training": ("Adagrad", "Adam", "Momentum", "Gradient", "SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"),
    "files": ("ImageDecoder",),
}
#: What onnxruntime raises for models and inputs that it does not take.
_REFUSALS = (
    *(
        getattr(onnxruntime.capi.onnxruntime_pybind11_state, name)
        for name in ("Fail", "InvalidGraph", "NotImplemented")
    ),
    *(getattr(onnxruntime.capi.onnxruntime_pybind11_state, name) for name in ("NotImplemented", "InvalidArgument")),
    *(RuntimeError, ValueError),
)
_REASONS = {op: reason for reason, ops in LEFT_OUT.items() for op in ops}


class UnknownWeightsError(Exception):
    """The weights of a layer are put together of several constants, which the drill cannot do."""


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


# A network of one image ----------------------------------------------------------------------------------------------


def adapted(case: Case) -> Case | str:
    """The case as a network of one image, or why there is none."""
    model = _converted(case.model)
    case = replace(case, model=model)
    graph = model.graph
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
        return "text, missing inputs or complex numbers"
    if 0 in image.shape or expected.size == 0:
        return "empty tensors"
    return _network(case, values, image, expected)


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of an opset that is read, where it is of an older one."""
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(model.opset_import) > 1 or not versions or versions[0] >= OPSETS[0]:
        return model
    try:
        return version_converter.convert_version(model, CONVERTED)
    except RuntimeError:  # what the converter does not know
        return model


def _is_numeric(x: Any) -> bool:
    return (
        isinstance(x, np.ndarray | np.generic) and np.asarray(x).dtype.kind in "biufV" and "complex" not in str(x.dtype)
    )


def _network(case: Case, values: list[onnx.ValueInfoProto], image: Any, expected: Any) -> Case:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    first, result = values[0], graph.output[0].name
    shape, elem = np.asarray(image).shape, first.type.tensor_type.elem_type
    dims = (1, *_map(shape))
    given = [numpy_helper.from_array(np.asarray(x), v.name) for v, x in zip(values[1:], case.inputs[1:], strict=False)]
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
    return Case(case.name, case.kind, model, [np.asarray(image).reshape(dims)], [expected], case.rtol, case.atol)


def _map(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Channels, height and width of a tensor: leading dimensions are channels, those that are missing 1."""
    if len(shape) < 3:
        c, h, w = (*shape, 1, 1, 1)[:3]
        return c, h, w
    return prod(shape[:-2]), shape[-2], shape[-1]


# What comes of it ----------------------------------------------------------------------------------------------------


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
    except UnknownWeightsError as error:
        return "read, others", str(error)
    except Exception as error:  # noqa: BLE001 - what the drill looks for
        return "wrong", f"executed: {type(error).__name__}: {error}"


def _compared(case: Case, graph: ComputationGraph) -> tuple[str, str]:
    module = compile_graph(graph).eval()
    carry(module, case)
    module = module.double()
    wanted = np.asarray(case.outputs[0]).astype(np.float64)
    far: object = "no layout of the image fits"
    for image in _images(np.asarray(case.inputs[0]), module.image_shape):
        with torch.no_grad():
            made = module(torch.from_numpy(image.astype(np.float64))).numpy()
        if _close(case, made, wanted):
            return "read, executed", ""
        ours = _by_onnxruntime(case)
        if ours is not None and not _close(case, ours, wanted) and _close(case, made, ours):
            return "read, executed", "as onnxruntime, other than the suite"
        far = f"{made.size} for {wanted.size}"
        if made.size == wanted.size:
            far = np.nanmax(np.abs(made.ravel() - wanted.ravel()))
    return "wrong", f"numbers differ: {far}"


def _images(x: np.ndarray[Any, Any], shape: tuple[int, ...]) -> Iterator[np.ndarray[Any, Any]]:
    """An input as the map that a graph takes: of [1, a, b] the last dimension are the channels.

    The importer takes an image whose last dimension is worked on as the channels for one with channels last.
    """
    if x.ndim == 3 and x.shape[0] == 1:
        yield x.transpose(0, 2, 1).reshape(1, *shape)
    elif x.ndim == 4:
        turned = x.transpose(0, 3, 1, 2)
        yield from (layout for layout in (x, turned) if layout.shape[1:] == shape)
    else:
        yield x.reshape(1, *shape)


def _close(case: Case, made: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> bool:
    """Whether the numbers are equal, up to the digits of their type, and to the order of dimensions or their factors.

    The importer leaves out how a network arranges its result at the end, so that one function is one graph.
    """
    tolerance = max(case.rtol, 1e-2 if np.asarray(case.outputs[0]).dtype.itemsize < 4 else 1e-3)

    def equal(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
        return np.allclose(a.ravel(), b.ravel(), tolerance, max(case.atol, 1e-5), equal_nan=True)

    if made.size != wanted.size or not equal(np.sort(made, axis=None), np.sort(wanted, axis=None)):
        return False
    whole = any(equal(a, b) for a in _orders(made) for b in _orders(wanted))
    return whole or any(equal(a, wanted) for shape in _factored(made.shape) for a in _orders(made.reshape(shape)))


def _orders(x: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """An array with its dimensions in every order."""
    x = x.squeeze()
    return (x.transpose(order) for order in permutations(range(x.ndim)))


def _factored(shape: tuple[int, ...]) -> Iterator[list[int]]:
    """A shape with every dimension as its prime factors, the smallest first or last, where they are few."""
    factors = [_primes(size) for size in shape]
    if sum(map(len, factors)) <= _MAX_FACTORS:
        yield [n for of_one in factors for n in of_one]
        yield [n for of_one in factors for n in of_one[::-1]]


def _primes(size: int) -> list[int]:
    first = next((n for n in range(2, size) if size % n == 0), size)
    return [] if size == 1 else [first, *_primes(size // first)]


def _by_onnxruntime(case: Case) -> np.ndarray[Any, Any] | None:
    """What onnxruntime gives; None where it does not take the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = min(model.ir_version, 10)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        made = session.run(None, {session.get_inputs()[0].name: np.asarray(case.inputs[0])})[0]
    except _REFUSALS:  # an operator or a type that it has not
        return None
    return np.asarray(made).astype(np.float64).reshape(np.asarray(case.outputs[0]).shape)


def carry(module: GraphModule, case: Case) -> None:
    """Give the layers the constants of the one operator that they were read from, each by the count of its numbers."""
    model, constants = case.model, _constants(case)
    held = [
        (node, i, constants[name])
        for node in model.graph.node
        for i, name in enumerate(node.input)
        if name in constants and not name.startswith("drill_") and constants[name].size
    ]
    first = {tensor.name for tensor in model.graph.initializer}
    held.sort(key=lambda use: use[0].input[use[1]] not in first)
    for layer in module.children():
        tensors = (*layer.named_parameters(), *layer.named_buffers())
        for name, tensor in [(name, x) for name, x in tensors if name != "num_batches_tracked"]:
            place = next((i for i, (_, _, x) in enumerate(held) if x.size == tensor.numel()), None)
            if place is None:
                raise UnknownWeightsError(f"no constant of the model has the {tensor.numel()} numbers of {name}")
            values = _as_layer(*held.pop(place), layer=layer, matrix=name == "weight" and tensor.dim() == 2)
            tensor.data = torch.from_numpy(np.ascontiguousarray(values)).reshape(tensor.shape)


def _constants(case: Case) -> dict[str, np.ndarray[Any, Any]]:
    """All that does not depend on the image's numbers, as ONNX's reference computes it; what the file holds first."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    fixed, names = {"", *held}, []
    for node in model.graph.node:
        if fixed.issuperset(node.input) or node.op_type in ("Shape", "Size"):
            fixed.update(node.output)
            names += [name for name in node.output if name]
    if not names:
        return held
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, 0, None) for name in names)
    feeds = {value.name: np.asarray(x) for value, x in zip(model.graph.input, case.inputs, strict=False)}
    made = ReferenceEvaluator(model).run(None, {name: x for name, x in feeds.items() if name not in held})
    return held | {name: np.asarray(x) for name, x in zip(names, made, strict=True)}


def _as_layer(
    node: onnx.NodeProto, i: int, values: np.ndarray[Any, Any], layer: torch.nn.Module, matrix: bool
) -> np.ndarray[Any, Any]:
    """A constant as its layer holds it: matrices turned, what is subtracted or scaled beforehand so."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    values = values.astype(np.float64)
    if node.op_type in ("Sub", "Div") and i == 1:
        return -values if node.op_type == "Sub" else 1 / values
    if node.op_type == "Gemm":
        values = values * (given.get("alpha", 1.0) if i == 1 else given.get("beta", 1.0))
        turned = i == 1 and not given.get("transB")
        return values.T if turned or (i == 2 and values.ndim == 2) else values
    if node.op_type == "MatMul" and matrix and isinstance(layer, torch.nn.Linear):
        turned = i == 1 and values.ndim > 1
        return (np.swapaxes(values, -1, -2) if turned else values).reshape(-1, values.shape[-2 if turned else -1])
    return values


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
