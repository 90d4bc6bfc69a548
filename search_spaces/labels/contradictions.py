"""Find contradictory labels: labels of one architecture that differ as much as those of different ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from gennape.search_spaces.labels.labelled import LabelledArchitectures
from gennape.search_spaces.labels.table import USUAL

#: Differences, in percent, that repeated trainings of a network explain: always the first, at most the second.
_NOISE, _MAX_NOISE = 1.0, 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Contradiction:
    """An architecture, by its ``genome`` [g], whose labels lie from ``lowest`` to ``highest``."""

    genome: Int64[np.ndarray, " g"]
    lowest: float
    highest: float

    @property
    def apart(self) -> float:
        """The range of its labels, in their unit."""
        return self.highest - self.lowest


@dataclass(slots=True)
class LabelSpread:
    """Statistics of labels per architecture, collected block by block: count, sum, minimum and maximum."""

    _labels: dict[str, tuple[int, float, float, float]] = field(default_factory=dict)
    _genomes: dict[str, Int64[np.ndarray, " g"]] = field(default_factory=dict)
    _percent: bool = True

    def add(self, block: LabelledArchitectures) -> None:
        """Add rows of a file."""
        self._percent = block.column in USUAL
        for row, (identity, label) in enumerate(zip(block.identity, block.accuracy.tolist(), strict=True)):
            known = self._labels.get(identity)
            if known is None:
                self._labels[identity] = (1, label, label, label)
                continue
            count, total, lowest, highest = known
            self._labels[identity] = (count + 1, total + label, min(lowest, label), max(highest, label))
            if lowest != highest or label != lowest:
                self._genomes.setdefault(identity, block.genomes[row])

    @property
    def architectures(self) -> int:
        """The number of different architectures."""
        return len(self._labels)

    @property
    def repeated(self) -> int:
        """The number of architectures with several different labels."""
        return len(self._genomes)

    def contradictions(self) -> list[Contradiction]:
        """Architectures whose labels differ by more than repeated trainings and than the standard deviation over
        architectures, the worst first."""
        means = np.array([total / count for count, total, _, _ in self._labels.values()])
        usual = float(means.std()) if len(means) else 0.0
        most = max(usual, _NOISE) if self._percent else usual
        if self._percent:
            most = min(most, _MAX_NOISE)
        found = [Contradiction(genome, *self._labels[identity][2:]) for identity, genome in self._genomes.items()]
        return sorted((one for one in found if one.apart > most), key=lambda one: -one.apart)


def spread_of(blocks: Iterable[LabelledArchitectures]) -> LabelSpread:
    """The labels of all blocks."""
    spread = LabelSpread()
    for block in blocks:
        spread.add(block)
    return spread
