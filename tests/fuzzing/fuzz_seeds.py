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
from pathlib import Path
from typing import Any

import numpy as np
import onnx.parser
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fuzz_mutations import record

from gennape.search_spaces.families import hiaml, nb201, nb301, ofa_mbv3, ofa_resnet, ofa_units, two_path
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.graph import ComputationGraph
from gennape.search_spaces.graphs.parquet import EDGE_COLUMNS, NODE_COLUMNS, SCALAR_COLUMN, SCHEMA_KEY, SCHEMA_VERSION


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

#: Models in the text format of ONNX, which lie in ``models``; the order is that of the seeds.
_MODELS = ("cnn", "attention", "shapes", "newer", "apart")


def onnx_models() -> list[bytes]:
    """Models that between them have most operators that are known."""
    files = []
    for name in _MODELS:
        text = (Path(__file__).parent / "models" / f"{name}.txt").read_text()
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
