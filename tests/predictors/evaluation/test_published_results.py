"""The published figures are told once, and as the papers have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gennape.predictors.evaluation.protocol import (
    FINE_TUNED,
    ZERO_SHOT,
)
from gennape.predictors.evaluation.published_results import PUBLISHED

SHARED = Path(__file__).resolve().parents[3].parent / "shared"


def test_published_figures_are_told_once() -> None:
    keys = [(p.family, p.setting, p.labels, p.method, p.figure) for p in PUBLISHED]
    assert len(set(keys)) == len(keys)
    assert all((p.labels == 0) == (p.setting == ZERO_SHOT) for p in PUBLISHED)


_Key = tuple[str, str, int, str, str]


def _of_the_papers(anchors: dict[str, Any]) -> dict[_Key, float]:
    """All figures of the tables of accuracies, by family, setting, labels, method and figure."""
    paper, general = anchors["gennape_aaai23"], anchors["general_predictor_sdm23"]
    zero, tuned = (ZERO_SHOT, 0), (FINE_TUNED, 50)
    table1, table4 = paper["table1_srcc_zero_cost_and_flops"], paper["table4_mae_percent_finetuned50"]
    pairs = [(method, setting) for method in ("k_gnn", "gennape") for setting in (zero, tuned)]
    columns = [
        ("srcc", table1, [(method, zero) for method in table1["columns"]]),
        ("mae", {f: v for f, v in table4.items() if f != "nb101"}, [(method, tuned) for method in table4["columns"]]),
        ("srcc", paper["table5_srcc"], pairs),
        ("ndcg_10", paper["table6_ndcg_at_10"], pairs),
    ]
    found = {
        (name, *setting, method, figure): value
        for figure, table, heads in columns
        for name in set(table) - {"columns"}
        for (method, setting), value in zip(heads, table[name], strict=True)
    }
    # What table 4 says of the family trained on is what table 3 says: no labels of it are left to fine-tune on.
    table3 = paper["table3_nb101_mae_percent_and_srcc"]
    assert table4["nb101"] == [table3[method][0] for method in table4["columns"]]
    for method, values in table3.items():
        found |= {("nb101", *zero, method, f): value for f, value in zip(("mae", "srcc"), values, strict=True)}
    held_out = general["table1_srcc_target_family_held_out"]
    for name, labels in general["finetune_labels"].items():
        for head, value in zip(held_out["columns"], held_out[name], strict=True):
            learns = {"gnn_finetune": "general_gnn", "cl_finetune": "general_cl"}.get(head)
            key = (name, *((FINE_TUNED, labels, learns) if learns else (*zero, head)), "srcc")
            assert found.get(key, value) == value
            found[key] = value
    return found


def test_published_figures_are_those_of_the_papers() -> None:
    path = SHARED / "anchors" / "published_results.json"
    if not path.is_file():
        pytest.skip("needs the published figures, which are not part of this repository")
    found = {(p.family, p.setting, p.labels, p.method, p.figure): p.value for p in PUBLISHED}
    assert found == _of_the_papers(json.loads(path.read_text()))
