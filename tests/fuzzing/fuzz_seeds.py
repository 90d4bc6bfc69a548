"""Small valid files of every format that is read, from which damaged ones are made."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np
import onnx.parser
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fuzz_mutations import record

from gennape.search_spaces.builder import GraphBuilder
from gennape.search_spaces.families import hiaml, nb201, nb301, ofa_mbv3, ofa_resnet, ofa_units, two_path
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.graph import ComputationGraph
from gennape.search_spaces.parquet import EDGE_COLUMNS, NODE_COLUMNS, SCALAR_COLUMN, SCHEMA_KEY, SCHEMA_VERSION


def _genome(name: str, seed: int = 0) -> np.ndarray:
    genome: np.ndarray = family(name).sample(np.random.default_rng(seed), 1)[0]
    return genome


# Architectures -----------------------------------------------------------------------------------------------------


def architectures() -> list[bytes]:
    """One of every family in every form that is read: JSON, or the benchmark's own string."""
    forms: list[Any] = [space.encode(_genome(space.name)) for space in FAMILIES]
    forms += [
        nb201.arch_string(_genome("nb201")),
        {"ops": ["none"] * 6},
        [["none"] * 6, [[0], [0], [1], [0], [1], [2, 3]]],
        nb301.genotype_string(_genome("nb301")),
        ofa_units.ofa_dict(_genome("ofa_mbv3")),
        ofa_units.ofa_dict(_genome("proxylessnas")),
        [224, [["mbconv3_e6_k7", "mbconv3_e3_k3"]] * 5],
        {"resolution": 224, "blocks": [["mbconv2_e6_k7", "mbconv2_e3_k3"]] * 5 + [["mbconv2_e3_k3"]]},
        ofa_resnet.ofa_dict(_genome("ofa_resnet")),
        hiaml.original_string(_genome("hiaml")),
        two_path.original_string(_genome("two_path")),
        _configuration(),
    ]
    assert len(ofa_mbv3.UNITS) == 5
    return [form.encode() if isinstance(form, str) else json.dumps(form).encode() for form in forms]


def _configuration() -> dict[str, str]:
    """Of a genome that the benchmark's dictionary can express: no node has one source twice."""
    space = family("nb301")
    for genome in space.sample(np.random.default_rng(0), 100):
        pairs = space.encode(genome)
        if all(
            len({pairs[cell][i][1], pairs[cell][i + 1][1]}) == 2 for cell in ("normal", "reduce") for i in (0, 2, 4, 6)
        ):
            return nb301.configuration(genome)
    raise AssertionError("no such genome in a hundred")


# Graphs ------------------------------------------------------------------------------------------------------------


def _small_graphs() -> list[ComputationGraph]:
    """Three networks that between them have most operations."""
    graphs = []
    for kind in range(3):
        b = GraphBuilder()
        x = b.input(3, 8, 8)
        if kind == 0:
            y = b.relu(b.batchnorm(b.conv(x, 8, 3)))
            x = b.linear(b.mean(b.maxpool(b.add(b.depthwise(y, 3), y), 2, 2)), 10)
        elif kind == 1:
            y = b.concat(b.slice(x, 1), b.pad(b.avgpool(x, 3, 2), (0, 1, 1), (0, 4, 4)))
            x = b.softmax(b.mul(b.shift(b.scale(y, (0,)), (), 1.0), b.hardsigmoid(b.mean(y))))
        else:
            y = b.layernorm(b.reshape(b.permute(x, (1, 2, 0)), 1, 64, 3))
            z = b.matmul(b.matmul(y, y, transposed=True), y)
            x = b.other("fold", (2, 3, 4), b.resize(b.leakyrelu(z, 0.1), 4, 4), macs=7, params=5)
        b.output(x)
        graphs.append(b.build())
    return graphs


def parquet_graphs() -> list[bytes]:
    """Files of graphs in plain encodings, so that damage meets the numbers and not only the compression."""
    graphs = _small_graphs()
    columns: dict[str, Any] = {
        name: pa.array([g.nodes[:, index].tolist() for g in graphs], pa.list_(pa.int32()))
        for index, name in enumerate(NODE_COLUMNS)
    }
    columns[SCALAR_COLUMN] = pa.array([g.scalars.tolist() for g in graphs], pa.list_(pa.float64()))
    for index, name in enumerate(EDGE_COLUMNS):
        columns[name] = pa.array([g.edges[:, index].tolist() for g in graphs], pa.list_(pa.int32()))
    columns |= {"family": ["a", "b", "a"], "accuracy": [1.0, None, 3.0], "extra": [[1], None, [2, 3]]}
    table = pa.table(columns).replace_schema_metadata({SCHEMA_KEY: SCHEMA_VERSION})
    return [
        _parquet(table, compression="none", use_dictionary=False),
        _parquet(table, compression="zstd", use_dictionary=True),
    ]


def _parquet(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


# Labelled tables ---------------------------------------------------------------------------------------------------


def csv_tables() -> list[bytes]:
    """Architectures as text, and NAS-Bench-101's cells as bits."""
    arch = nb201.arch_string(_genome("nb201"))
    cells = "hash,n_vertices,adj_bits,ops,val108,src\n00000005aa,3,5,0,0.9,T\n0000000c,3,5,1,,TP\n0000000d,3,5,2,0.5,\n"
    blocks = json.dumps(family("hiaml").encode(_genome("hiaml"))).replace('"', '""')
    return [
        f"architecture,acc,flops\n{arch},91.5,1e9\n{arch},90,2\n".encode(),
        f'arch,accuracy\n"{blocks}",91.5\n"{blocks}",12\n'.encode(),
        cells.encode(),
    ]


def parquet_tables() -> list[bytes]:
    """The same as Parquet, with columns of every kind that could be taken for an architecture or a label."""
    arch = nb201.arch_string(_genome("nb201"))
    nested = {"matrix": [[0, 1], [0, 0]], "ops": ["input", "output"]}
    first = pa.table(
        {"architecture": [arch] * 3, "acc": [90.0, 91.0, None], "when": pa.array([1, 2, 3], pa.timestamp("us"))}
    )
    second = pa.table({"architecture": pa.array([nested] * 2), "acc": pa.array(["91.5", "x"]), "hash": ["0" * 8] * 2})
    third = pa.table({"architecture": [["hiaml_z"] * 4] * 2, "acc": [True, False]})
    cells = pa.table(
        {"hash": ["00000005"], "n_vertices": [3], "adj_bits": [5], "ops": ["0"], "val108": [0.9], "src": ["T"]}
    )
    return [_parquet(table, compression="none", use_dictionary=False) for table in (first, second, third, cells)]


# Official files ----------------------------------------------------------------------------------------------------


def nb101_records() -> list[bytes]:
    """Single records of NAS-Bench-101, without the frame of the file."""

    def evaluation(*numbers: float) -> bytes:
        fields = b"".join(bytes([field << 3 | 1]) + struct.pack("<d", x) for field, x in enumerate(numbers, 1))
        return b"\x0a" + bytes([len(fields)]) + fields

    message = b"".join(evaluation(e, 1, 0.9, 0.8, 0.7) for e in (0, 54, 108)) + b"\x10\x8a\xb9\xa4\x01"
    metrics = base64.b64encode(message + b"\x19" + struct.pack("<d", 1.0)).decode()
    cell = ["0" * 32, 108, "010001000", "input,conv3x3-bn-relu,output", metrics]
    return [json.dumps(cell).encode(), json.dumps(["1" * 32, 4, "0100", "input,output", metrics]).encode()]


def nb101_files() -> list[bytes]:
    """Whole files of records."""
    return [b"".join(map(record, nb101_records())), record(b""), b""]


def _nb201_values() -> tuple[dict[str, Any], dict[str, Any]]:
    run = {
        "train_acc1es": {0: 99.0},
        "eval_acc1es": {"ori-test@0": 90.0, "x-valid@0": 70.0},
        "params": np.float64(0.1),
        "flop": 15.6,
        "epochs": 1,
        "latency": [np.float64(0.01)],
        "net_state_dict": None,
        "curve": np.arange(3.0),
    }
    results = OrderedDict({("cifar10", 777): run, ("cifar100", 777): run})
    state = {"arch_str": nb201.arch_string(_genome("nb201")), "all_results": results}
    one = OrderedDict({"12": state, "200": state})
    return one, {"meta_archs": ["x"], "arch2infos": {0: one}, "total": 1}


def nb201_pickles() -> list[bytes]:
    """Of one architecture and of all, in old and new protocols."""
    one, whole = _nb201_values()
    return [pickle.dumps(one, 4), pickle.dumps(whole, 2), pickle.dumps(one, 0)]


def nb201_torch_files() -> list[bytes]:
    """The same with a tensor, as ``torch.save`` writes it now and wrote it once."""
    _, whole = _nb201_values()
    files = []
    for zipped in (True, False):
        out = io.BytesIO()
        torch.save({**whole, "tensor": torch.arange(6.0).reshape(2, 3)}, out, _use_new_zipfile_serialization=zipped)
        files.append(out.getvalue())
    return files


def nb201_archives() -> list[bytes]:
    """A file an architecture, packed."""
    content = bz2.compress(pickle.dumps(_nb201_values()[0], 4))
    files = []
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for name in ("simple/000000.pickle.pbz2", "simple/" + "x" * 120, "simple/000001.pickle.pbz2"):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        files.append(out.getvalue().rstrip(b"\0") + bytes(1024))
    return files


def nb301_runs() -> list[bytes]:
    """A run, with learning curves and without."""
    info = {"val_accuracy": 93.0, "epochs": 98, "model_parameters": 1000}
    run = {"optimized_hyperparamater_config": _configuration(), "info": [info], "test_accuracy": 92.5, "runtime": 3600}
    curves = {**run, "info": [{}], "learning_curves": {"Train/val_accuracy": [10.0, 91.0]}}
    return [json.dumps(value).encode() for value in (run, curves)]


def nb301_archives() -> list[bytes]:
    """Runs, packed in every way that is read."""
    files = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", method) as archive:
            archive.writestr("nb_301/rs/results_0.json", nb301_runs()[0])
        files.append(out.getvalue())
    return files


def json_families() -> list[bytes]:
    """An object of networks by key."""
    return [
        json.dumps(
            {f"n{i}": {"net_config": config, "max_perf": 93.0, "perfs": [92.0, 93], "cg": {"x": [1]}} for i in range(2)}
        ).encode()
        for config in (
            family("hiaml").encode(_genome("hiaml")),
            hiaml.original_string(_genome("hiaml")),
            two_path.original_string(_genome("two_path")),
            family("inception").encode(_genome("inception")),
        )
    ]


def gennape_caches() -> list[bytes]:
    """Pickled lists of labelled graphs, of every family that has such a file."""
    graph = b"cmodel_src.comp_graph.tf_comp_graph\nComputeGraph\n)\x81}X\x04\x00\x00\x00nameX\x01\x00\x00\x00gsb"
    configs: list[Any] = [
        (["input", "conv3x3-bn-relu", "output"], np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])),
        (("none",) * 6, ((0,), (0,), (1,), (0,), (1,), (2, 3))),
        (224, [["mbconv2_e6_k7", "mbconv2_e3_k3"]] * 5 + [["mbconv2_e4_k5"]]),
        (192, [["mbconv3_e6_k7", "mbconv3_e3_k3"]] * 5),
        (208, {"d": [2, 0, 1, 2, 0], "e": [0.2, 0.25, 0.35] * 6, "w": [0, 1, 2, 0, 1, 2]}),
    ]
    files = [
        pickle.dumps(
            [{"acc": 0.9, "flops": 1e9, "n_params": 1e6, "original config": config, "compute graph": None}] * 2, 2
        )
        for config in configs
    ]
    # Python cannot write objects of classes that are not there: one takes the place of None.
    key = b"X\x0d\x00\x00\x00compute graph"
    marked = [data.partition(key) for data in files]
    return [before + key + after.replace(b"N", graph, 1) if at else before for before, at, after in marked]


def compressed_files() -> list[bytes]:
    """A table, compressed in both ways that are read."""
    return [pack(csv_tables()[0]) for pack in (gzip.compress, bz2.compress)]


# ONNX --------------------------------------------------------------------------------------------------------------

_MODELS = (
    """
    <ir_version: 8, opset_import: ["" : 17]>
    cnn (float[N,3,16,16] x) => (float[1,10] y)
    <float[8,3,3,3] w, float[8] s, float[8] b, float[8] m, float[8] v, float[8,1,3,3] d, float[10,8] f, float[10] g,
     float zero = {0}, float six = {6}, int64[1] minus = {-1}, int64[1] start = {0}, int64[1] end = {1}>
    {
        c = Conv <pads = [1,1,1,1], strides = [2,2], kernel_shape = [3,3]> (x, w)
        n = BatchNormalization <epsilon = 1e-3> (c, s, b, m, v)
        r = Clip (n, zero, six)
        p = Conv <group = 8, auto_pad = "SAME_UPPER"> (r, d, b)
        a = Add (p, r)
        q = MaxPool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1], ceil_mode = 1> (a)
        o = AveragePool <kernel_shape = [2,2], count_include_pad = 1> (q)
        k = HardSigmoid <alpha = 0.16666667, beta = 0.5> (o)
        u = Mul (o, k)
        h = GlobalAveragePool (u)
        shape = Shape (h)
        first = Slice (shape, start, end)
        target = Concat <axis = 0> (first, minus)
        t = Reshape (h, target)
        y = Gemm <transB = 1, alpha = 1.0> (t, f, g)
    }
    """,
    """
    <ir_version: 9, opset_import: ["" : 18]>
    attention (float[1,6,8] x) => (float[1,6,8] y)
    <float[8,24] w, float[24] b, float[8] s, float[8] t, int64[5] split = {1,6,3,2,4}, float scale = {0.5},
     int64[3] join = {1,6,8}, int64[1] ax = {0}, int64 one = {1}, int64 two = {2}, int64 nil = {0}, float[8,8] o>
    {
        n = LayerNormalization <axis = -1> (x, s, t)
        m = MatMul (n, w)
        a = Add (b, m)
        r = Reshape (a, split)
        p = Transpose <perm = [2,0,3,1,4]> (r)
        q = Gather <axis = 0> (p, nil)
        k = Gather <axis = 0> (p, one)
        v = Gather <axis = 0> (p, two)
        kt = Transpose <perm = [0,1,3,2]> (k)
        qs = Mul (q, scale)
        z = MatMul (qs, kt)
        f = Softmax <axis = -1> (z)
        c = MatMul (f, v)
        ct = Transpose <perm = [0,2,1,3]> (c)
        j = Reshape (ct, join)
        l = MatMul (j, o)
        e = Sigmoid (l)
        g = Mul (l, e)
        y = Add (g, x)
    }
    """,
    """
    <ir_version: 8, opset_import: ["" : 13]>
    shapes (float[1,4,8,8] x) => (float[1,4,4] y)
    <int64[8] pads = {0,0,1,1,0,0,1,1}, float value = {0.5}, float[4] scales = {1,1,2,2}, int64[2] parts = {1,3},
     int64[3] wide = {1,4,4}, int64[1] axis0 = {0}, int64[4] st = {0,0,1,1}, int64[4] en = {1,4,9,9},
     int64[4] axes = {0,1,2,3}, int64[4] steps = {1,1,2,2}, float[4,2,2,2] ct, float[1,4,1,1] slope,
     float[1,1,4,4] learnt>
    {
        p = Pad <mode = "constant"> (x, pads, value)
        s = Slice (p, st, en, axes, steps)
        u = Resize <coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (s, , scales)
        d = DepthToSpace <blocksize = 2, mode = "CRD"> (u)
        e = SpaceToDepth <blocksize = 4> (d)
        a, b = Split <axis = 1> (e)
        c = Concat <axis = -1> (a, b)
        t = ConvTranspose <strides = [2,2], group = 2> (s, ct)
        l = PRelu (t, slope)
        k = LeakyRelu <alpha = 0.2> (l)
        m = ReduceMean <axes = [2,3], keepdims = 1> (k)
        w = Mul (s, learnt)
        h = Tanh (m)
        i = Flatten <axis = 1> (h)
        r = Unsqueeze (i, axis0)
        f = Squeeze (r, axis0)
        z = Div (f, value)
        n = Neg (z)
        ff = ReduceSum <keepdims = 0> (c)
        nn = ReduceMax <axes = [2], keepdims = 0> (w)
        q = Sum (n, f)
        qq = Add (q, ff)
        v = Expand (qq, wide)
        j = Reshape (nn, axes_)
        y = Add (v, j)
        axes_ = Constant <value_ints = [1,4,4]> ()
    }
    """,
    """
    <ir_version: 10, opset_import: ["" : 21]>
    newer (float[1,8,4,4] x) => (float[1,8] y)
    <float[8] s, float[8] t, float half = {0.5}, float root = {1.41421356}, float one = {1}, int64[3] g = {0,2,-1},
     int64[4] back = {1,8,4,4}, float[2] gs = {1,1}, float[2] gb = {0,0}, float[8,1,1] w, float[8,1,1] b,
     float[16,8] big, int64[2] ax = {2,3}, int64[6] six = {1,8,2,2,2,2},
     int64[4] down = {1,32,2,2}, int64[2] sh = {8,32}>
    {
        gn = GroupNormalization <num_groups = 2> (x, s, t)
        r = Reshape (gn, g)
        i = InstanceNormalization (r, gs, gb)
        k = Reshape (i, back)
        m = Mul (k, w)
        a = Add (m, b)
        d = Div (a, root)
        e = Erf (d)
        f = Add (e, one)
        h = Mul (a, f)
        j = Mul (h, half)
        l = Gelu <approximate = "tanh"> (j)
        n = HardSwish (l)
        o = Reshape (n, six)
        p = Transpose <perm = [0,1,3,5,2,4]> (o)
        q = Reshape (p, down)
        z = Cast <to = 1> (q)
        c = Clip (z, half)
        u = CumSum (c, ax0)
        v = Sqrt (n)
        mm = ReduceMean <keepdims = 0> (v, ax)
        mx = ReduceMean <keepdims = 0> (u, ax)
        em = Einsum <equation = "ij,kj->ik"> (mx, bigg)
        y = Add (mm, em)
        ax0 = Constant <value = int64 {1}> ()
        bigg = ConstantOfShape (sh)
    }
    """,
    """
    <ir_version: 9, opset_import: ["" : 18]>
    apart (float[1,6,8] x) => (float[1,6,8] y)
    <int64[1] last = {-1}, float two = {2}, float eps = {1e-5}, float[8] s, float[8] t, float root = {0.7978846},
     float cubic = {0.044715}, float three = {3}, float one = {1}, float half = {0.5}, float[8,4] left,
     float[4,8] right,
     float[8] bias, float[16,8] both, float[1,8,6,1] places, float[8,8,1,1] mix, int64 zero = {0},
     float[8] m, float[8] v, float[1,8,8] raw, int64[3] back = {1,6,8}>
    {
        shape3 = Constant <value_ints = [2,1,6,8]> ()
        at2 = Constant <value_ints = [1]> ()
        one_int = Constant <value_int = 1> ()
        filled = ConstantOfShape (shape3)
        mean = ReduceMean (x, last)
        centred = Sub (x, mean)
        square = Pow (centred, two)
        variance = ReduceMean (square, last)
        total = Add (variance, eps)
        deviation = Sqrt (total)
        ratio = Div (centred, deviation)
        scaled = Mul (ratio, s)
        normal = Add (scaled, t)
        cube = Pow (normal, three)
        term = Mul (cube, cubic)
        sum = Add (normal, term)
        inner = Mul (sum, root)
        curve = Tanh (inner)
        shifted = Add (curve, one)
        gate = Mul (normal, shifted)
        gelu = Mul (gate, half)
        w = MatMul (left, right)
        product = MatMul (gelu, w)
        linear = Add (product, bias)
        first, second = Split <axis = 0, num_outputs = 2> (both)
        q = MatMul (linear, first)
        standard, m2, v2 = BatchNormalization <training_mode = 1> (raw, s, t, m, v)
        k = MatMul (q, standard)
        embedded = Conv (places, mix)
        turned = Transpose <perm = [0,2,3,1]> (embedded)
        flat = Reshape (turned, back)
        z = Add (k, flat)
        sequence = SplitToSequence <axis = 0> (z, one_int)
        part = SequenceAt (sequence, zero)
        best = ArgMax <axis = 2, keepdims = 1> (part)
        norm = ReduceL2 <keepdims = 1> (part, last)
        u = Div (part, norm)
        c = Greater (u, half)
        h = Where (c, u, half)
        picked = GatherND (filled, at2)
        y = Add (h, picked)
    }
    """,
)


def onnx_models() -> list[bytes]:
    """Four models with most operators that are known."""
    files = []
    for text in _MODELS:
        model = onnx.parser.parse_model(text)
        # The text stands in an order that is easy to read; constants must come first.
        nodes = sorted(model.graph.node, key=lambda node: not node.op_type.startswith("Constant"))
        ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(ordered)
        for info in model.graph.value_info:  # weights: only their shapes count
            kind = info.type.tensor_type
            model.graph.initializer.add(
                name=info.name, data_type=kind.elem_type, dims=[d.dim_value for d in kind.shape.dim]
            )
        del model.graph.value_info[:]
        files.append(model.SerializeToString())
    return files
