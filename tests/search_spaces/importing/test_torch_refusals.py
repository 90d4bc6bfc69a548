"""Bad modules and images, and that a module is left as it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch_modules import IMAGE, Forward, ops_of, traced_ops

from gennape.errors import InvalidDataError, InvalidGraphError
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.importing.torch import from_torch, trace

if TYPE_CHECKING:
    from collections.abc import Callable


# Weights stay where they are ------------------------------------------------------------------------------------------


class _NoNumbers(TorchDispatchMode):
    """Fails where a tensor with numbers is made."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        assert not isinstance(out, Tensor) or out.is_meta
        return out


def test_no_weight_is_copied() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(True), nn.Flatten(), nn.Linear(64 * 900, 10)
    )
    with _NoNumbers():
        assert ops_of(from_torch(module, (3, 32, 32))) == ["CONV", "BATCHNORM", "RELU", "RESHAPE", "LINEAR"]


def test_a_billion_parameters() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 32768), nn.ReLU(), nn.Linear(32768, 32768))
    traced = trace(module, (3, 32, 32))
    assert cost.params(pack([traced.graph]))[0] == 3073 * 32768 + 32769 * 32768 > 1e9


def test_the_module_is_left_as_it_was() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.seen = x
        m.cache["seen"] = x
        assert not m.norm.training
        return m.norm(x)

    module = Forward(forward, norm=nn.BatchNorm2d(8))
    module.cache = {}  # type: ignore[assignment]
    weight = module.norm.weight
    module.train()
    from_torch(module, IMAGE)
    with pytest.raises(InvalidGraphError):
        from_torch(module, (7, 6, 6))
    assert module.training
    assert module.norm.training  # type: ignore[union-attr]
    assert module.norm.weight is weight
    assert module.cache == {}
    assert not hasattr(module, "seen")


def test_hooks_run_and_stay() -> None:
    module = nn.Sequential(nn.ReLU(), nn.ReLU())
    module[0].register_forward_hook(lambda _m, _args, out: out * 2)
    assert ops_of(from_torch(module, IMAGE)) == ["RELU", "SCALE", "RELU"]
    assert len(module[0]._forward_hooks) == 1


def test_a_module_that_asks_for_numbers_runs_with_the_example() -> None:
    module = Forward(lambda m, x: m.conv(x) if x.mean() > 0 else x.relu(), conv=nn.Conv2d(8, 4, 1))
    weight = module.conv.weight
    for example, expected in ((IMAGE, ["RELU"]), (torch.ones(1, *IMAGE), ["CONV"]), (-torch.ones(IMAGE), ["RELU"])):
        traced = trace(module, example)
        assert ops_of(traced.graph) == expected
        assert traced.took_numbers
    assert module.conv.weight is weight
    assert not trace(nn.ReLU(), IMAGE).took_numbers


def test_functions_of_ones_own_are_seen_through() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
            return x * 2

    assert traced_ops(lambda x: Twice.apply(x).relu()) == ["SCALE", "RELU"]


def test_dead_ends_are_left_out() -> None:
    assert traced_ops(lambda x: (x.exp(), x.relu())[1]) == ["RELU"]


# Bad input ------------------------------------------------------------------------------------------------------------


def test_all_problems_are_told_at_once_with_their_places() -> None:
    class Spectrum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft2(x).real

    class Changes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x[:, ::2] = 0
            return x

    module = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sequential(nn.ReLU(), Spectrum()), Changes(), nn.Conv3d(1, 1, 2))
    with pytest.raises(InvalidGraphError) as error:
        from_torch(module, (8, 6, 6))
    message = str(error.value)
    for place in ("1.1: torch.fft.fft2", "2: torch.Tensor.__setitem__", "3: torch.nn.functional.conv3d"):
        assert place in message
    assert "HANDLERS" in message


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda x: (x.view(1, 8, 36).relu_(), x)[1], "changed in place"),
        (lambda x: (x, x.relu()), r"a tuple of a tensor \[1, 8, 6, 6\], a tensor"),
        (lambda x: {"out": x, "aux": x}, r"a dictionary of out \(a tensor \[1, 8, 6, 6\]\), aux"),
        (lambda _x: None, "returns a NoneType"),
        (lambda _x: torch.ones(1, 3), "does not depend on the image"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "indices"),
        (lambda x: torch.sum(x, 1, out=torch.empty(0)), "out="),
        (lambda x: F.batch_norm(x, None, None, training=True), "running statistics"),
        (lambda x: x.undefined, "raises AttributeError"),
        (lambda x: F.conv2d(x, torch.ones(4, 3, 1, 1)), r"an image of 8x6x6.*Forward raises RuntimeError"),
        (lambda x: torch.from_numpy(x.numpy()).relu(), "cannot be traced"),
        (lambda x: x[:, 3:3], "empty"),
    ],
)  # fmt: skip
def test_what_is_no_graph_is_refused(function: Callable[[Tensor], Any], match: str) -> None:
    with pytest.raises(InvalidGraphError, match=match):
        from_torch(Forward(lambda _, x: function(x)), IMAGE)


def test_errors_of_the_module_name_the_layer() -> None:
    module = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(3, 4, 1)))
    with pytest.raises(InvalidGraphError, match=r"image of 8x6x6 .*: 1\.0 raises RuntimeError"):
        from_torch(module, IMAGE)
    with torch.device("meta"), pytest.raises(InvalidGraphError, match="meta device"):
        from_torch(nn.Sequential(nn.Conv2d(3, 4, 1)), IMAGE)


@pytest.mark.parametrize("example", [(3, 0, 8), torch.ones(2, 8, 6, 6), torch.ones(0, 8, 6, 6), torch.ones(6, 6)])
def test_examples_that_are_no_image_are_refused(example: Any) -> None:
    with pytest.raises(InvalidDataError, match="an example is"):
        from_torch(nn.ReLU(), example)


def test_an_example_may_need_a_gradient() -> None:
    assert ops_of(from_torch(nn.ReLU(inplace=True), torch.ones(1, *IMAGE, requires_grad=True))) == ["RELU"]


def test_scripted_parts_are_refused() -> None:
    scripted = torch.jit.script(nn.ReLU())
    with pytest.raises(InvalidGraphError, match=r"scripted modules.*: 1;"):
        from_torch(nn.Sequential(nn.Conv2d(8, 8, 1), scripted), IMAGE)
    function = torch.jit.script(F.relu)
    with pytest.raises(InvalidGraphError, match="scripted function"):
        from_torch(Forward(lambda _, x: function(x) * 2), IMAGE)


def test_lazy_modules_are_refused() -> None:
    with pytest.raises(InvalidGraphError, match="lazy"):
        from_torch(nn.LazyConv2d(4, 1), IMAGE)
