"""Run a module without changing it: restore all state that a forward pass may change.

Everything a module refers to is searched: sub-modules, containers, objects, closures of functions, classes. The state
of each object is saved (see ``keepers``) and restored in place. Values of tensors are saved only for runs that may
write to them.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from gennape.search_spaces.importing.tracing.keepers import CACHED, PLAIN, Kept, Restore, is_foreign, keep
from gennape.search_spaces.importing.tracing.tensors import version_of

#: Most objects that are searched for state: far more than any network has.
_MAX_OBJECTS = 2_000_000


@contextmanager
def preserved(module: nn.Module, numbers: bool) -> Iterator[None]:
    """Restore ``module`` and PyTorch's settings on exit, even after an error.

    With ``numbers`` the run may write to the module's tensors, and their bytes are saved too.
    """
    settings, state = _settings(), _state(module, numbers)
    try:
        yield
    finally:
        with torch.no_grad():
            for restore in state:
                restore()
        for restore in settings:
            restore()


def _state(module: nn.Module, numbers: bool) -> list[Restore]:
    """Functions that restore everything ``module`` refers to, tensors last."""
    restores: list[Restore] = []
    storages: dict[int, Restore] = {}
    seen: dict[int, Any] = {}  # holds the objects, so that ids are not reused
    waiting: list[Any] = [module]
    while waiting and len(seen) < _MAX_OBJECTS:
        x = waiting.pop()
        if id(x) in seen:
            continue
        seen[id(x)] = x
        if isinstance(x, Tensor):
            kept: Kept | None = _tensor(x, numbers)
            _numbers(x, storages, numbers)
        else:
            kept = _globals(x) if isinstance(x, ModuleType) else keep(x)
        if kept is not None:
            waiting += [item for item in kept.inside if not isinstance(item, PLAIN) and id(item) not in seen]
            if kept.restore is not None:
                restores.append(kept.restore)
    return [*restores, *storages.values()]


# Tensors -------------------------------------------------------------------------------------------------------------


def _tensor(x: Tensor, numbers: bool) -> Kept:
    """Save a tensor's flags, gradient, Python attributes and storage, but not its values.

    Only a run that works on the tensor itself can change its storage.
    """
    requires_grad, gradient, attributes = x.requires_grad, _gradient(x), dict(x.__dict__)
    alias, layout, hooks = x.detach() if numbers else x, _layout(x), x._backward_hooks
    kept_hooks = None if hooks is None else keep(hooks)
    before = _TensorState(requires_grad, gradient, attributes, alias, layout, hooks, kept_hooks)
    return Kept(partial(_restore_tensor, x, before), [*attributes.values(), *([] if gradient is None else [gradient])])


class _TensorState(NamedTuple):
    requires_grad: bool
    gradient: Tensor | None
    attributes: dict[str, Any]
    alias: Tensor
    layout: tuple[Any, ...]
    hooks: Any
    kept_hooks: Kept | None


def _restore_tensor(x: Tensor, before: _TensorState) -> None:
    if _layout(x) != before.layout:
        x.data = before.alias
    if x._backward_hooks is not before.hooks:
        x._backward_hooks = before.hooks
    if before.kept_hooks is not None and before.kept_hooks.restore is not None:
        before.kept_hooks.restore()
    if x.is_leaf and x.requires_grad != before.requires_grad:
        x.requires_grad_(before.requires_grad)
    if _gradient(x) is not before.gradient:
        x.grad = before.gradient
    if x.__dict__ != before.attributes:
        x.__dict__.clear()
        x.__dict__.update(before.attributes)


def _gradient(x: Tensor) -> Tensor | None:
    return x.grad if x.is_leaf else None  # reading it on a non-leaf tensor warns


def _layout(x: Tensor) -> tuple[Any, ...]:
    """The memory layout of a tensor."""
    if x.layout != torch.strided or is_traceable_wrapper_subclass(x):
        return (x.layout, x.dtype, x.device, tuple(x.shape))
    return (x.dtype, x.device, tuple(x.shape), x.stride(), x.storage_offset(), x.untyped_storage()._cdata)


def _numbers(x: Tensor, storages: dict[int, Restore], wanted: bool) -> None:
    """Save the bytes of a tensor's storage, once for all tensors that share it."""
    if not wanted or x.is_meta:
        return
    if x.layout != torch.strided or is_traceable_wrapper_subclass(x):
        storages[id(x)] = partial(_restore_sparse, x, x.detach().clone(), version_of(x))
        return
    storage = x.untyped_storage()
    if storage._cdata in storages:
        return
    saved: torch.UntypedStorage = storage.clone()  # type: ignore[no-untyped-call]
    storages[storage._cdata] = partial(_restore_storage, storage, saved)


def _restore_sparse(x: Tensor, before: Tensor, version: int) -> None:
    if version_of(x) != version:
        x.detach().copy_(before)


def _restore_storage(storage: torch.UntypedStorage, saved: torch.UntypedStorage) -> None:
    if storage.nbytes() != saved.nbytes():
        storage.resize_(saved.nbytes())
    if not torch.equal(_as_bytes(storage), _as_bytes(saved)):  # unchanged storage may be read-only
        storage.copy_(saved)


def _as_bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


# What all modules share ----------------------------------------------------------------------------------------------


def _globals(x: ModuleType) -> Kept | None:
    """Global tensors of a class's Python module: only these are restored, as other code may change the module."""
    if is_foreign(x.__name__):
        return None
    names = vars(x)
    before = dict(names)
    containers = [(value, keep(value)) for value in before.values() if type(value) in (dict, list, OrderedDict)]
    cached = [keep(value) for value in before.values() if isinstance(value, CACHED)]

    def restore() -> None:
        for name, value in list(names.items()):
            if value is not before.get(name) and _holds_tensor(value):
                if name in before:
                    names[name] = before[name]
                else:
                    del names[name]
        for kept in (*(kept for value, kept in containers if _holds_tensor(value)), *cached):
            if kept is not None and kept.restore is not None:
                kept.restore()

    return Kept(restore)


def _holds_tensor(value: Any, depth: int = 3) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return depth > 0 and any(_holds_tensor(item, depth - 1) for item in value)
    return isinstance(value, Tensor)


def _settings() -> list[Restore]:
    """Global state: random generators, default device and dtype, autocast, determinism."""
    return [_generators(), *(_setting(get, put) for get, put in _SETTINGS)]


def _setting(get: Callable[[], Any], put: Callable[[Any], Any]) -> Restore:
    before = get()

    def restore() -> None:
        if get() != before:
            put(before)

    return restore


def _generators() -> Restore:
    state, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]

    def restore() -> None:
        torch.set_rng_state(state)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)

    return restore


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, _set_device),
    (torch.is_grad_enabled, torch._C._set_grad_enabled),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_anomaly_enabled, lambda on: torch.autograd.set_detect_anomaly(on, torch.is_anomaly_check_nan_enabled())),
    (lambda: torch.backends.cudnn.benchmark, lambda on: setattr(torch.backends.cudnn, "benchmark", on)),
    (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    *(
        (
            (lambda kind=kind: torch.is_autocast_enabled(kind)),
            (lambda on, kind=kind: torch.set_autocast_enabled(kind, on)),
        )
        for kind in ("cpu", "cuda")
    ),
    *(
        (
            (lambda kind=kind: torch.get_autocast_dtype(kind)),
            (lambda dtype, kind=kind: torch.set_autocast_dtype(kind, dtype)),
        )
        for kind in ("cpu", "cuda")
    ),
)
