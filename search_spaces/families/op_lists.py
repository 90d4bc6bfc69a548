"""Lists of operations with at least one convolution and at most one supplementary operation, as two families have them.

Operations are numbered convolutions first: code < ``n_conv`` is a convolution. Lists are stored in a fixed number of
slots, the first ``length`` of which count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families.space import shown
from gennape.search_spaces.graphs.builder import GraphBuilder, Value

#: An operation: (builder, input, output channels, stride).
Operation = Callable[[GraphBuilder, Value, int, int], Value]


def avgpool(b: GraphBuilder, x: Value, c: int, stride: int) -> Value:  # noqa: ARG001  never changes shape
    """Average over 3x3 and batch normalisation."""
    # The networks count padding as zeros, the published graphs leave it out.
    return b.batchnorm(b.avgpool(x, 3, 1, 1, count_pad=not b.published))


def maxpool(b: GraphBuilder, x: Value, c: int, stride: int) -> Value:  # noqa: ARG001  never changes shape
    """Maximum over 3x3 and batch normalisation."""
    return b.batchnorm(b.maxpool(x, 3, 1, 1))


def within(lengths: Int64[np.ndarray, "*n"], slots: int) -> Bool[np.ndarray, "*n s"]:
    """Which slots count."""
    return np.arange(slots) < lengths[..., None]


def lawful(ops: Int64[np.ndarray, "*n s"], used: Bool[np.ndarray, "*n s"], n_conv: int) -> Bool[np.ndarray, "*n"]:
    """Which lists have at least one convolution and at most one supplementary operation."""
    conv = ops < n_conv
    return (conv & used).any(-1) & ((~conv & used).sum(-1) <= 1)


def draw(
    rng: np.random.Generator, lengths: Int64[np.ndarray, "*n"], slots: int, n_conv: int, n_supp: int
) -> Int64[np.ndarray, "*n s"]:
    """Lists of the given lengths as the published samplers draw them; what stands beyond a length is arbitrary.

    There, one operation is a convolution; each further one is drawn from all operations, or from the convolutions once
    there is a supplementary one; then the list is shuffled. So a list of n has a supplementary operation unless n - 1
    draws all gave convolutions, it stands at any place, and everything else is uniform.
    """
    present = rng.random(lengths.shape) >= (n_conv / (n_conv + n_supp)) ** (np.maximum(lengths, 1) - 1)
    place = rng.integers(np.maximum(lengths, 1))
    supp = rng.integers(n_conv, n_conv + n_supp, size=lengths.shape)
    conv = rng.integers(n_conv, size=(*lengths.shape, slots))
    return np.where(present[..., None] & (np.arange(slots) == place[..., None]), supp[..., None], conv)


def types(ops: Sequence[int], n_conv: int) -> list[str]:
    """The types of a list of codes, "conv" or "supp"."""
    return ["conv" if op < n_conv else "supp" for op in ops]


def read(names: Any, given: Any, conv: Sequence[str], supp: Sequence[str], where: str) -> list[int]:
    """Codes of a list of operation names with their ``given`` types.

    Raises :class:`InvalidArchitectureError`, which starts with ``where``, for anything but a lawful list.
    """
    if not isinstance(names, list) or not isinstance(given, list):
        raise InvalidArchitectureError(
            f"{where}: operations and their types must be lists, got {shown(names)}, {shown(given)}"
        )
    known = (*conv, *supp)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InvalidArchitectureError(f"{where}: unknown operations {shown(unknown)}; known are {list(known)}")
    codes = [known.index(name) for name in names]
    expected = types(codes, len(conv))
    if given != expected:
        raise InvalidArchitectureError(
            f"{where}: the types of {shown(names)} are {shown(expected)}, got {shown(given)}"
        )
    if "conv" not in expected or expected.count("supp") > 1:
        raise InvalidArchitectureError(
            f"{where}: takes at least one of {list(conv)} and at most one of {list(supp)}, got {shown(names)}"
        )
    return codes
