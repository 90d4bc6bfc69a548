"""What of two zoos comes in as a graph: ``python benchmarks/zoo.py``, a drill for a night.

Some models of every file of timm and one of each family of torchvision, with random weights on the meta device, each in
a process of its own with bounded time and memory. Each is read as an *executable* graph or as one with *others*, which
are operations outside the vocabulary, *refused* with a sentence, or *wrong*: its multiply-accumulates differ from those
that ``torch.utils.flop_counter`` counts for what depends on the image, it has more parameters than the module, or the
module was changed. A crash or a timeout is wrong. The exit status is 1 where a model is wrong, or fewer are read than
``--least``.

``--each 3`` takes three of every file, ``--models`` names instead, ``--part 2/4`` the second quarter, ``--table`` makes
the figures Markdown. ``--results`` keeps outcomes in a file: models in it are not tried again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).parent))
from importing import timm

from gennape.errors import GennapeError
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.importing.torch import trace

_SECONDS, _BYTES = 300, 16 * 2**30
OUTCOMES = ("executable", "others", "refused", "wrong", "not made")
#: Of torchvision, one of each family.
TORCHVISION = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "maxvit_t", "mnasnet1_0"),
    *("mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x1_0"),
    *("squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_16", "wide_resnet50_2"),
)


@dataclass(frozen=True)
class ZooResult:
    """What became of one model; ``said`` is the reason of a refusal or of a fault."""

    name: str
    kind: str
    said: str = ""


def _size(name: str) -> tuple[bool, int]:
    """Models that are called small come first."""
    return not any(word in name for word in ("atto", "femto", "pico", "nano", "xxs", "tiny", "_s", "small")), len(name)


def names(each: int = 1) -> list[str]:
    """Some models of every file of timm, those that are called small first, then those of torchvision."""
    package = timm()
    by_file: dict[str, list[str]] = {}
    for name in package.list_models():
        if not name.startswith("test_"):
            by_file.setdefault(package.models._registry._model_to_module[name], []).append(name)
    families = [sorted(models, key=_size)[:each] for _, models in sorted(by_file.items())]
    return [*(name for models in families for name in models), *(f"torchvision/{name}" for name in TORCHVISION)]


def _made(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    try:
        return _on("meta", name)
    except NotImplementedError:  # what computes its first weights with numbers
        return _on("cpu", name)


def _on(device: str, name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    zoo, _, model = name.rpartition("/")
    package = timm()
    with warnings.catch_warnings(), torch.device(device):
        warnings.simplefilter("ignore")
        if not zoo:
            module = package.create_model(model, pretrained=False)
            return module.eval(), tuple(module.default_cfg["input_size"])
        import torchvision  # noqa: PLC0415

        return torchvision.models.get_model(model).eval(), (3, 224, 224)


class _OnImage(TorchDispatchMode):
    """Counts the multiply-accumulates of a run that depend on the image, and the others: tables of positions."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.macs, self.others = 0, 0
        self._reached = {self._memory(image): image}  # tensors are held, so that no other takes their memory's place

    @staticmethod
    def _memory(x: Tensor) -> int:
        return x.untyped_storage()._cdata

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        depends = any(self._memory(x) in self._reached for x in given)
        if depends:
            made = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
            self._reached.update((self._memory(x), x) for x in made)
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            macs = int(count(*args, **(kwargs or {}), out_val=out)) // 2
            self.macs, self.others = self.macs + macs * depends, self.others + macs * (not depends)
        return out


def _counted(module: nn.Module, image: tuple[int, int, int]) -> _OnImage:
    x = torch.empty(1, *image, device="meta")
    with _OnImage(x) as counter, torch.no_grad():
        module.to("meta").eval()(x)
    return counter


def judged(name: str) -> ZooResult:
    """Read one model and compare with what PyTorch says of it."""
    try:
        module, image = _made(name)
    except Exception as error:  # noqa: BLE001 - a model that its own zoo cannot make is not ours to judge
        return ZooResult(name, "not made", f"{type(error).__name__}: {str(error)[:150]}")
    before = {key: id(tensor) for key, tensor in module.state_dict(keep_vars=True).items()}
    try:
        traced = trace(module, image)
    except GennapeError as error:
        return ZooResult(name, "refused", " ".join(str(error).split())[:300])
    if before != {key: id(tensor) for key, tensor in module.state_dict(keep_vars=True).items()}:
        return ZooResult(name, "wrong", "the module was changed")
    graphs = pack([traced.graph])
    macs, params = int(cost.macs(graphs)[0]), int(cost.params(graphs)[0])
    learnt = sum(p.numel() for p in module.parameters())
    counter = _counted(module.requires_grad_(False), image)
    if macs != counter.macs:
        counts = f"{counter.macs} and {counter.others} that do not depend on the image"
        return ZooResult(name, "wrong", f"{macs} multiply-accumulates, PyTorch counts {counts}")
    if params > learnt:
        return ZooResult(name, "wrong", f"{params} parameters, the module has {learnt}")
    unused = f"; {learnt - params} of its parameters do not meet the image" if params < learnt else ""
    others = ", ".join(f"{n} {other}" for other, n in traced.others.items())
    return ZooResult(name, "others" if others else "executable", (others + unused).removeprefix("; "))


def _limited(name: str, connection: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
    connection.send(judged(name))


def run(name: str) -> ZooResult:
    """Judge one model in a process that is ended after its time."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_limited, args=(name, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(_SECONDS):
            return ZooResult(name, "wrong", f"took over {_SECONDS} s")
        return receiver.recv()  # type: ignore[no-any-return]
    except EOFError:
        process.join()
        return ZooResult(name, "wrong", f"its process ended with code {process.exitcode}")
    finally:
        process.kill()
        process.join()


def _kept(path: Path | None) -> dict[str, ZooResult]:
    lines = path.read_text().splitlines() if path and path.exists() else []
    return {outcome.name: outcome for outcome in (ZooResult(**json.loads(line)) for line in lines)}


def main() -> None:
    """Print each outcome as it comes, and their count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=1, help="how many models of every file of timm")
    parser.add_argument("--results", type=Path, help="a file of outcomes, which goes on where it was stopped")
    parser.add_argument("--models", nargs="*", help="names of timm, or torchvision/NAME")
    parser.add_argument("--part", default="1/1", help="which part of how many, to run it in pieces")
    parser.add_argument("--least", type=int, default=0, help="fewest models to be read")
    parser.add_argument("--table", action="store_true", help="print the figures as Markdown")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    torch.set_num_threads(1)
    counts: dict[str, Counter[str]] = {"timm": Counter(), "torchvision": Counter()}
    known = _kept(arguments.results)
    for name in (arguments.models or names(arguments.each))[part - 1 :: parts]:
        outcome = known.get(name) or run(name)
        counts["torchvision" if name.startswith("torchvision/") else "timm"][outcome.kind] += 1
        if arguments.results and name not in known:
            with arguments.results.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
        sys.stdout.write(f"{outcome.name:<44} {outcome.kind:<10} {outcome.said}\n")
        sys.stdout.flush()
    _report(counts, arguments.table)
    both = counts["timm"] + counts["torchvision"]
    if both["wrong"] or both["executable"] + both["others"] < arguments.least:
        sys.exit(1)


def _report(counts: dict[str, Counter[str]], table: bool) -> None:
    rows: list[tuple[str, ...]] = [("", *OUTCOMES, "all")]
    rows += [(zoo, *(str(count[o]) for o in OUTCOMES), str(count.total())) for zoo, count in counts.items()]
    if table:
        rows.insert(1, ("---", *["--:"] * (len(OUTCOMES) + 1)))
    for row in rows:
        sys.stdout.write(("| " + " | ".join(row) + " |" if table else "\t".join(row)) + "\n")


if __name__ == "__main__":
    main()
