"""Recover the constants a network was written with from their float32 roundings."""

from __future__ import annotations

import numpy as np

#: Largest integer n that is tried as the scale 1 / sqrt(n) of attention.
_MAX_ROOT = 2**16


def shortest(value: float) -> float:
    """The shortest decimal that rounds to this float32, as written in the network: 1e-5 for 9.99999974e-06."""
    return float(str(np.float32(value)))


def as_told(value: float) -> float:
    """The number before it was rounded to float32: a short decimal, or 1 / sqrt(n) for an integer n, the usual scale
    of attention."""
    if 0 < value < 1 and len(str(shortest(value))) > 8 and round(value**-2) <= _MAX_ROOT:
        root = round(value**-2) ** -0.5
        return root if shortest(root) == shortest(value) else shortest(value)
    return shortest(value)
