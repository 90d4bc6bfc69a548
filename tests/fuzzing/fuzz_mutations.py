"""Damage done to files: to their bytes, or to what their bytes say. Every choice comes from the ``Random`` passed."""

from __future__ import annotations

import copy
import io
import json
import pickletools
import struct
from collections.abc import Callable
from random import Random
from typing import Any

import onnx
import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.message import DecodeError

from gennape.search_spaces.files.parquet_pages import UNREADABLE
from gennape.search_spaces.files.tfrecord import crc32c, masked
from gennape.search_spaces.importing.onnx_nodes.operators import OPERATORS

#: A damaged copy of the contents of a file.
Mutation = Callable[[bytes, Random], bytes]

#: Whole numbers at and beyond the edges of the types that hold them.
NUMBERS = (
    0,
    -1,
    1,
    2,
    3,
    7,
    255,
    2**15,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32,
    2**40,
    2**62,
    2**63 - 1,
    -(2**63),
    2**64,
    10**400,
)
TEXTS = ("", "x", "0", "nan", "\x00", "\ud800", "é" * 300, "[", "range(2, 6)", "_" * 50)


# Bytes -------------------------------------------------------------------------------------------------------------


def damage_bytes(data: bytes, rng: Random) -> bytes:
    """Flips, cuts, copies and strange numbers at some places."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, length = rng.randrange(len(out) + 1), rng.choice((1, 2, 4, 8, 40))
        _BYTE_STEPS[rng.randrange(len(_BYTE_STEPS))](out, at, length, rng)
    return bytes(out)


def _flip(out: bytearray, at: int, _: int, rng: Random) -> None:
    if at < len(out):
        out[at] ^= 1 << rng.randrange(8)


def _overwrite(out: bytearray, at: int, length: int, rng: Random) -> None:
    out[at : at + length] = bytes(rng.randrange(256) for _ in range(min(length, 8)))


def _number(out: bytearray, at: int, _: int, rng: Random) -> None:
    form, bits = rng.choice((("<q", 64), (">q", 64), ("<i", 32), (">I", 32), ("B", 8)))
    number = rng.choice(NUMBERS) % 2**bits
    out[at : at + bits // 8] = struct.pack(form.upper(), number)


def _cut(out: bytearray, at: int, length: int, _: Random) -> None:
    del out[at : at + length]


def _truncate(out: bytearray, at: int, _: int, __: Random) -> None:
    del out[at:]


def _copy(out: bytearray, at: int, length: int, rng: Random) -> None:
    start = rng.randrange(len(out) + 1)
    out[at:at] = out[start : start + length]


_BYTE_STEPS = (_flip, _flip, _overwrite, _number, _cut, _truncate, _copy)


# Trees: JSON -------------------------------------------------------------------------------------------------------


def damage_json(data: bytes, rng: Random) -> bytes:
    """A value of the tree is replaced, left out, repeated or moved; bytes that are no JSON are damaged as such."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return damage_bytes(data, rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = damage_tree(tree, rng)
    return json.dumps(tree).encode()


def damage_tree(tree: Any, rng: Random) -> Any:
    """A copy of lists, dictionaries and leaves with one change."""
    tree = copy.deepcopy(tree)
    holders: list[tuple[Any, Any]] = []  # container and key of every value but the root
    waiting = [tree]
    while waiting:
        value = waiting.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        holders += [(value, key) for key in keys]
        waiting += [value[key] for key in keys]
    if not holders or rng.random() < 0.02:
        return _leaf(tree, tree, rng)
    holder, key = rng.choice(holders)
    step = rng.randrange(6)
    if step < 3:
        holder[key] = _leaf(tree, holder[key], rng)
    elif step == 3:
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
    else:
        holder[rng.choice((*map(str, holder), *TEXTS))] = holder[key]
    return tree


def _leaf(tree: Any, old: Any, rng: Random) -> Any:
    odd = (None, True, False, 0.5, 1e300, float("nan"), float("-inf"), [], {}, [[]], {"": None}, [old], {"x": old})
    step = rng.randrange(5)
    if step == 0:
        return rng.choice(NUMBERS)
    if step == 1:
        return rng.choice(TEXTS)
    if step == 2 and isinstance(old, str):
        return damage_bytes(old.encode(errors="replace"), rng).decode(errors="replace")
    if step == 3:
        return copy.deepcopy(rng.choice(list(tree.values() if isinstance(tree, dict) else tree))) if _full(tree) else 0
    return rng.choice(odd)


def _full(tree: Any) -> bool:
    return isinstance(tree, dict | list) and len(tree) > 0


# Pickles -----------------------------------------------------------------------------------------------------------

_SNIPPETS = (
    *(bytes([code]) for code in b"()]}.N012abdelstuoQ\x81\x85\x86\x87\x88\x8f\x90\x91\x93\x94RPi"),
    b"h\x00", b"j\x00\x00\x00\x00", b"q\x07", b"K\xff", b"J\xff\xff\xff\xff", b"\x8a\x08" + 7 * b"\xff" + b"\x7f",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", b"B\xff\xff\xff\xffx", b"G\x7f\xf8\x00\x00\x00\x00\x00\x00", b"\x8c\x01x",
    b"cnumpy\ndtype\n", b"cnumpy._core.multiarray\n_reconstruct\n", b"cnumpy._core.multiarray\nscalar\n",
    b"cnumpy._core.numeric\n_frombuffer\n", b"cbuiltins\nrange\n", b"cbuiltins\ncomplex\n", b"cbuiltins\nlist\n",
    b"cbuiltins\nset\n", b"c_codecs\nencode\n", b"ccollections\nOrderedDict\n", b"cbuiltins\nbytearray\n",
    b"cbuiltins\ndict\n", b"cbuiltins\ntuple\n", b"cbuiltins\nfrozenset\n", b"cbuiltins\nbytes\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ctorch\nSize\n",
    b"\x8c\x08original config", b"\x8c\x0ball_results", b"\x8c\x03acc",
)  # fmt: skip


def damage_pickle(data: bytes, rng: Random) -> bytes:
    """Opcodes are left out, repeated, exchanged or put in."""
    starts = []
    try:
        starts = [position for _, _, position in pickletools.genops(data) if position is not None]
    except Exception:  # noqa: BLE001 - pickletools raises many things; what it read so far is enough
        starts = starts or [0]
    codes = [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, step = rng.randrange(len(codes)) if codes else 0, rng.randrange(5)
        if step == 0:
            del codes[at : at + 1]
        elif step == 1:
            codes[at:at] = codes[rng.randrange(len(codes)) :][:5] if codes else []
        elif step == 2:
            codes[at : at + 1] = [rng.choice(_SNIPPETS)]
        elif step == 3:
            codes.insert(at, rng.choice(_SNIPPETS))
        else:
            codes[at : at + 1] = [damage_bytes(code, rng) for code in codes[at : at + 1]]
    return b"".join(codes)


# TFRecords ---------------------------------------------------------------------------------------------------------


def record(data: bytes) -> bytes:
    """A record of a TFRecord file with its sums."""
    length = struct.pack("<Q", len(data))
    sums = [struct.pack("<I", int(masked(crc32c([part]))[0])) for part in (length, data)]
    return length + sums[0] + data + sums[1]


# ONNX --------------------------------------------------------------------------------------------------------------


def damage_onnx(data: bytes, rng: Random) -> bytes:
    """Changes of a model as what it is; bytes that are no model are damaged as such."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            _ONNX_STEPS[rng.randrange(len(_ONNX_STEPS))](model, rng)
        return model.SerializeToString()
    except (DecodeError, ValueError, TypeError, IndexError, UnicodeError):  # a step that does not fit this model
        return damage_bytes(data, rng)


def _names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    names = [name for node in graph.node for name in (*node.input, *node.output)]
    return [*names, *(tensor.name for tensor in graph.initializer), *(value.name for value in graph.input), "", "?"]


def _inputs(model: onnx.ModelProto, rng: Random) -> None:
    node = rng.choice(model.graph.node)
    inputs = list(node.input)
    step = rng.randrange(4)
    if step == 0:
        rng.shuffle(inputs)
    elif step == 1:
        inputs.append(rng.choice(_names(model)))
    elif step == 2:
        del inputs[rng.randrange(len(inputs))]
    else:
        inputs[rng.randrange(len(inputs))] = rng.choice(_names(model))
    node.input[:] = inputs


def _outputs(model: onnx.ModelProto, rng: Random) -> None:
    node = rng.choice(model.graph.node)
    if rng.random() < 0.5:
        node.output.append(rng.choice(_names(model)))
    else:
        node.output[rng.randrange(len(node.output))] = rng.choice(_names(model))


def _operator(model: onnx.ModelProto, rng: Random) -> None:
    rng.choice(model.graph.node).op_type = rng.choice((*OPERATORS, "Range", "Constant", "If", "Loop", "Foo", ""))


def _nodes(model: onnx.ModelProto, rng: Random) -> None:
    nodes = list(model.graph.node)
    at, step = rng.randrange(len(nodes)), rng.randrange(3)
    if step == 0:
        del nodes[at]
    elif step == 1:
        nodes.insert(rng.randrange(len(nodes)), copy.deepcopy(nodes[at]))
    else:
        rng.shuffle(nodes)
    copied = [copy.deepcopy(node) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copied)


_ATTRIBUTE_NAMES = (
    "axis", "axes", "perm", "pads", "strides", "kernel_shape", "dilations", "group", "auto_pad", "ceil_mode", "to",
    "epsilon", "keepdims", "value", "mode", "alpha", "blocksize", "split", "num_outputs", "allowzero", "start", "end",
    "transB", "equation", "output_shape", "output_padding", "num_groups", "approximate", "direction", "p", "value_ints",
)  # fmt: skip


def _attribute(model: onnx.ModelProto, rng: Random) -> None:
    nodes = list(model.graph.node)
    node = rng.choice([node for node in nodes if node.attribute] if rng.random() < 0.7 else nodes)
    if node.attribute and rng.random() < 0.15:
        del node.attribute[rng.randrange(len(node.attribute))]
        return
    attribute = rng.choice(node.attribute) if node.attribute and rng.random() < 0.8 else node.attribute.add()
    attribute.name = attribute.name or rng.choice(_ATTRIBUTE_NAMES)
    numbers = list(attribute.ints) or [rng.choice(NUMBERS) for _ in range(rng.randrange(5))]
    step = rng.randrange(6)
    if step == 0:
        attribute.type = rng.randrange(16)
    elif step == 1:
        attribute.type, attribute.i = onnx.AttributeProto.INT, _signed(rng)
    elif step == 2:
        numbers[rng.randrange(len(numbers))] = _signed(rng)
    elif step == 3:
        numbers = [*numbers, _signed(rng)] if rng.random() < 0.5 else numbers[1:]
    elif step == 4:
        attribute.type, attribute.f = (
            onnx.AttributeProto.FLOAT,
            rng.choice((0.0, -1.0, 1e38, float("nan"), float("inf"))),
        )
    else:
        attribute.type = onnx.AttributeProto.STRING
        attribute.s = rng.choice(
            (b"SAME_UPPER", b"SAME_LOWER", b"VALID", b"NOTSET", b"\xff", b"linear", b"bij,bjk->bik")
        )
    if step in (2, 3):
        attribute.type = onnx.AttributeProto.INTS
        attribute.ints[:] = [number if -(2**63) <= number < 2**63 else 0 for number in numbers]


def _signed(rng: Random) -> int:
    number = rng.choice(NUMBERS) if rng.random() < 0.4 else rng.randrange(-4, 40)
    return number if -(2**63) <= number < 2**63 else 0


def _tensor(model: onnx.ModelProto, rng: Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    dims, step = list(tensor.dims), rng.randrange(8)
    if step == 0:
        dims[rng.randrange(len(dims))] = _signed(rng)
    elif step == 1:
        dims.insert(rng.randrange(len(dims) + 1), _signed(rng))
    elif step == 2:
        del dims[rng.randrange(len(dims))]
    elif step == 3:
        tensor.data_type = rng.choice((1, 6, 7, 8, 9, 10, 11, 16, rng.randrange(30)))
    elif step == 4:
        tensor.name = rng.choice(_names(model))
    elif step == 5 and tensor.data_type == onnx.TensorProto.INT64 and tensor.int64_data:
        tensor.int64_data[rng.randrange(len(tensor.int64_data))] = _signed(rng)
    elif step == 6:
        tensor.raw_data = damage_bytes(tensor.raw_data, rng)
    else:
        model.graph.initializer.remove(tensor)
        return
    tensor.dims[:] = dims


def _values(model: onnx.ModelProto, rng: Random) -> None:
    values = model.graph.input if rng.random() < 0.7 else model.graph.output
    value = rng.choice(values)
    dims = value.type.tensor_type.shape.dim
    step = rng.randrange(5)
    if step == 0:
        rng.choice(dims).dim_value = _signed(rng)
    elif step == 1:
        rng.choice(dims).dim_param = "n"
    elif step == 2:
        del dims[rng.randrange(len(dims))]
    elif step == 3:
        values.append(copy.deepcopy(value))
    else:
        value.name = rng.choice(_names(model))


def _header(model: onnx.ModelProto, rng: Random) -> None:
    if rng.random() < 0.6 and model.opset_import:
        rng.choice(model.opset_import).version = rng.choice((*range(9, 26), -1, 2**40))
    elif rng.random() < 0.5:
        model.opset_import.add(domain=rng.choice(("", "ai.onnx", "x")), version=17)
    else:
        rng.choice(model.graph.node).domain = rng.choice(("ai.onnx", "com.microsoft", "fused"))


_ONNX_STEPS = (
    _inputs,
    _inputs,
    _outputs,
    _operator,
    _nodes,
    *[_attribute] * 5,
    _tensor,
    _tensor,
    _tensor,
    _values,
    _header,
)


# Parquet -----------------------------------------------------------------------------------------------------------


def damage_parquet(data: bytes, rng: Random) -> bytes:
    """Changes of the columns as what they are; bytes that cannot be read as Parquet are damaged as such."""
    try:
        table = pq.read_table(io.BytesIO(data))
        for _ in range(rng.choice((1, 1, 2, 3))):
            table = _PARQUET_STEPS[rng.randrange(len(_PARQUET_STEPS))](table, rng)
        out = io.BytesIO()
        pq.write_table(
            table,
            out,
            compression=rng.choice(("none", "zstd", "snappy")),
            data_page_version=rng.choice(("1.0", "2.0")),
            version=rng.choice(("1.0", "2.6")),
            use_dictionary=rng.random() < 0.5,
            row_group_size=rng.choice((1, 2, 1000)),
        )
        return out.getvalue()
    except (*UNREADABLE, ValueError, TypeError, IndexError, KeyError, OverflowError):
        return damage_bytes(data, rng)


def _place(table: pa.Table, rng: Random) -> int:
    return rng.randrange(table.num_columns)


def _cell(table: pa.Table, rng: Random) -> pa.Table:
    """One number in one list, or one value."""
    at, row = _place(table, rng), rng.randrange(len(table))
    field, values = table.schema.field(at), table.column(at).to_pylist()
    if not isinstance(values[row], list) or not values[row]:
        values[row] = rng.choice((None, values[row - 1], [] if pa.types.is_nested(field.type) else None))
    elif rng.random() < 0.7:
        place = rng.randrange(len(values[row]))
        values[row][place] = rng.choice((None, -1, 0, 1, 2, 5, 19, 33, 40, 47, 255, 2**20, 2**31 - 1, -(2**31)))
    else:
        values[row] = values[row] * 2 if rng.random() < 0.5 else values[row][1:]
    return table.set_column(at, field, pa.array(values, field.type))


def _number_everywhere(table: pa.Table, rng: Random) -> pa.Table:
    """The same node or edge changes in several columns at once."""
    row = rng.randrange(len(table))
    for at in rng.sample(range(table.num_columns), min(3, table.num_columns)):
        field, values = table.schema.field(at), table.column(at).to_pylist()
        if isinstance(values[row], list) and values[row]:
            values[row][rng.randrange(len(values[row]))] = rng.choice((1, 2, 3, 9, 32, 47, 2**16, 2**31 - 1))
            table = table.set_column(at, field, pa.array(values, field.type))
    return table


def _kind(table: pa.Table, rng: Random) -> pa.Table:
    at = _place(table, rng)
    field, values = table.schema.field(at), table.column(at).to_pylist()
    kinds = (
        *(pa.list_(kind) for kind in (pa.int64(), pa.float32(), pa.string(), pa.list_(pa.int32()))),
        *(pa.large_list(pa.int32()), pa.int32(), pa.string(), pa.binary(), pa.null(), pa.timestamp("us"), pa.date32()),
    )
    kind = rng.choice(kinds)
    try:
        array = pa.array(values, kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        array = pa.nulls(len(values), kind)
    return table.set_column(at, pa.field(field.name, kind), array)


def _rows(table: pa.Table, rng: Random) -> pa.Table:
    start = rng.randrange(len(table) + 1)
    return rng.choice((table.slice(start), table.slice(0, 0), pa.concat_tables([table, table])))


def _columns(table: pa.Table, rng: Random) -> pa.Table:
    at, other = _place(table, rng), _place(table, rng)
    if rng.random() < 0.3:
        return table.remove_column(at)
    if rng.random() < 0.5:
        return table.append_column(table.schema.field(other).name, table.column(at))
    return table.set_column(at, table.schema.field(at).name, table.column(other))


def _note(table: pa.Table, rng: Random) -> pa.Table:
    notes = dict(table.schema.metadata or {})
    notes[rng.choice([*notes, b"x"])] = rng.choice((b"1", b"2", b"3", b"\xff", b""))
    return table.replace_schema_metadata(notes)


_PARQUET_STEPS = (_cell, _cell, _cell, _number_everywhere, _number_everywhere, _kind, _rows, _columns, _note)


# Tables of text ----------------------------------------------------------------------------------------------------


def damage_csv(data: bytes, rng: Random) -> bytes:
    """Fields are replaced, left out or repeated."""
    if rng.random() < 0.3:
        return damage_bytes(data, rng)
    lines = [line.split(b",") for line in data.split(b"\n")]
    line = rng.choice(lines)
    at, step = rng.randrange(len(line)), rng.randrange(4)
    odd = (
        b"",
        b"nan",
        b"inf",
        b"-1",
        b"1e400",
        b"99999999999999999999",
        b'"',
        b"True",
        b"2020-01-01",
        b"\xff",
        b"0x10",
    )
    if step < 2:
        line[at] = rng.choice((*odd, *rng.choice(lines)))
    elif step == 2:
        del line[at]
    else:
        line.insert(at, rng.choice(odd))
    return b"\n".join(map(b",".join, lines))
