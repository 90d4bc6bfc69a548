"""Counting sort: group entries by small integer keys."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from scipy.sparse import csr_array


def grouped(keys: Int64[np.ndarray, " e"], groups: int) -> tuple[Int64[np.ndarray, " g1"], Int64[np.ndarray, " e"]]:
    """The entries of each key below ``groups``, in their order: offsets, and entries one after another.

    Equal to a stable sort in a quarter of its time: converting a sparse matrix with one row per entry to columns counts
    instead of comparing.
    """
    entries = np.arange(len(keys) + 1)
    columns = csr_array((np.zeros(len(keys), np.int8), keys, entries), shape=(len(keys), groups)).tocsc()
    return columns.indptr.astype(np.int64, copy=False), columns.indices.astype(np.int64, copy=False)
