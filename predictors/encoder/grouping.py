"""Sorting by counting: which entries have which small number."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from scipy.sparse import csr_array


def grouped(keys: Int64[np.ndarray, " e"], groups: int) -> tuple[Int64[np.ndarray, " g1"], Int64[np.ndarray, " e"]]:
    """The entries of each of the numbers below ``groups``, in their order: offsets, and entries one after another.

    As a stable sort would put them, in a quarter of its time: a sparse matrix with one column to each entry's key is
    turned into its columns, which counts instead of comparing.
    """
    entries = np.arange(len(keys) + 1)
    columns = csr_array((np.zeros(len(keys), np.int8), keys, entries), shape=(len(keys), groups)).tocsc()
    return columns.indptr.astype(np.int64, copy=False), columns.indices.astype(np.int64, copy=False)
