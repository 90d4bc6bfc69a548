"""Fronts of several runs side by side: their hypervolumes from one point, and what of each survives in the union."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import moocore
import numpy as np
import pandas as pd

from gennape.errors import CheckpointError, ConfigError, WorkspaceError
from gennape.platform.search.front import MARGIN
from gennape.platform.search.run_report import read_front
from gennape.platform.search.runs import config_of
from gennape.predictors.evaluation.scale import scale_of
from gennape.predictors.model.checkpoint import provenance_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float64

    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.objectives import Objective


@dataclass(frozen=True, slots=True, eq=False)
class ComparedRun:
    """A run among others: its front as a table, the hypervolume that it dominates, and which of its networks no other
    run's network dominates."""

    name: str
    front: pd.DataFrame
    hypervolume: float
    survives: np.ndarray

    @property
    def share(self) -> float:
        """Part of the front that survives in the union of all fronts."""
        return float(self.survives.mean()) if len(self.survives) else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Several runs of one space, one scale of accuracies and the same objectives; ``reference``: the point that all
    hypervolumes are measured from, in natural units."""

    space: str
    scale: str
    objectives: tuple[Objective, ...]
    reference: dict[str, float]
    runs: tuple[ComparedRun, ...]


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Compare the fronts of runs, in their order.

    The reference point lies a tenth of its range beyond the worst of all fronts. A network that several fronts hold
    survives in each of them. Raises :class:`ConfigError` for fewer than two runs, a run that occurs twice, and runs
    that differ in space, objectives or scale; :class:`WorkspaceError` for a run without a front.
    """
    if len(folders) < 2 or len(set(folders)) < len(folders):
        names = ", ".join(folder.name for folder in folders) or "none"
        raise ConfigError(f"a comparison takes two or more different runs, got {names}")
    configs = [config_of(folder) for folder in folders]
    scales = [scale_name(config) for config in configs]
    _refuse_different(folders, "search space", [config.space for config in configs])
    _refuse_different(folders, "objectives", [config.objectives for config in configs])
    _refuse_different(folders, "scale of accuracies", scales)
    objectives = configs[0].directed
    fronts = [_table(folder) for folder in folders]
    points = [minimised_front(front, objectives) for front in fronts]
    together = np.concatenate(points)
    survives = np.split(_survivors(together), np.cumsum([len(part) for part in points])[:-1])
    worst, best = together.max(0), together.min(0)
    reference = worst + MARGIN * np.where(worst > best, worst - best, np.maximum(np.abs(worst), 1))
    volumes = [float(moocore.hypervolume(part, ref=reference)) for part in points]
    runs = [
        ComparedRun(folder.name, front, volume, alive)
        for folder, front, volume, alive in zip(folders, fronts, volumes, survives, strict=True)
    ]
    natural = {o.name: float(value) * _sign(o) for o, value in zip(objectives, reference, strict=True)}
    return Comparison(configs[0].space, scales[0], objectives, natural, tuple(runs))


def scale_name(config: SearchConfig) -> str:
    """The scale of a run's accuracies; where its checkpoint is gone, that checkpoint's hash."""
    try:
        return scale_of(provenance_of(None if config.checkpoint is None else Path(config.checkpoint))).name
    except CheckpointError:
        return f"checkpoint {config.checkpoint_sha256[:12]}"


def minimised_front(front: pd.DataFrame, objectives: Sequence[Objective]) -> Float64[np.ndarray, "n m"]:
    """The objectives' columns of a front, negated where larger is better."""
    columns = [front[o.name].to_numpy(np.float64) * _sign(o) for o in objectives]
    points: Float64[np.ndarray, "n m"] = np.stack(columns, axis=1)
    return points


def _sign(objective: Objective) -> float:
    return -1.0 if objective.direction == "max" else 1.0


def _survivors(points: Float64[np.ndarray, "n m"]) -> np.ndarray:
    """Mask of the points that no other dominates; of equal points all."""
    mask: np.ndarray = moocore.is_nondominated(points, keep_weakly=True)
    return mask


def _table(folder: Path) -> pd.DataFrame:
    points = read_front(folder)
    if not points:
        raise WorkspaceError(f"the front of {folder.name} is empty; search with more evaluations")
    return pd.DataFrame(points)


def _refuse_different(folders: Sequence[Path], what: str, values: Sequence[str]) -> None:
    for folder, value in zip(folders, values, strict=True):
        if value != values[0]:
            raise ConfigError(
                f"runs are compared within one {what}: that of {folders[0].name} is {values[0]}, that of {folder.name} "
                f"is {value}; leave one of them out"
            )
