"""Which labels a checkpoint's accuracies are like, and which families it learnt from: what users must know of both."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from gennape.predictors.calibration.calibration import CalibrationRecord
from gennape.predictors.evaluation.rows import learnt_families
from gennape.search_spaces.families.nb101 import NasBench101

#: What the labels of a benchmark are, by the family.
_LABELS: Mapping[str, str] = {NasBench101.name: "NAS-Bench-101 (CIFAR-10)"}


#: Units: percent of images, or a number that ranks networks of one search space and means nothing else.
PERCENT, RELATIVE = "%", "relative score"


@dataclass(frozen=True, slots=True)
class SpaceScale:
    """The scale that accuracies of one search space are on.

    ``name``: whose labels they are like. ``unit``: :data:`PERCENT` or :data:`RELATIVE`. ``source``: who published the
    labels of a calibration. ``error``: within which 68 % of rows lie that it had not seen, in percent.
    """

    name: str
    unit: str = PERCENT
    source: str = ""
    error: float | None = None

    def shown(self, accuracy: float) -> str:
        """An accuracy for people: with its unit in percent, as a bare number where it is a score."""
        return f"{accuracy:.2f} %" if self.unit == PERCENT else f"{accuracy:.2f}"

    @property
    def sentence(self) -> str:
        """What accuracies are."""
        if self.unit == RELATIVE:
            return (
                f"accuracies are zero-shot, relative scores on the scale of {self.name}: compare networks of one "
                "family by them, not with measured accuracies"
            )
        if self.error is None:
            return f"accuracies are on the scale of {self.name}"
        return (
            f"accuracies are {self.name}: {self.error:.2f} % or less off for two of three networks that were kept "
            f"aside (labels: {self.source})"
        )


@dataclass(frozen=True, slots=True)
class AccuracyScale:
    """``fitted``: the families whose labels the predictor learnt from; ``tuned``: whether it was fine-tuned, and
    ``tuned_on``: the family of that, if the checkpoint says it; ``calibrations``: by search space, if it has any."""

    fitted: frozenset[str]
    tuned: bool = False
    tuned_on: str | None = None
    calibrations: Mapping[str, CalibrationRecord] = field(default_factory=dict)

    def of(self, space: str | None) -> SpaceScale:
        """The scale of accuracies of a search space's networks; ``None`` stands for networks of no known one."""
        if self.tuned:
            home = self.tuned_on in (None, space)
            return SpaceScale(self.name, PERCENT if home else RELATIVE)
        if space in self.calibrations:
            record = self.calibrations[str(space)]
            return SpaceScale(record.labels, PERCENT, record.source, record.deviation)
        return SpaceScale(self.name, PERCENT if space in self.fitted else RELATIVE)

    @property
    def name(self) -> str:
        """The scale in a few words: whose labels accuracies are like."""
        if self.tuned:
            return f"the labels of {self.tuned_on or 'its fine-tuning'}"
        return ", ".join(_LABELS.get(name, name) for name in sorted(self.fitted)) or "its training"

    @property
    def sentence(self) -> str:
        """What to know before reading accuracies."""
        if self.tuned:
            return f"accuracies are on the scale of {self.name}, which the checkpoint was fine-tuned on"
        known = ", ".join(self.calibrations)
        apart = f"accuracies of {known} are on the scale of their public labels; other " if known else ""
        return (
            f"{apart}accuracies are zero-shot, on the scale of {self.name}: compare networks of one family by them, "
            "not with measured accuracies"
        )

    def warning(self, families: Collection[str | None]) -> str | None:
        """What to know where networks are not of the family of the fine-tuning; ``None`` among ``families`` stands for
        networks of no known one."""
        others = sorted({name for name in families if name not in (None, self.tuned_on)}, key=str)
        if self.tuned_on is None or not (others or None in families):
            return None
        what = " and ".join([*map(str, others), *["networks of no known family"] * (None in families)])
        return (
            f"the checkpoint was fine-tuned on {self.tuned_on}; what it learnt there can mislead on {what}: use the "
            "shipped checkpoint, or fine-tune one on labels of such networks"
        )


def scale_of(provenance: Mapping[str, Any], zero_shot: bool = False) -> AccuracyScale:
    """What the provenance of a checkpoint says of it; ``zero_shot`` leaves its calibrations out."""
    tuned = provenance.get("tuned")
    family = tuned.get("family") if isinstance(tuned, Mapping) else None
    known = learnt_families(provenance)
    if not isinstance(family, str):
        family = next(iter(known)) if len(known) == 1 else None
    records = {} if zero_shot else provenance.get("calibrations") or {}
    calibrations = {space: CalibrationRecord(**record) for space, record in records.items()}
    return AccuracyScale(known, tuned is not None, family if tuned is not None else None, calibrations)
