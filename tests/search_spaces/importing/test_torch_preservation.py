"""After any call of ``trace`` the module is what it was: the same tensors with the same bytes, every attribute, all
settings of PyTorch."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch_modules import IMAGE, Forward, importing, ops_of

from gennape.errors import InvalidGraphError
from gennape.search_spaces.importing.torch import from_torch, trace
from gennape.search_spaces.importing.tracing.preservation import preserved

if TYPE_CHECKING:
    from collections.abc import Callable


def _bytes(x: Tensor) -> bytes:
    return x.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if not x.is_meta else b""


def picture(module: nn.Module) -> list[Any]:
    """What a caller can see of a module: objects by identity, tensors with bytes and flags, containers with order."""
    seen: list[Any] = []
    for name, part in module.named_modules(remove_duplicate=False):
        seen += [name, id(part), type(part), part.training]
        for key, value in vars(part).items():
            seen += [key, id(value), *_content(value)]
    return seen


def _content(value: Any) -> list[Any]:
    if isinstance(value, Tensor):
        storage = value.untyped_storage()._cdata
        flags = (value.device.type, value.dtype, tuple(value.shape), value.stride(), value.requires_grad)
        return [id(value), storage, flags, _bytes(value), id(value.grad), *_content(value.grad)]
    if isinstance(value, dict):
        return [id(value), *(x for key, item in value.items() for x in (key, *_content(item)))]
    if isinstance(value, list | tuple | deque):
        return [id(value), *(x for item in value for x in _content(item))]
    return [id(value), value if isinstance(value, int | float | str | bool) else None]


def settings_of_torch() -> list[Any]:
    # Not the generator of ``random``: the checks of types that run in tests draw from it.
    generators = (torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes())  # noqa: NPY002
    casts = [torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_autocast_cache_enabled()]
    return [
        *generators,
        *casts,
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    ]


def trace_unchanged(module: nn.Module, image: Any = IMAGE) -> str | None:
    """Trace, check that nothing has changed, and give the error if there was one."""
    before, outside = picture(module), settings_of_torch()
    try:
        trace(module, image)
        said = None
    except InvalidGraphError as error:
        said = str(error)
    for then, now in zip([*before, *outside], [*picture(module), *settings_of_torch()], strict=True):
        assert then is now or then == now
    assert not any(x.is_meta for x in module.state_dict().values())
    return said


# Sharing --------------------------------------------------------------------------------------------------------------


def _alias() -> nn.Module:
    class Alias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(8, 4, 3)
            self.f = nn.Sequential(self.c)

        def forward(self, x: Tensor) -> Any:
            return self.f(x)

    return Alias()


def _repeated() -> nn.Module:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(conv, nn.ReLU(), conv)


def _features() -> nn.Module:
    conv, norm = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
    return Forward(lambda m, x: m.features(x), conv1=conv, bn1=norm, features=nn.Sequential(conv, norm))


def _levels() -> nn.Module:
    head = nn.Sequential(nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
    levels = nn.ModuleList([head, nn.Sequential(nn.MaxPool2d(2), head)])
    return Forward(lambda m, x: m.levels[0](x).mean((2, 3)) + m.levels[1](x).mean((2, 3)), levels=levels)


def _tied() -> nn.Module:
    a, b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
    b.weight = a.weight
    b.bias = nn.Parameter(a.bias.data)  # another tensor on the same numbers
    return nn.Sequential(a, b)


def _buffers() -> nn.Module:
    norm = nn.BatchNorm2d(8, affine=False)
    module = Forward(lambda m, x: m.again(m.norm(x)) + m.offset, norm=norm, again=norm, offset=torch.ones(1))
    module.register_buffer("hidden", norm.running_mean, persistent=False)
    return module


@pytest.mark.parametrize("make", [_alias, _repeated, _features, _levels, _tied, _buffers])
@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("image", [IMAGE, (7, 6, 6)])
def test_shared_parts_keep_their_tensors(
    make: Callable[[], nn.Module], asks: bool, image: tuple[int, int, int]
) -> None:
    module = make()
    if asks:
        module = nn.Sequential(Forward(lambda _, x: x if x.mean() >= 0 else -x), module)
    said = trace_unchanged(module, image)
    assert (said is not None) == (image != IMAGE)


def test_a_layer_used_twice_is_in_the_graph_twice() -> None:
    assert ops_of(from_torch(_repeated(), IMAGE)) == ["CONV", "RELU", "CONV"]


# What a forward pass leaves behind ------------------------------------------------------------------------------------


class _Holder:
    """An object that is no module, with slots and attributes."""

    __slots__ = ("__dict__", "last")

    def __init__(self) -> None:
        self.by_size: dict[Any, Any] = {}


class _Caching(nn.Module):
    """Keeps something of each run in every place that Python has for it."""

    shared: ClassVar[dict[str, Any]] = {}
    runs = 0

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
        self.grid: Tensor | None = None
        self.nested: Any = {"levels": [OrderedDict(), deque([1])], "set": {1}}
        self.holder = _Holder()
        self.calls = np.zeros(2)
        self.raw = bytearray(2)
        self.rng = torch.Generator()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("late", None)
        self.conv.register_forward_hook(self._seen)

    @lru_cache(maxsize=4)  # noqa: B019 - what it is about
    def ramp(self, n: int) -> Tensor:
        return torch.arange(n, dtype=torch.float32)

    def _seen(self, _module: nn.Module, _args: Any, out: Tensor) -> None:
        self.holder.last = out

    def forward(self, x: Tensor) -> Tensor:
        if self.grid is None:
            self.grid = self.ramp(x.shape[-1])
        self.nested["levels"][0]["grid"] = self.grid
        self.nested["levels"][1].append(x)
        self.nested["levels"].reverse()
        self.nested["set"].add(2)
        self.holder.by_size[x.shape[-1]] = x
        self.shared["last"] = x
        type(self).runs += 1
        self.calls += 1
        self.raw[0] = 7
        self.steps += 1
        self.late = x.new_zeros(1)
        self.training = True
        self.conv.weight.requires_grad_(False)
        self.conv.weight.data = self.conv.weight.data * 2
        self.conv.tag = torch.rand(1) + torch.rand(1, generator=self.rng)
        self.extra = nn.ReLU()
        del self._modules["extra"]
        self.register_forward_hook(lambda *_: None)
        torch.set_default_dtype(torch.float64)
        torch.set_autocast_enabled("cpu", True)
        torch.use_deterministic_algorithms(True)
        np.random.rand()  # noqa: NPY002
        torch.set_autocast_enabled("cpu", False)
        return self.conv(x) + self.grid.to(x.dtype)


class _CachingThatAsks(_Caching):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        with torch.no_grad():
            self.conv.bias += 1
            self.conv.bias.numpy()[0] = 5
        return out if x.mean() > 0 else out.relu()


class _CachingThatFails(_Caching):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).undefined


@pytest.mark.parametrize("kind", [_Caching, _CachingThatAsks, _CachingThatFails])
def test_nothing_that_a_run_keeps_stays(kind: type[_Caching]) -> None:
    module = kind()
    module.conv.weight.grad = torch.ones_like(module.conv.weight)
    module.conv.weight.tag = [1]  # type: ignore[attr-defined]
    holder, levels = module.holder, list(module.nested["levels"])
    said = trace_unchanged(module)
    assert (said is None) == (kind is not _CachingThatFails)
    assert module.holder is holder
    assert holder.by_size == {}
    assert not hasattr(holder, "last")
    assert module.nested["levels"] == levels == [OrderedDict(), deque([1])]
    assert module.nested["set"] == {1}
    assert _Caching.shared == {}
    assert (_Caching.runs, kind.runs) == (0, 0)
    assert module.calls.tolist() == [0, 0]
    assert module.raw == bytes(2)
    assert module.steps == 0
    assert module.rng.get_state().equal(torch.Generator().get_state())
    assert not module.ramp(2).is_meta
    assert not module._forward_hooks
    assert module.ramp(3).tolist() == [0, 1, 2]


def test_a_grid_made_without_numbers_is_made_again_with_them() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        if m.grid is None:
            m.grid = torch.arange(x.shape[-1], dtype=x.dtype)
        y = m.conv(x) + m.grid
        return y if y.mean() > 0 else y.relu()

    module = Forward(forward, conv=nn.Conv2d(8, 4, 1))
    module.grid = None  # type: ignore[assignment]
    assert trace_unchanged(module) is None
    assert trace(module, IMAGE).took_numbers
    module(torch.zeros(1, *IMAGE))
    assert module.grid.tolist() == [0, 1, 2, 3, 4, 5]  # type: ignore[operator,union-attr]


_GRIDS: dict[int, Tensor] = {}


@lru_cache(maxsize=2)
def _grid(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float32)


def test_caches_of_the_python_module_are_left_without_tensors_of_the_run() -> None:
    def forward(_: Any, x: Tensor) -> Tensor:
        grid = _GRIDS.setdefault(x.shape[-1], torch.arange(x.shape[-1], dtype=x.dtype))
        return x + grid + _grid(x.shape[-1])

    module = Forward(forward)
    assert trace_unchanged(module) is None
    assert _GRIDS == {}
    assert _grid(6).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_counter_of_a_closure_is_left() -> None:
    count, kept = 0, []

    def hook(_m: nn.Module, _args: Any, out: Tensor) -> None:
        nonlocal count
        count += 1
        kept.append(out)

    module = nn.Sequential(nn.Conv2d(8, 4, 1))
    module[0].register_forward_hook(hook)
    trace_unchanged(module)
    assert (count, kept) == (0, [])


def test_the_example_is_left_as_it_was() -> None:
    example = -torch.ones(1, *IMAGE)
    trace(Forward(lambda _, x: x.relu_() if x.mean() < 0 else x), example)
    assert (example == -1).all()


def test_a_gradient_mode_that_the_module_leaves_is_put_back() -> None:
    def forward(_: Any, x: Tensor) -> Tensor:
        torch.set_grad_enabled(True)
        return x.relu()

    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            trace_unchanged(Forward(forward))


def test_settings_of_a_caller_stay() -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        trace_unchanged(_Caching())
    torch.set_default_dtype(torch.float64)
    try:
        trace_unchanged(_Caching())
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_generator_of_python_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    put_back: list[Any] = []
    monkeypatch.setattr(random, "setstate", put_back.append)
    before = random.getstate()
    with preserved(nn.ReLU(), numbers=False):
        random.seed(1)
    assert put_back == [before]


# Any module -----------------------------------------------------------------------------------------------------------


class _Drawn(nn.Module):
    """Layers of a small pool, each maybe used several times, under several names, tied; maybe asked for numbers."""

    def __init__(self, picks: list[int], ties: list[tuple[int, int]], flags: list[bool]) -> None:
        super().__init__()
        pool = [
            nn.Conv2d(8, 8, 1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)),
        ]
        for a, b in ties:
            pool[b % 2].bias = pool[a % 2].bias  # type: ignore[assignment]
            pool[3][1].running_mean = pool[2].running_mean  # type: ignore[index]
        self.layers = nn.ModuleList([pool[i] for i in picks])
        self.again = nn.Sequential(*(pool[i] for i in reversed(picks)))
        self.kept = {"layers": [pool[i] for i in picks], "seen": []}
        self.caches, self.asks, self.fails = flags

    def forward(self, x: Tensor) -> Any:
        for layer in (*self.layers, *self.again):
            x = layer(x)
            if self.caches:
                self.kept["seen"].append(x)  # type: ignore[arg-type]
                self.kept[str(len(self.kept))] = [x]  # type: ignore[list-item]
        if self.asks and x.sum() > 0:
            x = x * 2
        return x.undefined if self.fails else x


@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=2),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.booleans(),
)
def test_any_module_is_left_as_it_was(
    picks: list[int], ties: list[tuple[int, int]], flags: list[bool], training: bool
) -> None:
    module = _Drawn(picks, ties, flags).train(training)
    said = trace_unchanged(module)
    assert (said is not None) == flags[2]


@pytest.mark.parametrize(
    "name", ["resnet18", "test_vit", "test_efficientnet", "test_byobnet", "test_convnext", "test_vit2"]
)
def test_models_of_a_zoo_are_left_as_they_were(name: str) -> None:
    module = importing().timm().create_model(name, pretrained=False)
    said = trace_unchanged(module, tuple(module.pretrained_cfg["input_size"]))
    assert said is None
