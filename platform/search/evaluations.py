"""Evaluated networks: as arrays in memory, packed for sending, and as tables."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gennape.platform.search import objectives
from gennape.platform.search.failures import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from jaxtyping import Float64, Int64

_STATES = np.array([Outcome.DONE, Outcome.INFEASIBLE, Outcome.TIMEOUT], "U10")


@dataclass(frozen=True, slots=True, eq=False)
class Evaluations:
    """Evaluated networks, one row each.

    ``hashes`` U32 [n]: canonical hashes. ``genomes`` int64 [n, g]. ``values`` float64 [n, k]: every measure in its
    natural unit, columns as in ``objectives.NAMES``; not finite where the predictor gave no value. ``memberships``
    float64 [n, c]. ``island`` and ``generation`` int64 [n]: by which island and when it was evaluated first. ``states``
    U10 [n]: DONE, INFEASIBLE or TIMEOUT. ``architectures`` str objects [n]: as JSON, encoded on the islands because
    encoding for all of them would dominate the driver's work. ``deviation`` float64 [n], percent: the uncertainty of
    each accuracy; NaN where the predictor gives none, and everywhere if omitted.
    """

    hashes: np.ndarray
    genomes: Int64[np.ndarray, "n g"]
    values: Float64[np.ndarray, "n k"]
    memberships: Float64[np.ndarray, "n c"]
    island: Int64[np.ndarray, " n"]
    generation: Int64[np.ndarray, " n"]
    states: np.ndarray
    architectures: np.ndarray
    deviation: Float64[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if len(self.deviation) != len(self.hashes):
            object.__setattr__(self, "deviation", np.full(len(self.hashes), np.nan))

    def __len__(self) -> int:
        return len(self.hashes)

    def __reduce__(self) -> tuple[Callable[..., Evaluations], tuple[object, ...]]:
        """Pickle losslessly in few bytes."""
        whole = [narrow(a) for a in (self.genomes, self.island, self.generation)]
        codes = (self.states[:, None] == _STATES).argmax(1).astype(np.uint8)
        texts = zlib.compress("\n".join(self.architectures.tolist()).encode(), 1)
        deviation = self.deviation if np.isfinite(self.deviation).any() else np.zeros(0)
        return _unpacked, (self.digests.tobytes(), *whole, self.values, self.memberships, codes, texts, deviation)

    def take(self, rows: np.ndarray | Sequence[int]) -> Evaluations:
        """Some rows, by index or mask."""
        index = np.asarray(rows, bool if np.asarray(rows).dtype == bool else np.int64)
        return Evaluations(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def finite(self) -> np.ndarray:
        """Mask of the rows with a finite value for every measure."""
        mask: np.ndarray = np.isfinite(self.values).all(1)
        return mask

    @property
    def digests(self) -> np.ndarray:
        """The hashes as 16 bytes each, S16 [n]."""
        return digests_of(self.hashes.tolist())


def _unpacked(
    digests: bytes,
    genomes: np.ndarray,
    island: np.ndarray,
    generation: np.ndarray,
    values: np.ndarray,
    memberships: np.ndarray,
    codes: np.ndarray,
    texts: bytes,
    deviation: np.ndarray,
) -> Evaluations:
    text = digests.hex()
    hashes = np.array([text[at : at + 32] for at in range(0, len(text), 32)], "U32")
    whole = [array.astype(np.int64) for array in (genomes, island, generation)]
    architectures = as_objects(zlib.decompress(texts).decode().split("\n")[: len(hashes)])
    rows = (hashes, whole[0], values, memberships, whole[1], whole[2], _STATES[codes], architectures)
    return Evaluations(*rows, deviation)


def as_objects(texts: Sequence[str]) -> np.ndarray:
    """Strings of any length as one object array."""
    array = np.empty(len(texts), object)
    array[:] = texts
    return array


def narrow(array: np.ndarray) -> np.ndarray:
    """Integers in the smallest dtype that holds them; other arrays unchanged."""
    if array.dtype.kind not in "iu" or not array.size:
        return array
    low, high = int(array.min()), int(array.max())
    # A signed type that holds -1 - high also holds high; NumPy would promote mixed signed and unsigned types to floats.
    return array.astype(np.min_scalar_type(high if low >= 0 else min(low, -1 - high)))


def digests_of(hashes: Sequence[str]) -> np.ndarray:
    """Hashes of 32 hexadecimal digits as S16 [n], which compares and sorts as whole words."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), "S16")


def none_evaluated(genes: int) -> Evaluations:
    """No rows."""
    integers = np.zeros(0, np.int64)
    return Evaluations(
        np.zeros(0, "U32"),
        np.zeros((0, genes), np.int64),
        np.zeros((0, len(objectives.NAMES))),
        np.zeros((0, 0)),
        integers,
        integers,
        np.zeros(0, "U10"),
        as_objects([]),
    )


def concatenate(parts: Sequence[Evaluations]) -> Evaluations:
    """The rows of all parts in order. Memberships of parts without any prediction are NaN."""
    kept = [part for part in parts if len(part)] or list(parts[:1])
    columns = {field.name: [getattr(part, field.name) for part in kept] for field in fields(Evaluations)}
    memberships = stacked(columns.pop("memberships"))
    return Evaluations(memberships=memberships, **{name: np.concatenate(column) for name, column in columns.items()})


def stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of several matrices, padded with NaN to the widest."""
    width = max(part.shape[1] for part in parts)
    return np.concatenate(
        [
            np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=np.nan) if p.shape[1] < width else p
            for p in parts
        ]
    )


def first_of_each(evaluations: Evaluations) -> Evaluations:
    """The first of all rows with the same hash, in order."""
    _, rows = np.unique(evaluations.hashes, return_index=True)
    return evaluations if len(rows) == len(evaluations) else evaluations.take(np.sort(rows))


def to_table(evaluations: Evaluations) -> pa.Table:
    """As Arrow columns: hash, architecture (JSON), measures, island, generation, genome, memberships, state,
    deviation."""
    measures = dict(zip(objectives.NAMES, evaluations.values.T, strict=True))
    return pa.table(
        {
            "hash": pa.array(evaluations.hashes, pa.string()),
            "architecture": pa.array(evaluations.architectures, pa.string()),
            # All measures except accuracy are integers.
            **{name: pa.array(v if name == "accuracy" else v.astype(np.int64)) for name, v in measures.items()},
            "island": pa.array(evaluations.island),
            "generation": pa.array(evaluations.generation),
            "genome": _lists(evaluations.genomes),
            "memberships": _lists(evaluations.memberships),
            "state": pa.array(evaluations.states, pa.string()),
            "deviation": pa.array(evaluations.deviation),
        }
    )


def to_frame(evaluations: Evaluations) -> pd.DataFrame:
    """The same columns as a data frame."""
    frame: pd.DataFrame = to_table(evaluations).to_pandas()
    return frame


def _lists(rows: np.ndarray) -> pa.Array:
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(rows).reshape(-1)))
