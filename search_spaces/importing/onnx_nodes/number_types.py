"""The dtype of every value of an ONNX network, to find casts that change values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from onnx import TensorProto

from gennape.search_spaces.importing.onnx_nodes.file import Constant
from gennape.search_spaces.importing.onnx_nodes.network import OnnxNode

#: Floating-point types: a cast between them only loses precision.
REAL = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_BOOL, _INT64, _FLOAT, _UINT8 = TensorProto.BOOL, TensorProto.INT64, TensorProto.FLOAT, TensorProto.UINT8
#: Smallest and largest number of each integer type.
RANGES = {
    TensorProto.BOOL: (0, 1),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    **{getattr(TensorProto, f"INT{bits}"): (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{getattr(TensorProto, f"UINT{bits}"): (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
#: Operators whose result always has one dtype, and those whose result has the dtype of another input than the first.
_FIXED = {
    **dict.fromkeys(("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And", "Or", "Xor"), _BOOL),
    **dict.fromkeys(("IsNaN", "IsInf"), _BOOL),
    **dict.fromkeys(("Shape", "Size", "ArgMax", "ArgMin", "NonZero", "NonMaxSuppression"), _INT64),
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), TensorProto.INT32),
    "DynamicQuantizeLinear": _UINT8,
}
_OF_INPUT = {"Where": 1, "CastLike": 1, "OneHot": 2, "QuantizeLinear": 2, "DequantizeLinear": 1, "QLinearConv": 7}
#: The dtype of a result if the input that sets it is left out.
_DEFAULT = {"QuantizeLinear": _UINT8, "ConstantOfShape": _FLOAT, "EyeLike": _FLOAT}
_ATTRIBUTES = {
    **dict.fromkeys(("value_float", "value_floats"), _FLOAT),
    **dict.fromkeys(("value_int", "value_ints"), _INT64),
}


def number_types(nodes: Iterable[OnnxNode], types: dict[str, int]) -> dict[str, int]:
    """Dtypes by the names of values, given those of inputs and constants; 0 if unknown."""
    types = dict(types)
    for node in nodes:
        first = 0 if node.domain else _type(node, types)
        # Further results of these operators are indices or a mask.
        rest = _INT64 if node.op in ("MaxPool", "TopK", "Unique") else _BOOL if node.op == "Dropout" else first
        types.update((name, rest if i else first) for i, name in enumerate(node.outputs) if name)
    return types


def _type(node: OnnxNode, types: dict[str, int]) -> int:
    if node.op in _FIXED:
        return _FIXED[node.op]
    named = node.attributes.get("to", node.attributes.get("output_dtype", node.attributes.get("dtype")))
    if isinstance(named, int) and named:
        return named
    held = node.attributes.get("value")
    if isinstance(held, Constant):
        return held.type
    place = _OF_INPUT.get(node.op, 0)
    told = node.inputs[place] if place < len(node.inputs) else ""
    by_attribute = next((_ATTRIBUTES[name] for name in node.attributes if name in _ATTRIBUTES), 0)
    return types.get(told, 0) if told else by_attribute or _DEFAULT.get(node.op, 0)


def casts(nodes: list[OnnxNode], types: dict[str, int]) -> list[OnnxNode]:
    """The nodes with CastLike replaced by Cast if the dtype is known."""
    made = []
    for node in nodes:
        kind = types.get(node.inputs[1], 0) if node.op == "CastLike" and len(node.inputs) == 2 else 0
        like = kind and not node.domain
        made.append(replace(node, op="Cast", inputs=node.inputs[:1], attributes={"to": kind}) if like else node)
    return made


def keeps_numbers(source: int, target: int) -> bool:
    """Whether a cast changes no values except by losing precision."""
    if target in REAL:
        return True
    if source not in RANGES or target not in RANGES:
        return source == target != 0
    (low, high), (least, most) = RANGES[source], RANGES[target]
    # 64-bit integers are sizes and indices, which fit into 32 bits.
    wide = (TensorProto.INT32, TensorProto.INT64)
    return (least <= low and high <= most) or (source in wide and target in wide)
