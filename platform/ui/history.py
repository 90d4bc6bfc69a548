"""The front of a run after each of its generations, read from its evaluations while they are written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import moocore
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gennape.errors import WorkspaceError
from gennape.platform.search.log import count_shards, shard
from gennape.search_spaces.files.bounded import open_regular
from gennape.search_spaces.files.parquet_pages import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gennape.platform.search.objectives import Objective

#: How much a network breaks the limits of its search, 0 for within them; logs of older versions lack the column.
_VIOLATION = "violation"
#: Columns of the evaluations that are numbers and no measure.
_OTHERS = ("island", "generation", "deviation", _VIOLATION)
#: Evaluated networks that a plot shows at most, spread evenly over the run.
MAX_CLOUD = 3000


@dataclass(slots=True)
class FrontNetwork:
    """A network that was on the front from generation ``since`` on, until ``until`` if another came to dominate it.

    ``values``: every measure in its natural unit; ``deviation`` of the accuracy in percent, None where unknown.
    """

    key: str
    architecture: str
    values: dict[str, float]
    deviation: float | None
    island: int
    since: int
    until: int | None = None


class FrontHistory:
    """All fronts of a run so far. Each call of :meth:`update` reads on from where the one before had got to.

    A generation is one file of evaluations. Safe to use from several threads.
    """

    def __init__(self, folder: Path, objectives: Sequence[Objective], confined: Callable[[Path], Path]) -> None:
        self._folder, self._objectives, self._confined = folder, tuple(objectives), confined
        self._lock = Lock()
        self._forget()

    def _forget(self) -> None:
        self.measures: tuple[str, ...] = ()
        self.networks: list[FrontNetwork] = []
        self.evaluations: list[int] = []  # after each generation
        self.cloud: dict[str, list[float]] = {}
        self._front: list[FrontNetwork] = []
        self.cloud_step = 1  # every so many networks are in the cloud
        self._last: tuple[int, int] | None = None  # identity of the last file that was read

    def update(self) -> None:
        """Read what is new; raises :class:`WorkspaceError` for a file that cannot be read."""
        with self._lock:
            count = count_shards(self._folder, repair=False)
            done = len(self.evaluations)
            if done > count or (done and self._identity(done - 1) != self._last):
                self._forget()  # a larger budget makes the last generations anew
            for number in range(len(self.evaluations), count):
                self._take(self._read(number))
                self._last = self._identity(number)

    def _identity(self, number: int) -> tuple[int, int] | None:
        try:
            found = os.stat(shard(self._folder, number))
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _read(self, number: int) -> pa.Table:
        path = self._confined(shard(self._folder, number))
        try:
            with open_regular(path) as file:
                return pq.read_table(file)
        except (*UNREADABLE, ValueError) as error:
            raise WorkspaceError(f"cannot read the evaluations in {path} ({error}); restore it from a copy") from error

    def _take(self, table: pa.Table) -> None:
        generation = len(self.evaluations)
        if not self.measures:
            self.measures = tuple(
                field.name
                for field in table.schema
                if (pa.types.is_integer(field.type) or pa.types.is_floating(field.type)) and field.name not in _OTHERS
            )
            self.cloud = {name: [] for name in self.measures}
        values = {name: table[name].to_numpy().astype(np.float64) for name in self.measures}
        self._add_to_front(table, values, generation)
        before = self.evaluations[-1] if self.evaluations else 0
        self.evaluations.append(before + len(table))
        self._add_to_cloud(values, before)

    def _add_to_front(self, table: pa.Table, values: dict[str, np.ndarray], generation: int) -> None:
        finite = np.isfinite(np.stack([values[o.name] for o in self._objectives], axis=1)).all(1)
        if _VIOLATION in table.column_names:
            finite &= table[_VIOLATION].to_numpy() == 0
        old = [[network.values[o.name] for o in self._objectives] for network in self._front]
        rows = np.flatnonzero(finite)
        new = np.stack([values[o.name][rows] for o in self._objectives], axis=1)
        signs = np.array([-1.0 if o.direction == "max" else 1.0 for o in self._objectives])
        points = np.concatenate([np.array(old).reshape(-1, len(signs)), new]) * signs
        if not len(points):
            return
        alive = moocore.is_nondominated(points)
        kept = []
        for network, stays in zip(self._front, alive, strict=False):
            if stays:
                kept.append(network)
            else:
                network.until = generation
        chosen = rows[alive[len(old) :]]
        if len(chosen):
            found = _networks(table.take(pa.array(chosen)), {n: v[chosen] for n, v in values.items()}, generation)
            self.networks += found
            kept += found
        self._front = kept

    def _add_to_cloud(self, values: dict[str, np.ndarray], before: int) -> None:
        count = len(next(iter(values.values())))
        while (before + count) // self.cloud_step > MAX_CLOUD:
            self.cloud_step *= 2
            self.cloud = {name: column[::2] for name, column in self.cloud.items()}
        picked = np.arange(-before % self.cloud_step, count, self.cloud_step)
        for name in self.measures:
            self.cloud[name] += values[name][picked].tolist()


def _networks(table: pa.Table, values: dict[str, np.ndarray], generation: int) -> list[FrontNetwork]:
    deviations: list[Any] = [None] * len(table)
    if "deviation" in table.column_names:
        deviations = [one if one is not None and np.isfinite(one) else None for one in table["deviation"].to_pylist()]
    rows = zip(
        table["hash"].to_pylist(), table["architecture"].to_pylist(), deviations, table["island"].to_pylist(),
        strict=True,
    )  # fmt: skip
    return [
        FrontNetwork(key, text, {n: float(v[i]) for n, v in values.items()}, deviation, island, generation)
        for i, (key, text, deviation, island) in enumerate(rows)
    ]
