"""Gradient descent with Nesterov's momentum over many weights at once, of which all can be recorded."""

from __future__ import annotations

import torch
from torch import Tensor

from gennape.platform.labelling.training.recipe import Recipe


def nesterov_step(
    weights: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    decayed: list[int],
    rate: Tensor,
    recipe: Recipe,
) -> None:
    """One step of gradient descent with Nesterov's momentum, in place; the rate being a tensor, it can be recorded."""
    torch._foreach_add_([gradients[i] for i in decayed], [weights[i] for i in decayed], alpha=recipe.weight_decay)
    torch._foreach_mul_(momenta, recipe.momentum)
    torch._foreach_add_(momenta, gradients)
    torch._foreach_add_(gradients, momenta, alpha=recipe.momentum)
    torch._foreach_mul_(gradients, rate)
    torch._foreach_add_(weights, gradients, alpha=-1)


def laid_out(gradient: Tensor, weight: Tensor) -> Tensor:
    """The gradient with the strides of its weight: one that differs would make PyTorch treat each weight by itself."""
    if gradient.stride() == weight.stride():
        return gradient
    alike = torch.channels_last
    if (
        gradient.dim() == 4
        and gradient.is_contiguous(memory_format=alike)
        and weight.is_contiguous(memory_format=alike)
    ):
        return gradient.as_strided(weight.size(), weight.stride())  # they differ in axes of length 1
    return torch.empty_like(weight).copy_(gradient)
