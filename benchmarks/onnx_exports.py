"""Which exports of ordinary networks are read, and read right: ``python benchmarks/onnx_exports.py --table``.

Each network, of timm or torchvision (``tv:`` before its name) with random weights, is exported by
``torch.onnx.export``, the older exporter or, with ``--dynamo``, the newer one, as a user would: with no option. What an
exporter fails on is exported with timm's fused attention turned off. The file is read and compared with what ``trace``
makes of the module: multiply-accumulates and parameters must be the same. The older exporter folds batch normalisations
into the convolutions before them; parameters are then those of the module so folded.

A network is *read*, *refused* (with a reason) or *wrong*. It is *as stored* where the graph has the parameters of the
file and the file has others than the module: a table that the exporter looked up, a filter or a bias that it computed.

Each runs in a process of its own, bounded in memory and time. ``--results`` keeps a line of JSON for every network, so
that a drill that was stopped goes on where it was; ``--keep`` keeps the files.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from importing import load_torchvision, timm
from torch import nn

from gennape.errors import GennapeError
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import Column, ComputationGraph, pack
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.importing.onnx import import_onnx
from gennape.search_spaces.importing.torch import trace

MODELS = (
    *("resnet18", "resnet50d", "seresnet50", "resnetv2_50x1_bit", "res2net50_26w_4s", "resnest14d", "skresnet18"),
    *(
        "ecaresnet26t",
        "cspresnet50",
        "cspdarknet53",
        "gernet_s",
        "regnetx_002",
        "regnety_002",
        "nfnet_l0",
        "nf_regnet_b0",
    ),
    *("mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_large_100", "mobilenetv4_conv_small", "efficientnet_b0"),
    *("tf_efficientnet_b0", "tf_efficientnetv2_b0", "mixnet_s", "ghostnet_100", "mobileone_s0", "repvgg_a0"),
    *("repghostnet_050", "fastvit_t8", "convnext_atto", "convnextv2_atto", "convmixer_768_32", "densenet121", "vgg11"),
    *("vovnet39a", "hgnet_tiny", "hardcorenas_a", "selecsls42b", "dla34", "dpn68", "tresnet_m", "xception41"),
    *("inception_v3", "inception_v4", "hrnet_w18_small", "rexnet_100", "lcnet_050", "tinynet_e", "mnasnet_100"),
    *("fbnetc_100", "spnasnet_100", "starnet_s1", "inception_next_atto", "repvit_m0_9", "efficientformer_l1"),
    *("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_dinov2", "eva02_tiny_patch14_224"),
    *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "pvt_v2_b0", "twins_svt_small", "davit_tiny"),
    *("mixer_s32_224", "resmlp_12_224", "gmlp_s16_224", "poolformer_s12", "visformer_tiny", "coatnet_nano_rw_224"),
    *("maxvit_tiny_tf_224", "mobilevit_xxs", "edgenext_xx_small", "levit_128s", "xcit_nano_12_p16_224"),
    *("cait_xxs24_224", "crossvit_tiny_240", "coat_tiny", "focalnet_tiny_srf"),
    *("tv:alexnet", "tv:squeezenet1_1", "tv:googlenet", "tv:shufflenet_v2_x0_5", "tv:mnasnet0_5"),
)
#: A sample for the newer exporter, which takes longer.
SAMPLE = (
    *("resnet18", "mobilenetv3_large_100", "efficientnet_b0", "convnextv2_atto", "densenet121", "vit_tiny_patch16_224"),
    *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "pvt_v2_b0", "vit_small_patch14_dinov2", "levit_128s"),
    *("coatnet_nano_rw_224", "tv:shufflenet_v2_x0_5"),
)
#: Bytes and seconds that one network may take.
_MEMORY, _SECONDS = 12 * 2**30, 900


def network(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network with random weights, in evaluation mode, and the image it takes."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.startswith("tv:"):
            load_torchvision()
            from torchvision import models  # noqa: PLC0415

            options = {"init_weights": False} if name == "tv:googlenet" else {}
            return _random(models.get_model(name[3:], weights=None, **options).eval()), (3, 224, 224)
        module = timm().create_model(name, pretrained=False).eval()
    return _random(module), tuple(module.default_cfg["input_size"])


def _random(module: nn.Module) -> nn.Module:
    """The module with noise in what starts as zeros or ones: exporters write tensors of equal numbers once."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.view(-1)[0]).all()):
                noise = torch.rand_like(tensor)
                tensor.copy_(noise + 0.5 if name.endswith(("weight", "running_var")) else noise - 0.5)
    return module


def export(module: nn.Module, image: tuple[int, int, int], path: Path, dynamo: bool) -> None:
    """Write a network as a user would."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options: dict[str, Any] = {"external_data": False, "verbose": False} if dynamo else {}
        torch.onnx.export(module, (torch.randn(1, *image),), path, dynamo=dynamo, **options)


def folded_params(graph: ComputationGraph) -> int:
    """Parameters of a network whose batch normalisations are folded into the convolutions that they alone follow."""
    op = graph.nodes[:, Column.OP]
    takers = np.bincount(graph.edges[:, 0], minlength=len(op))
    total = int(cost.params(pack([graph]))[0])
    for source, target in graph.edges.tolist():
        folds = op[target] == Op.BATCHNORM and op[source] in (Op.CONV, Op.DEPTHWISE) and takers[source] == 1
        if folds and graph.nodes[target, Column.KIND] == 0:
            c, bias = int(graph.nodes[source, Column.C_OUT]), int(graph.nodes[source, Column.BIAS])
            total -= 2 * c - c * (1 - bias)
    return total


def stored_params(path: Path) -> int:
    """Numbers that a file holds as weights: more than the module has where the exporter looked a table up."""
    graph = onnx.load(path).graph
    statistics = {name for node in graph.node if node.op_type == "BatchNormalization" for name in node.input[3:]}
    real = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    held = [t for t in graph.initializer if t.data_type in real and t.name not in statistics]
    return sum(math.prod(t.dims) for t in held if math.prod(t.dims) > 1)


def one(name: str, dynamo: bool, folder: Path) -> dict[str, Any]:
    """What became of one network."""
    module, image = network(name)
    path = folder / f"{name.replace(':', '_')}{'-dynamo' * dynamo}.onnx"
    if not path.exists():
        try:
            export(module, image, path.with_suffix(".part"), dynamo)
        except (RuntimeError, TypeError, torch.onnx.errors.OnnxExporterError):
            timm().layers.set_fused_attn(False)
            module, _ = network(name)
            export(module, image, path.with_suffix(".part"), dynamo)
        path.with_suffix(".part").rename(path)
    traced = trace(module, image)
    row: dict[str, Any] = {"name": name, "MB": round(path.stat().st_size / 1e6, 1)}
    try:
        imported = import_onnx(path)
    except GennapeError as error:
        return {**row, "outcome": "refused", "why": str(error)[:2000]}
    both = pack([imported.graph, traced.graph])
    macs, params = cost.macs(both).tolist(), cost.params(both).tolist()
    known = (params[1], folded_params(traced.graph), stored_params(path))
    outcome = "read" if params[0] in known[:2] else "as stored" if params[0] == known[2] else "wrong"
    counts = {"macs": macs, "params": [params[0], *known], "others": imported.others}
    nodes = [imported.graph.n_nodes, traced.graph.n_nodes]
    return {
        **row,
        "outcome": outcome if macs[0] == macs[1] else "wrong",
        **counts,
        "traced": traced.others,
        "nodes": nodes,
    }


def bounded(name: str, dynamo: bool, folder: Path) -> dict[str, Any]:
    """:func:`one` in a process that can neither hang nor take the machine's memory."""
    command = [sys.executable, __file__, "--one", name, "--keep", str(folder), *["--dynamo"] * dynamo]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"name": name, "outcome": "not exported", "why": f"over {_SECONDS} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return {"name": name, "outcome": "failed", "why": why[:300]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _cells(row: dict[str, Any]) -> list[str]:
    if "macs" not in row:
        lines = row["why"].splitlines()
        return [row["name"], row["outcome"], "", "", lines[1].strip() if len(lines) > 1 else row["why"]]
    others = ", ".join(f"{count} {name}" for name, count in row["others"].items())
    off = {"read": "", "as stored": f"file {row['params'][0]:,}, module {row['params'][2]:,} parameters; "}.get(
        row["outcome"], f"trace: {row['macs'][1]:,} MACs, {row['params'][1:]} parameters; "
    )
    return [
        row["name"],
        row["outcome"],
        f"{row['macs'][0] / 1e6:,.1f}",
        f"{row['params'][0] / 1e6:.2f}",
        (off + others).removesuffix("; "),
    ]


def main() -> None:
    """Run the drill and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", help="names (default: all, or a sample with --dynamo)")
    parser.add_argument("--dynamo", action="store_true", help="the newer exporter")
    parser.add_argument("--keep", type=Path, help="a folder that keeps the files; those in it are not exported again")
    parser.add_argument("--results", type=Path, help="a file of results: networks in it are not read again")
    parser.add_argument("--table", action="store_true", help="print Markdown")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        sys.stdout.write(json.dumps(one(arguments.one, arguments.dynamo, arguments.keep)) + "\n")
        return
    held = arguments.results.read_text().splitlines() if arguments.results and arguments.results.exists() else []
    rows = {row["name"]: row for row in map(json.loads, held)}
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.models or (SAMPLE if arguments.dynamo else MODELS):
            if name not in rows:
                rows[name] = bounded(name, arguments.dynamo, arguments.keep or Path(temporary))
                if arguments.results:
                    with arguments.results.open("a") as file:
                        file.write(json.dumps(rows[name]) + "\n")
            if not arguments.keep:
                for file_ in Path(temporary).iterdir():
                    file_.unlink()
    _print(list(rows.values()), arguments.table)


def _print(rows: list[dict[str, Any]], table: bool) -> None:
    line = "| " + " | ".join(["{}"] * 5) + " |\n" if table else "{:<34} {:<9} {:>10} {:>8}  {}\n"
    sys.stdout.write(line.format("model", "outcome", "M MACs", "M params", "outside the vocabulary, or why"))
    if table:
        sys.stdout.write(line.format("---", "---", "--:", "--:", "---"))
    for row in rows:
        sys.stdout.write(line.format(*_cells(row)))
    counted = Counter(row["outcome"] for row in rows)
    sys.stdout.write("\n" + ", ".join(f"{count} {outcome}" for outcome, count in counted.items()) + "\n")


if __name__ == "__main__":
    main()
