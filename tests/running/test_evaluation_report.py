"""The report of an evaluation, from figures made up here."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gennape.errors import WorkspaceError
from gennape.platform.evaluation.plots import _curves, _reliability, plots, project
from gennape.platform.evaluation.report import as_json, as_markdown, refuse_foreign_report, write_evaluation
from gennape.platform.evaluation.results import Evaluation
from gennape.platform.evaluation.tables import TITLES, tables
from gennape.platform.evaluation.tracking import _values
from gennape.predictors.evaluation.protocol import (
    ALL,
    FINE_TUNED,
    MILLISECONDS,
    ZERO_SHOT,
    BenchmarkRows,
    Measurement,
    Outcome,
    Plan,
)
from gennape.predictors.evaluation.published_results import PUBLISHED
from gennape.search_spaces.graphs.graph import pack

if TYPE_CHECKING:
    from pathlib import Path

N = 6


def measurement(
    method: str, setting: str, seed: int, srcc: float, subset: str = ALL, rows: int = N, **more: float
) -> Measurement:
    labels = 50 if setting == FINE_TUNED else 0
    where = ("nb201", "nb201.csv.gz", "nb201", subset, setting, labels)
    return Measurement(*where, method, seed, rows, {"srcc": srcc, **more})


@pytest.fixture
def evaluation() -> Evaluation:
    accuracy = np.linspace(88, 93, N)
    rows = BenchmarkRows(
        "nb201",
        "nb201.csv.gz",
        "nb201",
        [str(i) for i in range(N)],
        pack([]),
        accuracy,
        {"nwot": accuracy, "snip": accuracy},
        {ALL: np.ones(N, bool)},
    )
    found = [
        measurement("gennape", ZERO_SHOT, 0, 0.9, mae=0.25),
        measurement("flops", ZERO_SHOT, 0, 0.5),
        measurement("nwot", ZERO_SHOT, 0, 0.75, rows=4),
        measurement("snip", ZERO_SHOT, 0, 0.6),
        measurement("gennape", ZERO_SHOT, 0, 0.8, "resolution 192", 3, mae=float("nan")),
        measurement("gennape", FINE_TUNED, 0, 0.93),
        measurement("gennape", FINE_TUNED, 1, 0.97),
    ]
    partly = np.array([90.0] * 4 + [np.nan] * 2)
    scores = {(ZERO_SHOT, "gennape", 0): accuracy, (FINE_TUNED, "gennape", 0): partly}
    seconds = {(ZERO_SHOT, "gennape"): 1.5}
    provenance = {"version": "1", "commit": None, "checkpoint": "ab" * 32, "trained": {}, "seconds_total": 12.0}
    data = [{"file": "nb201.csv.gz", "rows": N, "left_out": {"not counted by the papers": 2}, "sha256": "cd" * 32}]
    embeddings = {"nb201": np.eye(3)[:2], "hiaml": np.eye(3)[2:]}
    absent = {"nb301": "nb301.csv.gz is not there", "hiaml": "no labels are published"}
    return Evaluation([(rows, Outcome(found, scores, seconds))], absent, data, Plan(50, (0, 1)), provenance, embeddings)


def table(evaluation: Evaluation, title: str) -> dict[str, dict[str, str]]:
    (found,) = [table for table in tables(evaluation) if table.title == title]
    return {row[0]: dict(zip(found.head, row, strict=True)) for row in found.rows}


def test_overview_names_rows_seeds_spread_and_published_figures(evaluation: Evaluation) -> None:
    zero = table(evaluation, "Rank correlation (SRCC), zero-shot")
    assert zero["nb201"] == {
        "": "nb201",
        "rows": "6",
        "seeds": "1",
        "gennape": "0.900 (0.815)",
        "k_gnn": "- (0.493)",
        "flops": "0.500 (0.001)",
        "params": "-",
        "best proxy": "snip 0.600 (0.718)",  # nwot is known of 4 rows only
    }
    assert zero["hiaml: no labels are published"]["gennape"] == "- (0.433)"
    assert zero["nb301: nb301.csv.gz is not there"]["flops"] == "- (0.578)"
    tuned = table(evaluation, "Rank correlation (SRCC), fine-tuned on 50 labels")
    # Mean of 0.93 and 0.97; each is 0.02 off, so the sample deviation is sqrt(2 * 0.0004 / 1) = 0.0283.
    assert tuned["nb201"]["gennape"] == "0.950 ± 0.028 (0.910)"
    assert tuned["nb201"]["seeds"] == "2"


def test_ndcg_and_errors_stand_beside_the_published(evaluation: Evaluation) -> None:
    rows = evaluation.measured[0][0]
    found = [
        measurement("gennape", ZERO_SHOT, 0, 0.9, ndcg_10=0.97, mae=3.0),
        *(measurement("gennape", FINE_TUNED, seed, 0.9, ndcg_10=0.99, mae=1.0 + seed) for seed in (0, 1)),
        *(measurement("cl_t", FINE_TUNED, seed, 0.9, mae=2.0) for seed in (0, 1)),
        measurement("flops", FINE_TUNED, 0, 0.5, ndcg_10=0.9),
    ]
    other = replace(evaluation, measured=[(rows, Outcome(found))])
    assert table(other, "NDCG@10, zero-shot")["nb201"]["gennape"] == "0.970 (0.979)"
    tuned = table(other, "NDCG@10, fine-tuned on 50 labels")
    assert tuned["nb201"] == {
        **{"": "nb201", "rows": "6", "seeds": "2", "gennape": "0.990 ± 0.000 (0.986)"},
        **{"k_gnn": "- (0.975)", "flops": "0.900", "params": "-"},
    }
    assert tuned["hiaml: no labels are published"]["k_gnn"] == "- (0.736)"
    errors = table(other, "Mean absolute error (MAE %), fine-tuned on 50 labels")
    # Of 1 and 2: mean 1.5, sample deviation sqrt(2 * 0.25 / 1). The papers report no such error of the whole.
    assert errors["nb201"] == {
        **{"": "nb201", "rows": "6", "seeds": "2", "gennape": "1.500 ± 0.707", "cl_fcm_t": "- (2.050)"},
        **{"cl_t": "2.000 ± 0.000 (1.930)", "cl": "- (2.810)", "k_gnn": "- (1.800)"},
    }
    assert errors["nb301: nb301.csv.gz is not there"]["cl"] == "- (0.850)"


def test_further_methods_have_a_table_and_are_no_proxies(evaluation: Evaluation) -> None:
    rows, outcome = evaluation.measured[0]
    found = [*outcome.measurements, measurement("pairwise", ZERO_SHOT, 0, 0.99)]
    other = replace(evaluation, measured=[(rows, Outcome(found))])
    assert table(other, "Rank correlation (SRCC), zero-shot")["nb201"]["best proxy"] == "snip 0.600 (0.718)"
    assert table(other, "Rank correlation (SRCC) of further methods, zero-shot")["nb201"] == {
        **{"": "nb201", "rows": "6", "seeds": "1", "gennape": "0.900 (0.815)", "pairwise": "0.990"},
    }
    assert not any("further" in of.title for of in tables(evaluation))


def test_ablations_have_a_column_for_each_benchmark(evaluation: Evaluation) -> None:
    rows, outcome = evaluation.measured[0]
    other = replace(rows, benchmark="nb101", family="nb101")
    alone = [
        replace(m, benchmark="nb101", family="nb101")
        for m in (measurement("six_members", ZERO_SHOT, 0, 0.8, rows=7), measurement("cl_t", ZERO_SHOT, 0, 0.7, rows=7))
    ]
    found = [
        *outcome.measurements,
        measurement("six_members", ZERO_SHOT, 0, 0.7),
        measurement("flops_line", ZERO_SHOT, 0, 0.5),
        measurement("six_members -FCM", ZERO_SHOT, 0, 0.6),
        *(measurement("six_members", FINE_TUNED, seed, 0.8 + 0.1 * seed) for seed in (0, 1)),
    ]
    both = replace(evaluation, measured=[(rows, Outcome(found)), (other, Outcome(alone))])
    zero = table(both, "Ablations: rank correlation (SRCC), zero-shot")
    # The ensemble stands first and beside the published GENNAPE, the others as they are listed, the predictor last.
    assert list(zero.values()) == [
        {"": "six_members", "nb201": "0.700 (0.815)", "nb101": "0.800"},
        {"": "six_members -FCM", "nb201": "0.600", "nb101": "-"},
        {"": "cl_t", "nb201": "-", "nb101": "0.700 (0.921)"},
        {"": "flops_line", "nb201": "0.500", "nb101": "-"},
        {"": "gennape", "nb201": "0.900 (0.815)", "nb101": "-"},
        {"": "rows", "nb201": "6", "nb101": "7"},
        {"": "seeds", "nb201": "1", "nb101": "1"},
    ]
    tuned = table(both, "Ablations: rank correlation (SRCC), fine-tuned on 50 labels")
    assert tuned["six_members"] == {"": "six_members", "nb201": "0.850 ± 0.071 (0.910)"}
    assert not any("further" in of.title for of in tables(both))
    assert not any("Ablations" in of.title for of in tables(evaluation))
    assert "six_members is" in as_markdown(both).partition("##")[0]
    assert "six_members is" not in as_markdown(evaluation)


@pytest.mark.parametrize("labels", [50, 20])
def test_every_published_figure_stands_in_the_report(evaluation: Evaluation, labels: int) -> None:
    found = [
        Measurement("nb201", "nb201.csv.gz", "nb201", ALL, setting, n, "gennape", 0, N, dict.fromkeys(TITLES, 0.5))
        for setting, n in ((ZERO_SHOT, 0), (FINE_TUNED, labels))
    ]
    report = replace(evaluation, measured=[(evaluation.measured[0][0], Outcome(found))], plan=Plan(labels, (0,)))
    cells = {
        (of.title, row[0], head): cell
        for of in tables(report)
        for row in of.rows
        for head, cell in zip(of.head[1:], row[1:], strict=True)
    }
    for p in PUBLISHED:
        setting = p.setting if p.setting == ZERO_SHOT else f"{p.setting} on {p.labels} labels"
        suffix = f", {p.labels} labels" if p.labels not in (0, labels) else ""
        if p.family != "nb201":
            key = ("Published, of what was not measured here", f"{p.family}, {setting}: {p.method}")
        elif p.method == "gennape" and not suffix:
            key = (f"nb201, {setting}", "all: gennape")
        else:
            here = p.setting if p.setting == ZERO_SHOT else f"{p.setting} on {labels} labels"
            key = (f"nb201, {here}", f"published: {p.method}{suffix}")
        assert cells[(*key, TITLES[p.figure])].endswith(f"({p.value:.3f})"), p
    assert not any(row.startswith("nb201,") for _, row, _ in cells)


def with_deviations(evaluation: Evaluation) -> Evaluation:
    """Fine-tuned with seeds 0 and 1: errors of 1 everywhere, deviations of 1 and of 10."""
    rows = evaluation.measured[0][0]
    found = [
        *evaluation.measured[0][1].measurements,
        *(
            measurement("unsure", FINE_TUNED, seed, 0.9, coverage_50=50.0 * seed, coverage_90=100.0, **more)
            for seed, more in enumerate(({"deviation": 1.0, "crps": 0.6}, {"deviation": 10.0, "crps": 2.4}))
        ),
    ]
    scores = {(FINE_TUNED, "gennape", seed): rows.accuracy + 1 for seed in (0, 1)}
    deviations = {(FINE_TUNED, "gennape", seed): np.full(N, 10.0**seed) for seed in (0, 1)}
    return replace(evaluation, measured=[(rows, Outcome(found, scores, {}, deviations))])


def test_uncertainty_has_a_table_of_rows_seeds_and_spread(evaluation: Evaluation) -> None:
    unsure = with_deviations(evaluation)
    assert table(unsure, "Uncertainty, fine-tuned on 50 labels") == {
        "nb201: unsure": {
            **{"": "nb201: unsure", "rows": "6", "seeds": "2"},
            # Of 0 and 50, 100 twice, 1 and 10, 0.6 and 2.4: half the difference times sqrt 2 is the sample deviation.
            **{"% in 50 % interval": "25.000 ± 35.355", "% in 90 % interval": "100.000 ± 0.000"},
            **{"deviation %": "5.500 ± 6.364", "CRPS %": "1.500 ± 1.273", "MAE %": "-"},
        }
    }
    assert "CRPS" in as_markdown(unsure).partition("##")[0]
    assert "CRPS" not in as_markdown(evaluation)
    assert not any("ncertainty" in of.title for of in tables(evaluation))


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
    told = Outcome([], {key: median}, {}, {key: median * np.sqrt(np.e * (np.e - 1))})
    ((_, figure),) = _reliability(replace(timed, latency=[(rows, told)]))
    trace = figure.data[0]
    assert (trace.name, trace.legendgroup) == ("ofa:a", "latency")
    held = dict(zip(trace.x, trace.y, strict=True))
    assert (held[50], held[55]) == (0, 100)


def with_curves(evaluation: Evaluation) -> Evaluation:
    """With 20 labels twice, with 50 once, and of a benchmark that has too few rows."""
    rows = evaluation.measured[0][0]
    points = {
        20: [replace(measurement("gennape", FINE_TUNED, s, 0.7 + 0.1 * s, rows=5), labels=20) for s in (0, 1)],
        50: [measurement("gennape", FINE_TUNED, 0, 0.95, rows=4), measurement("gennape", FINE_TUNED, 0, 0.1, "low")],
    }
    small = replace(rows, benchmark="small")
    curves = [*((rows, Outcome(points[n])) for n in (50, 20)), (small, Outcome())]
    return replace(evaluation, curves=curves)


def test_learning_curves_have_a_column_for_each_number_of_labels(evaluation: Evaluation) -> None:
    curved = with_curves(evaluation)
    title = "Learning curves: rank correlation (SRCC) of gennape by number of labels"
    # Of 0.7 and 0.8; those without labels are measured zero-shot; the papers have figures for 0 and 50.
    assert list(table(curved, title).values()) == [
        {"": "nb201", "rows": "4", "seeds": "2", "0": "0.900 (0.815)", "20": "0.750 ± 0.071", "50": "0.950 (0.910)"}
    ]
    assert [of for of in tables(curved) if of.title != title] == tables(evaluation)
    ((_, figure),) = _curves(curved)
    (line,) = figure.data
    assert (line.name, list(line.x), list(line.y)) == ("nb201", [0, 20, 50], [0.9, pytest.approx(0.75), 0.95])
    assert line.error_y.array[1] == pytest.approx(0.0707, abs=1e-4)
    assert "Learning curves are" in as_markdown(curved).partition("##")[0]
    assert any(title.startswith("Learning curves") for title, _ in plots(curved))
    none = replace(evaluation, curves=curved.curves[-1:])
    for of in (evaluation, none):
        assert _curves(of) == []
        assert "earning curves" not in as_markdown(of)


def test_json_and_runs_hold_learning_curves_apart(evaluation: Evaluation) -> None:
    curved = with_curves(evaluation)
    plain, both = (json.loads(as_json(of)) for of in (evaluation, curved))
    assert {key for key in both if both[key] != plain[key]} == {"curves", "curves_summary"}
    assert [(one["labels"], one["seed"], one["srcc"]) for one in both["curves"]] == [
        *((50, 0, 0.95), (50, 0, 0.1), (20, 0, 0.7), (20, 1, 0.8)),
    ]
    assert both["curves"][0].keys() == plain["figures"][0].keys() - {"mae"}
    means = {(one["labels"], one["subset"]): one["srcc"] for one in both["curves_summary"]}
    assert means == {(50, "all"): 0.95, (50, "low"): 0.1, (20, "all"): 0.75}
    assert (plain["curves"], plain["curves_summary"]) == ([], [])
    logged = list(_values(curved))
    kept = len(list(_values(evaluation)))
    assert [(key, step) for key, _, step in logged[kept:]] == [
        ("nb201/all/learning curve/gennape/srcc", labels) for labels in (0, 20, 50)
    ]
    assert [value for _, value, _ in logged[kept:]] == pytest.approx([0.9, 0.75, 0.95])


def test_a_proxy_known_of_some_rows_says_of_how_many(evaluation: Evaluation) -> None:
    rows, outcome = evaluation.measured[0]
    partly = Outcome([m for m in outcome.measurements if m.method != "snip"])
    other = replace(evaluation, measured=[(rows, partly)])
    assert table(other, "Rank correlation (SRCC), zero-shot")["nb201"]["best proxy"] == "nwot 0.750 on 4 rows"


def test_details_hold_every_subset_and_method(evaluation: Evaluation) -> None:
    zero = table(evaluation, "nb201, zero-shot")
    names = list(zero)
    assert names[:5] == ["all: gennape", "all: flops", "all: nwot", "all: snip", "resolution 192: gennape"]
    assert zero["all: gennape"]["MAE %"] == "0.250"
    assert zero["all: snip"]["SRCC"] == "0.600 (0.718)"
    assert zero["resolution 192: gennape"] | {"": ""} == {
        "": "",
        "rows": "3",
        "seeds": "1",
        "SRCC": "0.800",
        "MAE %": "-",
    }
    assert zero["published: synflow"]["SRCC"] == "- (0.823)"
    tuned = table(evaluation, "nb201, fine-tuned on 50 labels")
    assert tuned["published: general_cl, 40 labels"]["SRCC"] == "- (0.917)"


def test_published_figures_of_another_number_of_labels_do_not_stand_beside(evaluation: Evaluation) -> None:
    found = [
        Measurement("nb201", "nb201.csv.gz", "nb201", ALL, FINE_TUNED, 20, "gennape", 0, N, {"srcc": 0.9}),
    ]
    other = Evaluation(
        [(evaluation.measured[0][0], Outcome(found))], {}, evaluation.data, Plan(20, (0,)), evaluation.provenance, {}
    )
    assert table(other, "Rank correlation (SRCC), fine-tuned on 20 labels")["nb201"]["gennape"] == "0.900"


def with_latency(evaluation: Evaluation) -> Evaluation:
    rows = [
        replace(evaluation.measured[0][0], benchmark=f"latency:ofa:{column}", unit=MILLISECONDS)
        for column in ("a", "b")
    ]
    found = [
        Measurement("latency:ofa:a", "ofa.csv.gz", "ofa_mbv3", ALL, FINE_TUNED, 50, method, seed, 4, figures)
        for seed in (0, 1)
        for method, figures in (
            (
                "gennape_latency",
                {"srcc": 0.9, "mape": 1.0 + 2 * seed, "mae": 0.25, "coverage_50": 48.0, "coverage_90": 88.0}
                | {"deviation": 0.5, "crps": 0.125},
            ),
            ("flops", {"srcc": 0.5, "mape": 9.0, "mae": 2.0}),
        )
    ]
    return replace(evaluation, latency=[(rows[0], Outcome(found)), (rows[1], Outcome())])


def test_latencies_have_a_table_of_their_own(evaluation: Evaluation) -> None:
    both = with_latency(evaluation)
    found = table(both, "Latency: rank correlation (SRCC), fine-tuned on 50 labels")
    assert found == {
        "ofa:a": {"": "ofa:a", "rows": "4", "seeds": "2", "gennape_latency": "0.900 ± 0.000", "flops": "0.500 ± 0.000"},
        "ofa:b: too few rows": {
            **{"": "ofa:b: too few rows", "rows": "-", "seeds": "-"},
            **{"gennape_latency": "-", "flops": "-"},
        },
    }
    errors = table(both, "Latency: MAPE %, fine-tuned on 50 labels")["ofa:a"]
    assert (errors["gennape_latency"], errors["flops"]) == ("2.000 ± 1.414", "9.000 ± 0.000")  # of 1 and 3
    assert table(both, "Latency: MAE ms, fine-tuned on 50 labels")["ofa:a"]["gennape_latency"] == "0.250 ± 0.000"
    (unsure,) = table(both, "Latency: uncertainty, fine-tuned on 50 labels").values()
    assert unsure == {
        **{"": "ofa:a: gennape_latency", "rows": "4", "seeds": "2"},
        **{"% in 50 % interval": "48.000 ± 0.000", "% in 90 % interval": "88.000 ± 0.000"},
        **{"deviation ms": "0.500 ± 0.000", "CRPS ms": "0.125 ± 0.000", "MAE ms": "0.250 ± 0.000"},
    }
    assert [t for t in tables(both) if not t.title.startswith("Latency")] == tables(evaluation)
    assert "power law" in as_markdown(both)
    assert "power law" not in as_markdown(evaluation)


def test_json_holds_latencies_beside_accuracies(evaluation: Evaluation) -> None:
    plain, both = (json.loads(as_json(of)) for of in (evaluation, with_latency(evaluation)))
    assert both["figures"][: len(plain["figures"])] == plain["figures"]
    assert both["figures"][-1] == {
        **{"benchmark": "latency:ofa:a", "file": "ofa.csv.gz", "family": "ofa_mbv3", "subset": "all"},
        **{"setting": "fine-tuned", "labels": 50, "method": "flops", "seed": 1, "rows": 4},
        **{"srcc": 0.5, "mape": 9.0, "mae": 2.0},
    }
    assert both["summary"][: len(plain["summary"])] == plain["summary"]
    assert [row["method"] for row in both["summary"][len(plain["summary"]) :]] == ["gennape_latency", "flops"]


def test_json_holds_every_figure_by_seed(evaluation: Evaluation) -> None:
    report = json.loads(as_json(evaluation))
    assert len(report["figures"]) == 7
    assert report["figures"][-1] == {
        "benchmark": "nb201",
        "file": "nb201.csv.gz",
        "family": "nb201",
        "subset": "all",
        "setting": "fine-tuned",
        "labels": 50,
        "method": "gennape",
        "seed": 1,
        "rows": 6,
        "srcc": 0.97,
    }
    assert report["figures"][4]["mae"] is None
    assert report["checkpoint"] == "ab" * 32
    assert (report["labels"], report["seeds"]) == (50, [0, 1])
    assert report["data"][0]["sha256"] == "cd" * 32
    assert report["absent"]["hiaml"] == "no labels are published"
    assert report["seconds"] == [
        {"benchmark": "nb201", "setting": "zero-shot", "method": "gennape", "seconds": 1.5},
    ]
    summary = {(row["setting"], row["subset"], row["method"]): row for row in report["summary"]}
    assert summary["fine-tuned", "all", "gennape"]["srcc_sd"] == pytest.approx(0.028284, abs=1e-6)
    assert {"source", "value"} <= set(report["published"][0])


def test_markdown_is_made_of_tables(evaluation: Evaluation) -> None:
    text = as_markdown(evaluation)
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.strip().splitlines()}) == 1, block
    assert "| nb201.csv.gz | 6 | 2 not counted by the papers | cdcdcdcdcdcd |" in text
    assert "seeds 0, 1" in text


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


@pytest.mark.cluster
def test_a_run_holds_figures_and_files(evaluation: Evaluation, tmp_path: Path) -> None:
    from gennape.platform.evaluation.tracking import evaluation_run
    from gennape.platform.tracking.tracker import open_store

    paths = write_evaluation(tmp_path, evaluation)
    with evaluation_run(tmp_path, "evaluate-1", {"labels": "50"}) as log:
        log(evaluation, paths)

    def fail() -> Any:
        with evaluation_run(tmp_path, "evaluate-2", {}):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    client, experiment = open_store(tmp_path)
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    run = runs["evaluate-1"]
    assert (run.info.status, runs["evaluate-2"].info.status) == ("FINISHED", "KILLED")
    assert run.data.params == {"labels": "50"}
    history = client.get_metric_history(run.info.run_id, "nb201/all/fine-tuned/gennape/srcc")
    assert sorted((value.step, value.value) for value in history) == [(0, 0.93), (1, 0.97)]
    assert "nb201/resolution 192/zero-shot/gennape/mae" not in run.data.metrics
    stored = {path.path for path in client.list_artifacts(run.info.run_id)}
    assert stored == {"report.json", "report.md", "report.html"}


@pytest.mark.parametrize(
    ("name", "content"), [("report.json", '{"my": "thesis"}'), ("report.md", "mine"), ("report.html", "")]
)
def test_files_that_no_evaluation_wrote_are_not_replaced(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(WorkspaceError, match=f"{name} is there, and no evaluation wrote it: it would be lost"):
        refuse_foreign_report(tmp_path)


def test_a_report_takes_the_place_of_an_earlier_one(tmp_path: Path, evaluation: Evaluation) -> None:
    refuse_foreign_report(tmp_path)
    (tmp_path / "report.json").write_text(as_json(evaluation))
    (tmp_path / "report.md").write_text("of an evaluation")
    refuse_foreign_report(tmp_path)
