"""Compact measurements of evaluated networks, to recognise them and to send to other islands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gennape.platform.search.objectives import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float64

    from gennape.platform.search.evaluations import Evaluations

#: A run is merged with the one before it unless that is this many times longer, so the number of runs is logarithmic.
_RATIO = 2


@dataclass(frozen=True, slots=True, eq=False)
class Measurements:
    """Networks and their measures, 16 + 8k bytes each: ``digests`` S16 [n], ``values`` float64 [n, k]."""

    digests: np.ndarray
    values: Float64[np.ndarray, "n k"]

    def __len__(self) -> int:
        return len(self.digests)


def measurements_of(evaluations: Evaluations) -> Measurements:
    """The measurements of evaluations."""
    return Measurements(evaluations.digests, evaluations.values)


def no_measurements() -> Measurements:
    """An empty set of measurements."""
    return Measurements(np.zeros(0, "S16"), np.zeros((0, len(NAMES))))


def join_measurements(parts: Sequence[Measurements]) -> Measurements:
    """The rows of several, in order."""
    rows = [part for part in parts if len(part)] or [no_measurements()]
    if len(rows) == 1:
        return rows[0]
    return Measurements(np.concatenate([r.digests for r in rows]), np.concatenate([r.values for r in rows]))


class SeenNetworks:
    """A map from digest to measures, without a Python object per network.

    Stored as sorted runs, the longest first. If a network is in several runs, the last one counts. Each network has
    ``measures`` measures.
    """

    def __init__(self, measures: int = len(NAMES)) -> None:
        self._measures = measures
        self._runs: list[Measurements] = []

    def add(self, measurements: Measurements) -> None:
        """Add networks. Later measurements of a network replace earlier ones, also within ``measurements``."""
        if not len(measurements):
            return
        run = _sorted(measurements)
        while self._runs and len(self._runs[-1]) < _RATIO * len(run):
            run = _sorted(join_measurements([self._runs.pop(), run]))
        self._runs.append(run)

    def find(self, digests: np.ndarray) -> tuple[np.ndarray, Float64[np.ndarray, "n k"]]:
        """Look up digests. Returns which were seen, bool [n], and their measures, NaN for unseen ones."""
        found, values = np.zeros(len(digests), bool), np.full((len(digests), self._measures), np.nan)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run.digests, digests), len(run) - 1)
            here = run.digests[at] == digests
            values[here] = run.values[at[here]]
            found |= here
        return found, values

    @property
    def any_finite(self) -> bool:
        """Whether any network has finite values for all measures."""
        return any(np.isfinite(run.values).all(1).any() for run in self._runs)


def _sorted(measurements: Measurements) -> Measurements:
    order = np.argsort(measurements.digests, kind="stable")
    digests = measurements.digests[order]
    last = np.append(digests[1:] != digests[:-1], True)
    return Measurements(digests[last], measurements.values[order[last]])


class RecentArrivals:
    """A buffer of the latest measurements in order of arrival, for readers that remember their position.

    It holds what the slowest reader has not read yet, and at most about twice as much.
    """

    def __init__(self) -> None:
        self._parts = no_measurements()
        self._first = 0  # position of the first row held
        self._fill = 0
        self._at: dict[bytes, int] = {}  # positions

    @property
    def end(self) -> int:
        """Position after the last row."""
        return self._first + self._fill

    def append(self, measurements: Measurements) -> None:
        """Add rows at the end."""
        if not len(measurements):
            return
        need = self._fill + len(measurements)
        if need > len(self._parts):
            grown = Measurements(np.zeros(2 * need, "S16"), np.zeros((2 * need, measurements.values.shape[1])))
            if self._fill:
                grown.digests[: self._fill] = self._parts.digests[: self._fill]
                grown.values[: self._fill] = self._parts.values[: self._fill]
            self._parts = grown
        self._parts.digests[self._fill : need] = measurements.digests
        self._parts.values[self._fill : need] = measurements.values
        self._at |= {digest: self.end + i for i, digest in enumerate(measurements.digests.tolist())}
        self._fill = need

    def holds(self, digests: np.ndarray, position: int) -> np.ndarray:
        """Which of these digests are at or after a position, bool [n]."""
        return np.array([self._at.get(digest, -1) >= position for digest in digests.tolist()], bool)

    def since(self, position: int) -> Measurements:
        """A copy of the rows from a position on."""
        rows = slice(position - self._first, self._fill)
        return Measurements(self._parts.digests[rows].copy(), self._parts.values[rows].copy())

    def forget(self, position: int) -> None:
        """Drop rows before a position, once they are at least half of the buffer."""
        gone = position - self._first
        if 2 * gone < self._fill:
            return
        for digest in self._parts.digests[:gone].tolist():
            if self._at[digest] < position:
                del self._at[digest]
        kept = self.since(position)
        self._parts, self._first, self._fill = kept, position, len(kept)
