"""64-bit hashes of many rows at once, to find equal rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int32, Int64, UInt64

_SEED = 0  # of a hash function: nothing that is answered depends on it


def number(hashes: UInt64[np.ndarray, " m"]) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " u"]]:
    """Equal hashes numbered from 0 as they first occur, and where each first does."""
    numbers, distinct = pd.factorize(hashes)
    first = np.empty(len(distinct), np.int64)
    first[numbers[::-1]] = np.arange(len(hashes))[::-1]
    return numbers, first


def words(n: int) -> UInt64[np.ndarray, " n"]:
    """Independent words, the same ones each time, to stand for the numbers below ``n``.

    Sums of them tell multisets of numbers apart. Words that are computed from the numbers need not: with mixers of
    shifts and products that of 2 x is often twice that of x.
    """
    return np.random.default_rng(_SEED).integers(0, 2**64, n, dtype=np.uint64)


def hash_rows(rows: Float32[np.ndarray, "m f"] | Int32[np.ndarray, "m f"]) -> UInt64[np.ndarray, " m"]:
    """A hash of each row's bits; twice as fast for an even number of columns."""
    bits = np.ascontiguousarray(rows).view(np.uint64 if rows.shape[1] % 2 == 0 else np.uint32).astype(np.uint64)
    return mix(bits) @ (words(bits.shape[1]) | np.uint64(1))


def mix(x: UInt64[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """A bijection of 64-bit numbers that carries every bit into all others (after Stafford's mixers)."""
    x = (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    x = (x ^ (x >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return x ^ (x >> np.uint64(32))
