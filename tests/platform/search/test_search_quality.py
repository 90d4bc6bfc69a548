"""The benchmark of searches measures them on one scale, and goes on where it stopped."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from gennape.platform.search.searchers.testing import SyntheticPredictor

PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "search_quality.py"


@pytest.fixture
def quality(monkeypatch):
    spec = importlib.util.spec_from_file_location("search_quality", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "search_quality", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "predictor", SyntheticPredictor)
    return module


def test_variants_are_compared_with_random_and_cached(quality, tmp_path, capsys, monkeypatch):
    variants = ["random:searcher=random,islands=1,population=10", "mine:islands=2,population=10"]
    options = ["--cache", str(tmp_path), "--spaces", "ofa_resnet", "--seeds", "2", "--evaluations", "60"]
    quality.main([*options, "--variants", *variants])
    first = capsys.readouterr().out
    row = first.splitlines()[-1].split()
    assert row[:2] == ["ofa_resnet", "+0.00"]
    assert float(row[3]) > 0
    monkeypatch.setattr(quality, "search", None)  # nothing is searched again
    quality.main([*options, "--variants", *variants])
    assert capsys.readouterr().out == first
    with pytest.raises(SystemExit):
        quality.main([*options, "--variants", variants[1]])


def test_hypervolumes_have_one_scale(quality):
    def run(*points):
        return quality.Run(np.zeros((len(points), 1), np.int64), np.array(points, np.float64), 0.0)

    # Scaled by 10 and 100: one point at (0, 0.5) covers a half, one at (0.5, 0) too; together three quarters.
    worst = (10, 100)
    runs = {"random": [run((0, 50), worst)], "other": [run((5, 0), (0, 50), worst)]}
    assert quality.predicted(runs)["other"] == pytest.approx([100 * (0.75 / 0.5 - 1)])
    assert quality.predicted(runs)["random"] == pytest.approx([0])
