"""The plots of an evaluation and the page that holds them, from figures made up here."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from evaluation_cases import made_up, with_deviations, with_latency

from gennape.platform.evaluation.plots import _reliability, plots, project
from gennape.platform.evaluation.report import write_evaluation
from gennape.platform.evaluation.results import Evaluation
from gennape.predictors.evaluation.protocol import FINE_TUNED, BenchmarkResult, Plan

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def evaluation() -> Evaluation:
    return made_up()


def test_reliability_is_the_coverage_over_its_level(evaluation: Evaluation) -> None:
    unsure = with_deviations(evaluation)
    ((title, figure),) = _reliability(unsure)
    assert title.startswith("Reliability")
    nb201, line = figure.data
    assert (nb201.name, nb201.legendgroup) == ("nb201", "accuracy")
    # An error of one deviation lies within 68.27 %, of a tenth within 7.97 %: the mean over seeds is 0, 50 or 100.
    held = dict(zip(nb201.x, nb201.y, strict=True))
    assert (held[5], held[10], held[65], held[70], held[95]) == (0, 50, 50, 100, 100)
    assert list(line.x) == list(line.y) == [0, 100]
    assert "Reliability" in {title.partition(":")[0] for title, _ in plots(unsure)}
    assert _reliability(evaluation) == []


def test_reliability_of_latencies_is_that_of_log_normals(evaluation: Evaluation) -> None:
    timed = with_latency(evaluation)
    rows = timed.latency[0][0]
    # Every latency is e^0.7 medians, the deviation of logarithms is 1; 0.7 lies within 51.6 % of a normal.
    key, median = (FINE_TUNED, "gennape_latency", 0), rows.accuracy / np.exp(0.7)
    told = BenchmarkResult([], {key: median}, {}, {key: median * np.sqrt(np.e * (np.e - 1))})
    ((_, figure),) = _reliability(replace(timed, latency=[(rows, told)]))
    trace = figure.data[0]
    assert (trace.name, trace.legendgroup) == ("ofa:a", "latency")
    held = dict(zip(trace.x, trace.y, strict=True))
    assert (held[50], held[55]) == (0, 100)


def test_page_needs_nothing_from_elsewhere(evaluation: Evaluation, tmp_path: Path) -> None:
    paths = write_evaluation(tmp_path, evaluation)
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html"]
    page = paths[2].read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)
    ids = re.findall(r'<div id="(plot-\d)"', page)
    assert ids == [f"plot-{i}" for i in range(5)]  # bars twice, predictions twice, projection
    assert page.count("plotly.js v") == 1
    assert "Embeddings of 3 networks in two dimensions (principal components)" in page
    assert "0.950 ± 0.028 (0.910)" in page


def test_page_without_embeddings_and_without_figures(evaluation: Evaluation, tmp_path: Path) -> None:
    plain = Evaluation([], evaluation.absent, [], Plan(), evaluation.provenance, {})
    page = write_evaluation(tmp_path, plain)[2].read_text()
    assert "no labels are published" in page
    assert "plot-0" not in page


def test_projection_by_principal_components_keeps_distances_in_a_plane() -> None:
    rng = np.random.default_rng(0)
    plane, turn = rng.normal(size=(20, 2)), np.linalg.qr(rng.normal(size=(5, 5)))[0][:2]
    flat, how = project(plane @ turn, rng)
    assert how == "principal components"
    distances = [np.linalg.norm(points[:, None] - points, axis=2) for points in (plane, flat)]
    np.testing.assert_allclose(distances[0], distances[1])


def test_projection_by_t_sne_keeps_clusters_apart() -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat(np.eye(3) * 50, 40, axis=0)
    flat, how = project(centres + rng.normal(size=(120, 3)), rng)
    assert how == "t-SNE"
    distance = np.linalg.norm(flat[:, None] - flat, axis=2) + np.diag(np.full(120, np.inf))
    assert ((distance.argmin(1) // 40) == np.arange(120) // 40).all()
