"""Whether exporting a network changes its prediction: ``python benchmarks/one_function.py``.

Networks of the nine families and models of timm are exported by both of PyTorch's ONNX exporters with their default
settings, which fold normalisations, and read back. The table gives, for each family or model, by how many percentage
points the prediction of the file differs from that of the network at most, and for a family the rank correlation
between both. ``--weights fresh`` exports networks as PyTorch makes them (folded biases are then zero and left out),
``trained`` with normalisations that changed something. ``--head`` puts a softmax behind and a normalisation of the
image in front, ``--nhwc`` the image's channels last, ``--optimised`` has onnxruntime rewrite the file.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from importing import load_torchvision
from importing import model as timm_model
from scipy.stats import spearmanr
from torch import Tensor, nn

from gennape.errors import GennapeError
from gennape.predictors.model.checkpoint import load_pretrained
from gennape.search_spaces.families.registry import FAMILIES
from gennape.search_spaces.graphs.graph import ComputationGraph, pack
from gennape.search_spaces.graphs.module import compile_graph
from gennape.search_spaces.importing.onnx import read_onnx
from gennape.search_spaces.importing.torch import from_torch

MODELS = (
    *("resnet18", "resnet50", "seresnet50", "resnetv2_50x1_bit", "res2net50_26w_4s", "ecaresnet26t", "cspresnet50"),
    *("gernet_s", "regnetx_002", "regnety_002", "nfnet_l0", "mobilenetv2_100", "mobilenetv3_large_100"),
    *("mobilenetv4_conv_small", "efficientnet_b0", "tf_efficientnet_b0", "ghostnet_100", "mobileone_s0", "repvgg_a0"),
    *("fastvit_t8", "convnext_tiny", "convnextv2_atto", "densenet121", "vgg11", "vovnet39a", "hgnet_tiny", "dla34"),
    *(
        "selecsls42b",
        "dpn68",
        "xception41",
        "inception_v3",
        "hrnet_w18_small",
        "visformer_tiny",
        "vit_tiny_patch16_224",
    ),
    *("mixer_s32_224", "resmlp_12_224", "poolformer_s12", "levit_128s", "edgenext_small", "efficientformer_l1"),
)


class _Wrapped(nn.Module):
    """A network with what applications put around it."""

    def __init__(self, inner: nn.Module, head: bool, nhwc: bool) -> None:
        super().__init__()
        self.inner, self.head, self.nhwc = inner, head, nhwc
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The network's result for an image of bytes, as probabilities."""
        if self.nhwc:
            x = x.permute(0, 3, 1, 2)
        if not self.head:
            return self.inner(x)
        return self.inner((x / 255 - self.mean) / self.std).softmax(-1)


def exported(
    module: nn.Module, image: tuple[int, int, int], dynamo: bool, args: argparse.Namespace
) -> ComputationGraph:
    """The graph of the file that an exporter writes of a module."""
    _weigh(module, args.weights == "trained")
    wrapped = _Wrapped(module, args.head, args.nhwc).eval()
    c, h, w = image
    example = torch.randn((1, h, w, c) if args.nhwc else (1, c, h, w))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        options = {"verbose": False, "external_data": False} if dynamo else {}
        torch.onnx.export(wrapped, (example,), path, dynamo=dynamo, **options)
        return read_onnx(_optimised(path, args.optimised) if args.optimised else path)


def _optimised(path: Path, level: str) -> Path:
    """The file as onnxruntime rewrites it before it runs it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    options.optimized_model_filepath = str(path.with_name("optimised.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return path.with_name("optimised.onnx")


def _weigh(module: nn.Module, trained: bool) -> None:
    """Normalisations as training leaves them, each channel another; without it all of them do nothing."""
    torch.manual_seed(0)
    for layer in module.modules() if trained else ():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
            if layer.affine:
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, 0, 0.1)


def _cases(args: argparse.Namespace) -> Iterator[tuple[str, list[tuple[nn.Module, ComputationGraph]]]]:
    for space in FAMILIES:
        if args.families and (not args.only or space.name in args.only):
            graphs = space.graphs(space.sample(np.random.default_rng(0), args.families))
            yield space.name, [(compile_graph(graphs[i]), graphs[i]) for i in range(len(graphs))]
    if args.models:
        load_torchvision()
    for name in MODELS if args.models else ():
        if not args.only or name in args.only:
            found = timm_model(name, "cpu")
            yield name, [(found.module.eval(), from_torch(found.module, found.image))]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Print one row of a table for each family and model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", type=int, default=10, help="networks of each family")
    parser.add_argument("--models", action="store_true", help="models of timm too")
    parser.add_argument("--only", nargs="*", default=[], help="names of families and models")
    parser.add_argument("--exporter", choices=("legacy", "dynamo"), default="legacy")
    parser.add_argument("--weights", choices=("trained", "fresh"), default="trained")
    parser.add_argument("--optimised", choices=("basic", "extended"), help="by onnxruntime")
    parser.add_argument("--head", action="store_true")
    parser.add_argument("--nhwc", action="store_true")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    predictor = load_pretrained()
    _say("| networks | count | max difference, points | Spearman | seconds |\n| --- | --: | --: | --: | --: |")
    for name, cases in _cases(args):
        start = time.monotonic()
        try:
            files = [_exported_graph(module, graph, args) for module, graph in cases]
        except (GennapeError, RuntimeError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
            _say(f"| {name} | {len(cases)} | {type(error).__name__}: {str(error)[:200]!r} | | |")
            continue
        before, after = (predictor.predict(pack(graphs)).accuracy for graphs in ([graph for _, graph in cases], files))
        rank = f"{spearmanr(before, after).statistic:.4f}" if len(cases) > 1 else ""
        worst = float(np.abs(before - after).max())
        _say(f"| {name} | {len(cases)} | {worst:.3f} | {rank} | {time.monotonic() - start:.0f} |")


def _exported_graph(module: nn.Module, graph: ComputationGraph, args: argparse.Namespace) -> ComputationGraph:
    _, c, h, w = graph.nodes[graph.nodes[:, 0] == 1][0][:4].tolist()
    return exported(module, (c, h, w), args.exporter == "dynamo", args)


if __name__ == "__main__":
    main()
