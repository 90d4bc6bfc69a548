"""Which labels a checkpoint's accuracies are like, and which families it learnt from: what users must know of both."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from gennape.predictors.evaluation.rows import learnt_families
from gennape.search_spaces.families.nb101 import NasBench101

#: What the labels of a benchmark are, by the family.
_LABELS: Mapping[str, str] = {NasBench101.name: "NAS-Bench-101 (CIFAR-10)"}


@dataclass(frozen=True, slots=True)
class AccuracyScale:
    """``fitted``: the families whose labels the predictor learnt from; ``tuned``: whether it was fine-tuned, and
    ``tuned_on``: the family of that, if the checkpoint says it."""

    fitted: frozenset[str]
    tuned: bool = False
    tuned_on: str | None = None

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
        return (
            f"accuracies are zero-shot, on the scale of {self.name}: compare networks of one family by them, "
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


def scale_of(provenance: Mapping[str, Any]) -> AccuracyScale:
    """What the provenance of a checkpoint says of it."""
    tuned = provenance.get("tuned")
    family = tuned.get("family") if isinstance(tuned, Mapping) else None
    known = learnt_families(provenance)
    if not isinstance(family, str):
        family = next(iter(known)) if len(known) == 1 else None
    return AccuracyScale(known, tuned is not None, family if tuned is not None else None)
