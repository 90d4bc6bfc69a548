"""What comes in from a zoo of models, and how long it takes: ``python benchmarks/importing.py``.

For each model of timm with random weights: the nodes of its graph, its multiply-accumulates and how far they are from
what PyTorch's own counter counts in a run of the model, its parameters, what the vocabulary could not tell, and the
milliseconds of processor time that an import takes, the median of some rounds. ``--table`` prints it as Markdown.
``--onnx`` exports some models by ``torch.onnx`` instead, without its optimiser, and reads the files.

PyTorch's counter (``torch.utils.flop_counter``) sees the operations that run below the module, not the graph. It counts
two floating-point operations for a multiply-accumulate of convolutions, matrix products and attention, and nothing for
the rest, as gennape does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.importing.onnx import import_onnx
from gennape.search_spaces.importing.torch import Traced, trace

CONVOLUTIONAL = (
    *("resnet18", "resnet50", "seresnet50", "resnetv2_50x1_bit", "res2net50_26w_4s", "resnest14d", "skresnet18"),
    *("ecaresnet26t", "cspresnet50", "gernet_s", "regnetx_002", "regnety_002", "nfnet_l0", "dm_nfnet_f0"),
    *("mobilenetv2_100", "mobilenetv3_large_100", "mobilenetv4_conv_small", "efficientnet_b0", "tf_efficientnet_b0"),
    *(
        "ghostnet_100",
        "mobileone_s0",
        "repvgg_a0",
        "fastvit_t8",
        "convnext_tiny",
        "convnextv2_atto",
        "convmixer_768_32",
    ),
    *("densenet121", "vgg11", "vovnet39a", "hgnet_tiny", "selecsls42b", "dla34", "dpn68", "tresnet_m", "xception41"),
    *("inception_v3", "inception_v4", "inception_resnet_v2", "hrnet_w18_small", "nasnetalarge", "pnasnet5large"),
)
OTHERS = (
    *("vit_tiny_patch16_224", "deit_tiny_patch16_224", "beit_base_patch16_224", "eva02_tiny_patch14_224"),
    *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "pvt_v2_b0", "twins_svt_small", "davit_tiny"),
    *("mixer_s32_224", "resmlp_12_224", "gmlp_s16_224", "poolformer_s12", "focalnet_tiny_srf", "visformer_tiny"),
    *("coatnet_0_224", "maxvit_tiny_tf_224", "mobilevit_s", "edgenext_small", "efficientformer_l1", "levit_128s"),
    *("xcit_nano_12_p16_224", "cait_xxs24_224", "crossvit_tiny_240", "volo_d1_224", "botnet26t_256", "halonet26t"),
    *("lambda_resnet26t", "sequencer2d_s"),
)
ONNX = (
    *("resnet18", "resnet50", "seresnet50", "regnety_002", "mobilenetv3_large_100", "efficientnet_b0", "convnext_tiny"),
    *("densenet121", "inception_v3", "resnetv2_50x1_bit", "hrnet_w18_small", "vit_tiny_patch16_224", "mixer_s32_224"),
    *("swin_tiny_patch4_window7_224", "coatnet_0_224", "poolformer_s12"),
)


@dataclass(frozen=True)
class Model:
    """A model of the zoo and the image it takes."""

    name: str
    module: nn.Module
    image: tuple[int, int, int]


def load_torchvision() -> None:
    """Let torchvision be imported for what computes nothing on devices.

    Its package index carries only builds for CUDA: beside a PyTorch for processors these do not load their operators
    and fail. Models and changes of images use none of them, so two names suffice.
    """
    try:
        import torchvision  # noqa: F401, PLC0415
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        load_torchvision.library = library  # type: ignore[attr-defined]  # the names live as long as it does


def timm() -> Any:
    """The package of models, which asks for torchvision."""
    load_torchvision()
    import timm as package  # noqa: PLC0415

    return package


def model(name: str, device: str = "meta") -> Model:
    """A model with random weights, in evaluation mode; on the device ``meta`` without weights at all."""
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")
        module = timm().create_model(name, pretrained=False).eval().requires_grad_(False)
    return Model(name, module, tuple(module.default_cfg["input_size"]))


def counted_macs(module: nn.Module, image: tuple[int, int, int]) -> int:
    """Multiply-accumulates of a run, by PyTorch's counter."""
    module = module.to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.empty(1, *image, device="meta"))
    return int(counter.get_total_flops()) // 2


def milliseconds(work: Callable[[], object], rounds: int) -> float:
    """Processor time of the median round, after one that fills caches."""
    work()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


#: Cells of a row after the model's name: heading, and what it says of a model, its import, and the number of rounds.
COLUMNS: tuple[tuple[str, Callable[[Model, Traced, int], str]], ...] = (
    ("nodes", lambda _, traced, __: f"{traced.graph.n_nodes:,}"),
    ("M MACs", lambda _, traced, __: f"{cost.macs(pack([traced.graph]))[0] / 1e6:,.1f}"),
    ("off by", lambda model, traced, _: f"{_off(model, traced):.2%}"),
    ("M parameters", lambda _, traced, __: f"{cost.params(pack([traced.graph]))[0] / 1e6:.2f}"),
    ("PyTorch ms", lambda model, _, n: f"{milliseconds(lambda: trace(model.module, model.image), n):.0f}"),
    ("outside the vocabulary", lambda _, traced, __: ", ".join(f"{n} {name}" for name, n in traced.others.items())),
)


def _off(model: Model, traced: Traced) -> float:
    return float(cost.macs(pack([traced.graph]))[0]) / counted_macs(model.module, model.image) - 1


def row(name: str, rounds: int) -> list[str]:
    """The cells of one model."""
    found = model(name)
    try:
        traced = trace(found.module, found.image)
    except InvalidGraphError as error:
        return [name, *[""] * (len(COLUMNS) - 1), "refused: " + str(error).split("\n")[1].strip()]
    return [name, *(cell(found, traced, rounds) for _, cell in COLUMNS)]


#: Headings of the table of ONNX files.
ONNX_COLUMNS = ("nodes", "M MACs", "M parameters", "file MB", "ONNX ms", "the graph of PyTorch")


def onnx_row(name: str, rounds: int) -> list[str]:
    """The cells of one model that is exported and read."""
    found = model(name, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(found, path)
        try:
            graph, size = import_onnx(path).graph, path.stat().st_size
        except InvalidGraphError as error:
            return [name, *[""] * (len(ONNX_COLUMNS) - 1), "refused: " + str(error).split("\n")[1].strip()]
        duration = milliseconds(lambda: import_onnx(path), rounds)
    graphs, traced = pack([graph]), pack([trace(found.module, found.image).graph])
    costs = [f"{count(graphs)[0] / 1e6:,.{digits}f}" for count, digits in ((cost.macs, 1), (cost.params, 2))]
    if canonical_hashes(graphs) == canonical_hashes(traced):
        same = "the same"
    else:
        off = [float(count(graphs)[0]) / float(count(traced)[0]) - 1 for count in (cost.macs, cost.params)]
        same = f"{off[0]:.2%} MACs, {off[1]:.2%} parameters, {len(traced.nodes):,} nodes"
    return [name, f"{graph.n_nodes:,}", *costs, f"{size / 1e6:.1f}", f"{duration:.0f}", same]


def export(model: Model, path: Path) -> None:
    """Write a model as ONNX with all its layers: the optimiser would fold normalisations into convolutions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = (torch.zeros(1, *model.image),)
        torch.onnx.export(
            model.module, image, path, opset_version=20, dynamo=True, optimize=False, external_data=False, verbose=False
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", help="names of timm (default: all, or some with --onnx)")
    parser.add_argument("--onnx", action="store_true", help="export models and read them as ONNX")
    parser.add_argument("--rounds", type=int, default=5, help="timed imports of a model (default 5)")
    parser.add_argument("--table", action="store_true", help="print Markdown")
    arguments = parser.parse_args()
    heading = ["model", *(ONNX_COLUMNS if arguments.onnx else [name for name, _ in COLUMNS])]
    line = "| " + " | ".join(["{}"] * len(heading)) + " |\n" if arguments.table else _aligned(len(heading))
    sys.stdout.write(line.format(*heading))
    if arguments.table:
        sys.stdout.write(line.format("---", *["--:"] * (len(heading) - 2), "---"))
    for name in arguments.models or (ONNX if arguments.onnx else [*CONVOLUTIONAL, *OTHERS]):
        cells = onnx_row(name, arguments.rounds) if arguments.onnx else row(name, arguments.rounds)
        sys.stdout.write(line.format(*cells))
        sys.stdout.flush()


def _aligned(columns: int) -> str:
    return "{:<30}" + " {:>12}" * (columns - 2) + "  {}\n"


if __name__ == "__main__":
    main()
