"""What a checkpoint's provenance says of the scale of its accuracies, and when it warns."""

from __future__ import annotations

from typing import Any

import pytest

from gennape.predictors.evaluation.scale import scale_of
from gennape.predictors.model.checkpoint import provenance_of


def test_the_shipped_checkpoint_is_on_the_scale_of_its_benchmark() -> None:
    scale = scale_of(provenance_of())
    assert scale.name == "NAS-Bench-101 (CIFAR-10)"
    assert "zero-shot" in scale.sentence
    assert scale.warning(["hiaml", None]) is None


@pytest.mark.parametrize(
    ("provenance", "home"),
    [
        ({"family": "nb101", "families": ["hiaml", "nb101"], "tuned": {"family": "hiaml"}}, "hiaml"),
        ({"families": ["hiaml"], "tuned": {"labels": "made up"}}, "hiaml"),  # from Python, where only one is named
        ({"family": "nb101", "families": ["hiaml", "nb201"], "tuned": {}}, None),
    ],
)
def test_a_fine_tuned_checkpoint_knows_its_home(provenance: dict[str, Any], home: str | None) -> None:
    scale = scale_of(provenance)
    assert scale.tuned
    assert scale.tuned_on == home
    assert scale.warning(["hiaml"]) is None
    assert (scale.warning(["hiaml", "ofa_mbv3"]) is None) == (home is None)


def test_a_checkpoint_fitted_on_another_family_is_zero_shot_elsewhere() -> None:
    scale = scale_of({"family": "two_path"})
    assert (scale.tuned, scale.name) == (False, "two_path")
    assert scale.warning(["hiaml"]) is None
