"""Latency heads, and the rows and methods of their evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gennape.errors import InvalidDataError, InvalidGraphError
from gennape.predictors.evaluation.latency_rows import (
    LATENCIES,
    LATENCY_FILE,
    latency_methods,
    latency_rows,
    read_latencies,
)
from gennape.predictors.evaluation.protocol import FINE_TUNED, Plan, Target, latency_figures, measure
from gennape.predictors.evaluation.rows import BENCHMARKS, build_rows, read_rows
from gennape.predictors.model.fuzzy_ensemble import Fitted, FuzzyEnsemble
from gennape.predictors.model.latency import LatencyPredictor
from gennape.predictors.predictor import Prediction, Predictor
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.cost import flops, params
from gennape.search_spaces.graphs.graph import ComputationGraph, PackedGraphs, pack


@pytest.fixture
def ensemble(fitted: Fitted) -> FuzzyEnsemble:
    return FuzzyEnsemble(fitted, "0" * 64)


def roofline(graphs: PackedGraphs) -> np.ndarray:
    """Milliseconds of computing and of reading weights on a device made up here; no power of FLOPs alone."""
    return np.asarray(0.5 + flops(graphs) / 1e10 + params(graphs) / 5e6)


# The predictor --------------------------------------------------------------------------------------------------------


def test_latency_is_learnt_from_a_few_measurements(ensemble: FuzzyEnsemble, cells: PackedGraphs) -> None:
    latency, few, rest = roofline(cells), np.arange(30), np.arange(30, len(cells))
    found = LatencyPredictor(ensemble).fit(cells.take(few), latency[few]).predict(cells)
    figures = latency_figures(latency[rest], found.milliseconds[rest])
    assert figures["srcc"] > 0.98
    assert figures["mape"] < 5
    assert (found.milliseconds > 0).all()
    assert (found.deviation > 0).all()
    # Twice the deviation holds 95 % of normal errors; of log-normal ones about as many.
    assert (np.abs(found.milliseconds - latency) < 2 * found.deviation)[rest].mean() > 0.8


def test_the_unit_of_time_does_not_matter(ensemble: FuzzyEnsemble, cells: PackedGraphs) -> None:
    few, latency = cells.take(np.arange(20)), roofline(cells)[:20]
    here = LatencyPredictor(ensemble).fit(few, latency).predict(cells)
    there = LatencyPredictor(ensemble).fit(few, 1000 * latency).predict(cells)
    np.testing.assert_allclose(there.milliseconds, 1000 * here.milliseconds, rtol=1e-4)
    np.testing.assert_allclose(there.deviation, 1000 * here.deviation, rtol=1e-3)


def test_what_never_varies_is_predicted_of_everything(ensemble: FuzzyEnsemble, cells: PackedGraphs) -> None:
    same = LatencyPredictor(ensemble).fit(cells.take(np.arange(20)), np.full(20, 7.0)).predict(cells)
    np.testing.assert_allclose(same.milliseconds, 7, rtol=1e-6)
    one = LatencyPredictor(ensemble).fit(cells.take(np.arange(1)), np.array([7.0])).predict(cells.take(np.arange(1)))
    np.testing.assert_allclose(one.milliseconds, 7, rtol=1e-6)


def test_answers_do_not_depend_on_the_batch_nor_on_earlier_fits(ensemble: FuzzyEnsemble, cells: PackedGraphs) -> None:
    few, latency = cells.take(np.arange(20)), roofline(cells)[:20]
    head = LatencyPredictor(ensemble).fit(few, latency)
    together = head.predict(cells)
    alone = head.predict(cells.take(np.array([40])))
    assert (alone.milliseconds[0], alone.deviation[0]) == (together.milliseconds[40], together.deviation[40])
    again = head.fit(few, latency[::-1]).fit(few, latency)
    assert again is head
    assert again.predict(cells).milliseconds.tobytes() == together.milliseconds.tobytes()


def test_the_ensemble_stays_as_it_is_and_heads_share_what_it_computes(
    ensemble: FuzzyEnsemble, cells: PackedGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, few = ensemble.predict(cells).accuracy, cells.take(np.arange(20))
    looked: list[int] = []
    compute = FuzzyEnsemble._compute
    monkeypatch.setattr(FuzzyEnsemble, "_compute", lambda self, of: (looked.append(len(of)), compute(self, of))[1])
    for scale in (1, 2):
        LatencyPredictor(ensemble).fit(few, scale * roofline(few)).predict(cells)
    assert looked == [20, 20]  # all cells were looked at when their accuracies were predicted
    assert ensemble.predict(cells).accuracy.tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("latency", "says"),
    [
        ([1.0, 2.0], "2 latencies for 3 networks"),
        ([1.0, float("nan"), 2.0], "latency 1 is nan ms"),
        ([1.0, 2.0, float("inf")], "latency 2 is inf ms"),
        ([0.0, 1.0, 2.0], "latency 0 is 0.0 ms"),
        ([1.0, 2.0, -3.0], "latency 2 is -3.0 ms"),
    ],
)
def test_what_is_no_latency_is_refused(
    ensemble: FuzzyEnsemble, cells: PackedGraphs, latency: list[float], says: str
) -> None:
    with pytest.raises(InvalidDataError, match=says):
        LatencyPredictor(ensemble).fit(cells.take(np.arange(3)), np.array(latency))


def test_nothing_is_known_without_measurements(ensemble: FuzzyEnsemble, cells: PackedGraphs) -> None:
    with pytest.raises(InvalidDataError, match="no latencies; measure some"):
        LatencyPredictor(ensemble).fit(pack([]), np.zeros(0))
    with pytest.raises(InvalidDataError, match=r"call fit\(graphs, milliseconds\)"):
        LatencyPredictor(ensemble).predict(cells)


def test_a_refused_fit_keeps_what_was_learnt(ensemble: FuzzyEnsemble, cells: PackedGraphs) -> None:
    few = cells.take(np.arange(9))
    head = LatencyPredictor(ensemble).fit(few, roofline(few))
    before = head.predict(few).milliseconds
    with pytest.raises(InvalidDataError):
        head.fit(few, -roofline(few))
    assert head.predict(few).milliseconds.tobytes() == before.tobytes()


def test_no_graphs_no_rows_and_an_empty_graph_is_refused(ensemble: FuzzyEnsemble, cells: PackedGraphs) -> None:
    head = LatencyPredictor(ensemble).fit(cells.take(np.arange(9)), roofline(cells)[:9])
    assert head.predict(pack([])).milliseconds.shape == (0,)
    empty = ComputationGraph(cells.nodes[:0], np.zeros(0), np.zeros((0, 2), np.int32))
    with pytest.raises(InvalidGraphError, match="graph 0 holds no nodes"):
        head.predict(pack([empty]))


# Its evaluation -------------------------------------------------------------------------------------------------------


def test_latency_figures_by_hand() -> None:
    found = latency_figures(np.array([1.0, 2.0, 4.0]), np.array([2.0, 1.0, 5.0]))
    # Ranks 1 2 3 against 2 1 3: 1 - 6 * 2 / (3 * 8). Errors of 1 ms are 100 %, 50 % and 25 %.
    assert found == pytest.approx({"srcc": 0.5, "mape": 175 / 3, "mae": 1.0})
    assert set(latency_figures(np.array([1.0, 2.0]), np.array([3.0, 9.0]), False)) == {"srcc"}


def write_networks(path: Path, name: str, columns: dict[str, list[float | None]]) -> None:
    space = family(name)
    genomes = np.unique(space.sample(np.random.default_rng(1), 60), axis=0)[: len(next(iter(columns.values())))]
    table = {"architecture": [json.dumps(space.encode(genome)) for genome in genomes], **columns}
    pd.DataFrame(table).to_csv(path, index=False)


def test_columns_of_a_file_share_graphs_unless_rows_are_left_out(tmp_path: Path) -> None:
    columns: dict[str, list[float | None]] = {name: [1.0, 2.0, 3.0, 4.0] for name in LATENCIES[LATENCY_FILE.file]}
    columns["titan_xp_32"] = [5.0, None, 0.0, 8.0]
    del columns["v100_64"]
    write_networks(tmp_path / LATENCY_FILE.file, "ofa_mbv3", {**columns, "other": [9.0] * 4})
    chosen = read_latencies(tmp_path)
    assert chosen is not None
    graphs = build_rows(chosen).graphs
    made = {rows.benchmark: rows for rows in latency_rows(chosen, graphs)}
    assert len(made) == 11
    whole, partly = made["latency:ofa_mbv3_latency:2080ti_1"], made["latency:ofa_mbv3_latency:titan_xp_32"]
    assert whole.graphs is graphs
    assert sorted(partly.accuracy) == [5, 8]
    assert len(partly.graphs) == 2
    kept = [whole.identity.index(name) for name in partly.identity]
    np.testing.assert_array_equal(flops(partly.graphs), flops(graphs)[kept])
    assert read_latencies(tmp_path / "elsewhere") is None


def test_files_of_accuracies_without_latencies_have_no_such_rows(tmp_path: Path) -> None:
    by_file = {benchmark.file: benchmark for benchmark in BENCHMARKS}
    write_networks(tmp_path / "proxylessnas.csv.gz", "proxylessnas", {"acc": [70.0, 71.0]})
    chosen = read_rows(tmp_path, by_file["proxylessnas.csv.gz"], ())
    assert latency_rows(chosen, build_rows(chosen).graphs) == []
    assert set(LATENCIES) <= {*by_file, LATENCY_FILE.file}


class _Constant(Predictor):
    """A predictor without an encoder to share."""

    sha256 = "1" * 64

    def predict(self, graphs: PackedGraphs) -> Prediction:
        return Prediction(np.zeros(len(graphs)), np.ones((len(graphs), 1)))


def test_heads_beside_powers_of_cost(tmp_path: Path, ensemble: FuzzyEnsemble) -> None:
    write_networks(tmp_path / LATENCY_FILE.file, "ofa_mbv3", {"2080ti_1": [float(i) for i in range(1, 41)]})
    chosen = read_latencies(tmp_path)
    assert chosen is not None
    graphs = build_rows(chosen).graphs
    (rows,) = latency_rows(chosen, graphs)
    rows.accuracy[:] = (1 + flops(graphs)) ** 0.5 / 1e4  # a power of FLOPs
    methods = latency_methods({"gennape": ensemble, "constant": _Constant()})
    assert [method.name for method in methods] == ["gennape_latency", "flops", "params"]
    outcome = measure(rows, methods, Plan(10, (0, 1)))
    found = {(m.method, m.seed): m for m in outcome.measurements}
    assert len(found) == 6
    assert {m.setting for m in found.values()} == {FINE_TUNED}
    assert {m.rows for m in found.values()} == {len(rows.accuracy) - 10}
    for seed in (0, 1):
        assert set(found["flops", seed].figures) == {"srcc", "mape", "mae"}
        assert found["flops", seed].figures == pytest.approx({"srcc": 1, "mape": 0, "mae": 0}, abs=1e-9)
        assert found["params", seed].figures["mape"] > 1
        assert found["gennape_latency", seed].figures["srcc"] > 0.95
        assert {"coverage_50", "coverage_90", "deviation", "crps"} <= set(found["gennape_latency", seed].figures)
    few = measure(rows, methods, Plan(len(rows.accuracy), (0,)))
    assert few.measurements == []


def test_a_costlier_network_is_taken_for_a_slower_one_whatever_labels_say(cells: PackedGraphs) -> None:
    everything, few = np.arange(len(cells)), np.arange(10)
    target = Target("nb101", cells, 1 / (1 + flops(cells)), {}, everything, few)
    (power,) = [method for method in latency_methods({}) if method.name == "flops"]
    found = power.scores(target, np.random.default_rng(0))
    np.testing.assert_array_equal(np.argsort(found, kind="stable"), np.argsort(flops(cells), kind="stable"))
    # Nothing but the level is left to learn: the geometric mean.
    np.testing.assert_allclose(found, np.exp(np.log(target.accuracy[few]).mean()), rtol=1e-4)


def test_a_cost_that_never_varies_predicts_the_mean_of_the_logarithms() -> None:
    """Ten equal networks measured 1, ..., 10 ms: nothing divides by zero, and the geometric mean is predicted."""
    space = family("nb201")
    graphs = space.graphs(np.tile(space.sample(np.random.default_rng(0), 1), (10, 1)))
    latency = np.arange(1, 11, dtype=np.float64)
    target = Target("nb201", graphs, latency, {}, np.array([9]), np.arange(9))
    (power,) = [method for method in latency_methods({}) if method.name == "flops"]
    found = power.scores(target, np.random.default_rng(0))
    np.testing.assert_allclose(found, np.exp(np.log(latency[:9]).mean()))
