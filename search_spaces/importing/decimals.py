"""The numbers that networks were told, of what is left of them in 32 bits."""

from __future__ import annotations

import numpy as np

#: Largest number whose root attention is scaled by.
_MAX_ROOT = 2**16


def shortest(value: float) -> float:
    """The shortest decimal that is this number in 32 bits: 1e-5 for 9.99999974e-06, which is what a network says."""
    return float(str(np.float32(value)))


def as_told(value: float) -> float:
    """The number that a network was told before it was rounded to 32 bits: a short decimal, or one over the root of a
    whole number, as attention is scaled."""
    if 0 < value < 1 and len(str(shortest(value))) > 8 and round(value**-2) <= _MAX_ROOT:
        root = round(value**-2) ** -0.5
        return root if shortest(root) == shortest(value) else shortest(value)
    return shortest(value)
