"""Results of frequent calls on meta tensors, made without PyTorch's shape rules.

These rules are written in Python and take a millisecond per batch normalisation, most of the time of a trace. Here
only their checks are made; a call that may be invalid is left to PyTorch, for its error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Returns the result of a call, or None if PyTorch should make it.
Shortcut = Callable[..., Tensor | None]


def _alike(x: Tensor, shape: tuple[int, ...], *tensors: Tensor | None) -> Tensor | None:
    """A tensor like ``x`` if all ``tensors`` have this shape and its dtype, else None."""
    fits = all(t is None or (t.shape == shape and t.dtype == x.dtype) for t in tensors)
    return torch.empty_like(x) if fits else None


def _batch_norm(
    tensor: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    *_: Any,
    **__: Any,
) -> Tensor | None:
    if training or running_mean is None or running_var is None or tensor.dim() < 2:
        return None
    return _alike(tensor, tuple(tensor.shape[1:2]), running_mean, running_var, weight, bias)


def _layer_norm(
    tensor: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *_: Any,
    **__: Any,
) -> Tensor | None:
    shape = tuple(normalized_shape)
    return _alike(tensor, shape, weight, bias) if shape and tuple(tensor.shape[-len(shape) :]) == shape else None


def _linear(tensor: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    fits = weight.dim() == 2 and tensor.dim() > 1 and tensor.shape[-1] == weight.shape[1]
    if not fits or tensor.dtype != weight.dtype or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    return tensor.new_empty((*tensor.shape[:-1], weight.shape[0]))


def _activation(tensor: Tensor, inplace: bool = False, **_: Any) -> Tensor | None:
    if not tensor.is_floating_point():
        return None
    return tensor.relu_() if inplace else torch.empty_like(tensor)  # any in-place call will do: there are no values


SHORTCUTS: dict[Any, Shortcut] = {
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.linear: _linear,
    **dict.fromkeys((F.gelu, F.hardsigmoid, F.hardswish, F.silu), _activation),
}
