"""What of two zoos comes in as a graph: ``python benchmarks/zoo.py``, a drill for a night.

One model of every file of timm and every classifier of torchvision's families, with random weights on the meta device,
each in a process of its own with bounded time and memory. Each is *read*, *refused* with a sentence, or *wrong*: its
multiply-accumulates differ from those that ``torch.utils.flop_counter`` counts below the module by more than what does
not depend on the image, its parameters from the module's own, or the module was changed. A crash or a timeout is wrong.

``--models`` takes names instead, ``--part 2/4`` the second quarter, ``--table`` prints Markdown.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from importing import counted_macs, timm

from gennape.errors import GennapeError
from gennape.search_spaces import cost
from gennape.search_spaces.graph import pack
from gennape.search_spaces.torch_import import trace

_SECONDS, _BYTES = 300, 16 * 2**30
#: Multiply-accumulates that a network may do without the image, which PyTorch counts and the graph does not.
_WITHOUT_IMAGE = 0.01
#: Of torchvision, one of each family.
TORCHVISION = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "maxvit_t", "mnasnet1_0"),
    *("mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x1_0"),
    *("squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_16", "wide_resnet50_2"),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one model; ``said`` is the reason of a refusal or of a fault."""

    name: str
    kind: str
    said: str = ""


def _size(name: str) -> tuple[bool, int]:
    """Models that are called small come first."""
    return not any(word in name for word in ("atto", "femto", "pico", "nano", "xxs", "tiny", "_s", "small")), len(name)


def names() -> list[str]:
    """One model of every file of timm, one that is called small where there is any, then those of torchvision."""
    package = timm()
    by_file: dict[str, list[str]] = {}
    for name in package.list_models():
        if not name.startswith("test_"):
            by_file.setdefault(package.models._registry._model_to_module[name], []).append(name)
    families = [min(models, key=_size) for _, models in sorted(by_file.items())]
    return [*families, *(f"torchvision/{name}" for name in TORCHVISION)]


def _made(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    zoo, _, model = name.rpartition("/")
    package = timm()
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        if not zoo:
            module = package.create_model(model, pretrained=False)
            return module.eval(), tuple(module.default_cfg["input_size"])
        import torchvision  # noqa: PLC0415

        return torchvision.models.get_model(model).eval(), (3, 224, 224)


def judged(name: str) -> Outcome:
    """Read one model and compare with what PyTorch says of it."""
    try:
        module, image = _made(name)
    except Exception as error:  # noqa: BLE001 - a model that its own zoo cannot make is not ours to judge
        return Outcome(name, "not made", f"{type(error).__name__}: {str(error)[:150]}")
    before = {key: id(tensor) for key, tensor in module.state_dict(keep_vars=True).items()}
    try:
        traced = trace(module, image)
    except GennapeError as error:
        return Outcome(name, "refused", " ".join(str(error).split())[:300])
    if before != {key: id(tensor) for key, tensor in module.state_dict(keep_vars=True).items()}:
        return Outcome(name, "wrong", "the module was changed")
    graphs = pack([traced.graph])
    macs, params = int(cost.macs(graphs)[0]), int(cost.params(graphs)[0])
    learnt = sum(p.numel() for p in module.parameters())
    counted = counted_macs(module.requires_grad_(False), image)
    off = macs / counted - 1 if counted else 0.0
    if off > 0 or off < -_WITHOUT_IMAGE:
        return Outcome(name, "wrong", f"{macs} multiply-accumulates, PyTorch counts {counted} ({off:+.2%})")
    if params > learnt:
        return Outcome(name, "wrong", f"{params} parameters, the module has {learnt}")
    unused = f"; {learnt - params} of its parameters do not meet the image" if params < learnt else ""
    others = ", ".join(f"{n} {other}" for other, n in traced.others.items())
    return Outcome(name, "read", (others and f"not executable: {others}") + unused)


def _limited(name: str, connection: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    connection.send(judged(name))


def run(name: str) -> Outcome:
    """Judge one model in a process that is ended after its time."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_limited, args=(name, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(_SECONDS):
            return Outcome(name, "wrong", f"took over {_SECONDS} s")
        return receiver.recv()  # type: ignore[no-any-return]
    except EOFError:
        process.join()
        return Outcome(name, "wrong", f"its process ended with code {process.exitcode}")
    finally:
        process.kill()
        process.join()


def main() -> None:
    """Print each outcome as it comes, and their count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", help="names of timm, or torchvision/NAME")
    parser.add_argument("--part", default="1/1", help="which part of how many, to run it in pieces")
    parser.add_argument("--table", action="store_true", help="print Markdown")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    torch.set_num_threads(1)
    write: Callable[[str], Any] = sys.stdout.write
    line = "| {} | {} | {} |\n" if arguments.table else "{:<44} {:<9} {}\n"
    count: Counter[str] = Counter()
    for name in (arguments.models or names())[part - 1 :: parts]:
        outcome = run(name)
        count[outcome.kind] += 1
        write(line.format(outcome.name, outcome.kind, outcome.said))
        sys.stdout.flush()
    write(", ".join(f"{n} {kind}" for kind, n in count.most_common()) + f" of {count.total()}\n")


if __name__ == "__main__":
    main()
