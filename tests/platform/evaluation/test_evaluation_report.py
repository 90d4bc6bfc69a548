"""The tables, files and run of an evaluation, from figures made up here."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from evaluation_cases import N, made_up, measurement, with_curves, with_deviations, with_latency

from gennape.errors import WorkspaceError
from gennape.platform.evaluation.plots import _curves, plots
from gennape.platform.evaluation.report import as_json, as_markdown, refuse_foreign_report, write_evaluation
from gennape.platform.evaluation.results import Evaluation
from gennape.platform.evaluation.tables import TITLES, tables
from gennape.platform.evaluation.tracking import _values
from gennape.predictors.evaluation.protocol import (
    ALL,
    FINE_TUNED,
    ZERO_SHOT,
    BenchmarkResult,
    MethodFigures,
    Plan,
)
from gennape.predictors.evaluation.published_results import PUBLISHED

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def evaluation() -> Evaluation:
    return made_up()


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
    other = replace(evaluation, measured=[(rows, BenchmarkResult(found))])
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
    other = replace(evaluation, measured=[(rows, BenchmarkResult(found))])
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
    both = replace(evaluation, measured=[(rows, BenchmarkResult(found)), (other, BenchmarkResult(alone))])
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
        MethodFigures("nb201", "nb201.csv.gz", "nb201", ALL, setting, n, "gennape", 0, N, dict.fromkeys(TITLES, 0.5))
        for setting, n in ((ZERO_SHOT, 0), (FINE_TUNED, labels))
    ]
    report = replace(
        evaluation, measured=[(evaluation.measured[0][0], BenchmarkResult(found))], plan=Plan(labels, (0,))
    )
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
    partly = BenchmarkResult([m for m in outcome.measurements if m.method != "snip"])
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
        MethodFigures("nb201", "nb201.csv.gz", "nb201", ALL, FINE_TUNED, 20, "gennape", 0, N, {"srcc": 0.9}),
    ]
    other = Evaluation(
        [(evaluation.measured[0][0], BenchmarkResult(found))],
        {},
        evaluation.data,
        Plan(20, (0,)),
        evaluation.provenance,
        {},
    )
    assert table(other, "Rank correlation (SRCC), fine-tuned on 20 labels")["nb201"]["gennape"] == "0.900"


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


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
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
