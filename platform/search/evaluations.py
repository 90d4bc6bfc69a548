"""Evaluated networks: as arrays in memory, packed for sending, and as tables."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from gennape.platform.search.failures import Outcome
from gennape.platform.search.measures import is_whole
from gennape.platform.search.objectives import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from jaxtyping import Float64, Int64

_STATES = np.array([Outcome.DONE, Outcome.INFEASIBLE, Outcome.TIMEOUT], "U10")


@dataclass(frozen=True, slots=True, eq=False)
class Evaluations:
    """Evaluated networks, one row each.

    ``hashes`` U32 [n]: canonical hashes. ``genomes`` int64 [n, g]. ``values`` float64 [n, k]: every measure in its
    natural unit, one column for each of ``names``; not finite where the predictor gave no value. ``memberships``
    float64 [n, c]. ``island`` and ``generation`` int64 [n]: by which island and when it was evaluated first. ``states``
    U10 [n]: DONE, INFEASIBLE or TIMEOUT. ``architectures`` str objects [n]: as JSON, encoded on the islands because
    encoding for all of them would dominate the driver's work. ``deviation`` float64 [n], percent: the uncertainty of
    each accuracy; NaN where the predictor gives none, and everywhere if omitted. ``violation`` float64 [n]: the total
    relative violation of the search's limits, 0 within all of them, and everywhere if omitted.
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
    violation: Float64[np.ndarray, " n"] = field(default_factory=lambda: np.zeros(0))
    names: tuple[str, ...] = NAMES

    def __post_init__(self) -> None:
        for column, omitted in (("deviation", np.nan), ("violation", 0.0)):
            if len(getattr(self, column)) != len(self.hashes):
                object.__setattr__(self, column, np.full(len(self.hashes), omitted))

    def __len__(self) -> int:
        return len(self.hashes)

    def __reduce__(self) -> tuple[Callable[..., Evaluations], tuple[object, ...]]:
        """Pickle losslessly in few bytes."""
        whole = [narrow(a) for a in (self.genomes, self.island, self.generation)]
        codes = (self.states[:, None] == _STATES).argmax(1).astype(np.uint8)
        texts = zlib.compress("\n".join(self.architectures.tolist()).encode(), 1)
        deviation = self.deviation if np.isfinite(self.deviation).any() else np.zeros(0)
        violation = self.violation if self.violation.any() else np.zeros(0)
        columns = (self.values, self.memberships, codes, texts, deviation, violation)
        return _unpacked, (self.digests.tobytes(), *whole, *columns, self.names)

    def take(self, rows: np.ndarray | Sequence[int]) -> Evaluations:
        """Some rows, by index or mask."""
        index = np.asarray(rows, bool if np.asarray(rows).dtype == bool else np.int64)
        return Evaluations(**{name: getattr(self, name)[index] for name in _COLUMNS}, names=self.names)

    def column(self, name: str) -> Float64[np.ndarray, " n"]:
        """One measure of every network."""
        values: Float64[np.ndarray, " n"] = self.values[:, self.names.index(name)]
        return values

    @property
    def finite(self) -> np.ndarray:
        """Mask of the rows with a finite value for every measure."""
        mask: np.ndarray = np.isfinite(self.values).all(1)
        return mask

    @property
    def within(self) -> np.ndarray:
        """Mask of the rows that may be on a front: finite, and within the limits of the search."""
        mask: np.ndarray = self.finite & (self.violation == 0)
        return mask

    @property
    def digests(self) -> np.ndarray:
        """The hashes as 16 bytes each, S16 [n]."""
        return digests_of(self.hashes.tolist())


#: The fields that have one row per network.
_COLUMNS = tuple(each.name for each in fields(Evaluations) if each.name != "names")


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
    violation: np.ndarray,
    names: tuple[str, ...],
) -> Evaluations:
    text = digests.hex()
    hashes = np.array([text[at : at + 32] for at in range(0, len(text), 32)], "U32")
    whole = [array.astype(np.int64) for array in (genomes, island, generation)]
    architectures = as_objects(zlib.decompress(texts).decode().split("\n")[: len(hashes)])
    rows = (hashes, whole[0], values, memberships, whole[1], whole[2], _STATES[codes], architectures)
    return Evaluations(*rows, deviation, violation, names)


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


def none_evaluated(genes: int, names: tuple[str, ...] = NAMES) -> Evaluations:
    """No rows, of the measures called ``names``."""
    integers = np.zeros(0, np.int64)
    return Evaluations(
        np.zeros(0, "U32"),
        np.zeros((0, genes), np.int64),
        np.zeros((0, len(names))),
        np.zeros((0, 0)),
        integers,
        integers,
        np.zeros(0, "U10"),
        as_objects([]),
        names=names,
    )


def concatenate(parts: Sequence[Evaluations]) -> Evaluations:
    """The rows of all parts in order. Memberships of parts without any prediction are NaN."""
    kept = [part for part in parts if len(part)] or list(parts[:1])
    columns = {name: [getattr(part, name) for part in kept] for name in _COLUMNS}
    memberships = stacked(columns.pop("memberships"))
    joined = {name: np.concatenate(column) for name, column in columns.items()}
    return Evaluations(memberships=memberships, **joined, names=kept[0].names)


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
    """As Arrow columns: hash, architecture (JSON), the measures of every run, island, generation, genome, memberships,
    state, deviation, violation, and further measures."""
    measures = {
        name: pa.array(values.astype(np.int64) if is_whole(name) else values)
        for name, values in zip(evaluations.names, evaluations.values.T, strict=True)
    }
    return pa.table(
        {
            "hash": pa.array(evaluations.hashes, pa.string()),
            "architecture": pa.array(evaluations.architectures, pa.string()),
            **{name: measures.pop(name) for name in NAMES},
            "island": pa.array(evaluations.island),
            "generation": pa.array(evaluations.generation),
            "genome": _lists(evaluations.genomes),
            "memberships": _lists(evaluations.memberships),
            "state": pa.array(evaluations.states, pa.string()),
            "deviation": pa.array(evaluations.deviation),
            "violation": pa.array(evaluations.violation),
            **measures,
        }
    )


def to_frame(evaluations: Evaluations) -> pd.DataFrame:
    """The same columns as a data frame."""
    frame: pd.DataFrame = to_table(evaluations).to_pandas()
    return frame


def _lists(rows: np.ndarray) -> pa.Array:
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(rows).reshape(-1)))
