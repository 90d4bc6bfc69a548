"""Limits of a search: what is read and refused, constrained dominance against brute force, and whole searches."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gennape.errors import ConfigError, WorkspaceError
from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.extension import extend
from gennape.platform.search.front import elites, front_of, hypervolume
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.limits import PENALTY, Limit, parse_limits, points_to_tell, violation
from gennape.platform.search.log import read_log
from gennape.platform.search.objectives import NAMES, minimised, parse_objectives
from gennape.platform.search.run_report import RunReport, read_front
from gennape.platform.search.runs import config_of, create_run, describe_run
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.search_spaces.families.registry import family

KNOWN = (*NAMES, "memory", "latency.npu")
TWO = parse_objectives("accuracy:max,flops:min")


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit", "written"),
    [
        ("flops<=600e6", Limit("flops", "<=", 6e8), "flops<=600000000"),
        (" accuracy >= 75.5 ", Limit("accuracy", ">=", 75.5), "accuracy>=75.5"),
        ("latency.npu<=5", Limit("latency.npu", "<=", 5.0), "latency.npu<=5"),
        ("memory<=1_000", Limit("memory", "<=", 1000.0), "memory<=1000"),
    ],
)
def test_limits_are_read_and_written_alike(text, limit, written):
    (read,) = parse_limits([text], KNOWN)
    assert (read, str(read)) == (limit, written)
    assert parse_limits([written], KNOWN) == (read,)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["flops<600e6"], "cannot read the limit 'flops<600e6'; write a measure, <= or >=, and a number"),
        (["flops<=lots"], "cannot read the limit 'flops<=lots'"),
        (["flops<=1.2.3"], r"cannot read the limit 'flops<=1\.2\.3'"),
        (["flops<=1e999"], "cannot read the limit"),
        ([""], "cannot read the limit ''"),
        (["flop<=6"], "unknown measure 'flop' in the limit 'flop<=6'; known are accuracy.*did you mean flops"),
        (["latency.gpu<=6"], "unknown measure 'latency.gpu'"),
        (["flops>=1e9", "flops<=1e8"], "no network can keep both flops>=1000000000 and flops<=100000000"),
        (["accuracy>=101"], "no network can keep accuracy>=101: accuracy is always from 0 to 100"),
        (["accuracy<=-1"], "no network can keep accuracy<=-1"),
        (["params<=-1"], "params is always at least 0"),
        (["latency.npu<=-1"], r"latency\.npu is always at least 0"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(texts, says):
    with pytest.raises(ConfigError, match=says):
        parse_limits(texts, KNOWN)


def test_settings_keep_limits_in_one_spelling_and_through_json():
    config = search_config(space="hiaml", constraints=["flops <= 600e6", "flops<=6e8", "memory<=1e6"])
    assert config.constraints == ("flops<=600000000", "memory<=1000000")
    assert config.measures == ("memory",)
    assert search_config(**config.model_dump(mode="json")) == config
    with pytest.raises(ConfigError, match="unknown measure 'latency'"):
        search_config(space="hiaml", constraints=["latency<=3"])


# Dominance ------------------------------------------------------------------------------------------------------------


def test_violation_by_hand():
    values = np.array([[80.0, 150, 75, 10], [60, 90, 45, 10], [math.nan, 90, 45, 10]])
    limits = parse_limits(["flops<=100", "accuracy>=75"])
    # 150 is half of 100 beyond 100; 60 is a fifth of 75 below 75
    np.testing.assert_allclose(violation(values, limits), [0.5, 0.2, math.nan])
    assert violation(values, ()).tolist() == [0, 0, 0]
    np.testing.assert_allclose(violation(values[:1], parse_limits(["params<=0"])), [10])


def constrained_dominates(a, b, beyond_a, beyond_b):
    """Deb et al., 2002, by its definition."""
    if beyond_a == 0 and beyond_b == 0:
        return (a <= b).all() and (a < b).any()
    return beyond_a < beyond_b


VALUES = st.integers(1, 25).flatmap(lambda n: hnp.arrays(np.float64, (n, 4), elements=st.integers(0, 9).map(float)))


@settings(max_examples=80, deadline=None)
@given(VALUES, st.integers(0, 9), st.integers(0, 9))
def test_plain_dominance_of_what_is_told_is_constrained_dominance(values, most, least):
    limits = (Limit("flops", "<=", most), Limit("accuracy", ">=", least))
    told, plain = points_to_tell(values, TWO, limits), minimised(values, TWO)
    beyond = [
        max(row[1] - most, 0) / (most or 1) + max(least - row[0], 0) / (least or 1) for row in values
    ]  # by the definition, without numpy
    for i in range(len(values)):
        for j in range(len(values)):
            plainly = (told[i] <= told[j]).all() and (told[i] < told[j]).any()
            assert plainly == constrained_dominates(plain[i], plain[j], beyond[i], beyond[j])
    assert np.isfinite(told).all()
    assert (told[np.array(beyond) > 0] >= PENALTY).all()


def test_huge_violations_stay_finite():
    values = np.array([[1e-300, 2.0**62, 1, 1], [50, 1, 1, 1]])
    told = points_to_tell(values, TWO, (Limit("flops", "<=", 1e-300),))
    assert np.isfinite(told).all()
    assert (told**2).max() < np.inf


# Searches -------------------------------------------------------------------------------------------------------------


def small(**given):
    usual = {"space": "hiaml", "evaluations": 150, "population": 20, "migration_every": 2, "migrants": 3, "seed": 1}
    return search_config(**usual | given)


def run(config, folder, on_generation=lambda _: None):
    folder.mkdir(exist_ok=True)
    return run_search(config, folder, LocalIslands(config, SyntheticPredictor()), on_generation)


@pytest.fixture(scope="module")
def median():
    """A count of FLOPs that about a tenth of hiaml's networks keep."""
    from gennape.search_spaces.graphs.cost import flops

    space = family("hiaml")
    return float(np.quantile(flops(space.graphs(space.sample(np.random.default_rng(0), 200))), 0.1))


@pytest.mark.parametrize("searcher", ["nsga2", "random"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_fronts_keep_the_limits_and_are_the_best_of_what_was_seen(tmp_path, median, searcher, asynchronous):
    config = small(constraints=[f"flops<={median}"], searcher=searcher, asynchronous=asynchronous)
    result = run(config, tmp_path / "run")
    seen = result.evaluations
    kept = seen[seen["flops"] <= median]
    best = kept[
        ~kept.apply(
            lambda r: (
                (kept.accuracy >= r.accuracy)
                & (kept.flops <= r.flops)
                & ((kept.accuracy > r.accuracy) | (kept.flops < r.flops))
            ).any(),
            axis=1,
        )
    ]
    assert set(result.front["hash"]) <= set(kept["hash"])
    assert set(map(tuple, result.front[["accuracy", "flops"]].to_numpy())) == set(
        map(tuple, best[["accuracy", "flops"]].to_numpy())
    )
    assert (seen["violation"] > 0).tolist() == (seen["flops"] > median).tolist()


def test_a_search_with_limits_looks_more_where_they_are_kept(tmp_path, median):
    free = run(small(islands=1, evaluations=300), tmp_path / "free").evaluations["flops"]
    kept = run(small(islands=1, evaluations=300, constraints=[f"flops<={median}"]), tmp_path / "kept")
    assert (kept.evaluations["flops"] <= median).sum() > 1.5 * (free <= median).sum()


def test_limits_survive_interruption_and_extension(tmp_path, median):
    class _Stop(Exception):
        pass

    def stop(record):
        if record.generation == 1:
            raise _Stop

    config = small(constraints=[f"flops<={median}", "memory<=1e9"])
    whole = run(config, tmp_path / "whole")
    with pytest.raises(_Stop):
        run(config, tmp_path / "cut", stop)
    resumed = run(config, tmp_path / "cut")
    pd.testing.assert_frame_equal(resumed.evaluations, whole.evaluations)
    pd.testing.assert_frame_equal(resumed.front, whole.front)

    folder = create_run(tmp_path, "hiaml", 1)
    describe_run(folder, config.model_copy(update={"evaluations": 90}))
    run(config_of(folder), folder)
    extend(folder, 150)
    assert config_of(folder) == config
    extended = run(config_of(folder), folder)
    pd.testing.assert_frame_equal(extended.evaluations, whole.evaluations)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_where_nothing_is_within_the_limits_this_is_said(tmp_path, asynchronous):
    config = small(constraints=["flops<=1000", "accuracy>=1"], asynchronous=asynchronous, evaluations=80)
    folder = create_run(tmp_path, "hiaml", 1)
    describe_run(folder, config)
    records = []
    result = run(config, folder, records.append)
    least = (result.evaluations["flops"].min() - 1000) / 1000
    assert len(result.front) == 0
    assert result.hypervolume == 0
    assert records[-1].violation == pytest.approx(least)
    assert records[-1].metrics()["violation"] == pytest.approx(least)
    assert records[-1].best_accuracy == -math.inf
    assert "no network on the front" in repr(result)
    with pytest.raises(ConfigError, match="front is empty: no network is within the limits"):
        result.best()
    with pytest.raises(WorkspaceError, match=r"none of 80 networks is within flops<=1000, accuracy>=1; the nearest is"):
        read_front(folder)
    RunReport(folder, config).complete(result.front)
    assert list(pd.read_csv(folder / "report" / "front.csv").columns) == list(result.front.columns)
    assert len(pd.read_parquet(folder / "report" / "evaluations.parquet")) == 80


def test_a_run_that_began_before_there_were_limits_goes_on(tmp_path):
    """Its shards have no violation, and its settings none of limits and measures."""

    class _Stop(Exception):
        pass

    def stop(record):
        if record.generation == 1:
            raise _Stop

    whole = run(small(), tmp_path / "whole")
    folder = create_run(tmp_path, "hiaml", 1)
    describe_run(folder, small())
    with pytest.raises(_Stop):
        run(small(), folder, stop)
    stored = json.loads((folder / "config.json").read_text())
    later = [
        *("constraints", "measures", "measures_from", "heads", "heads_from", "heads_sha256", "fixed"),
        *("starts", "starts_from"),
    ]
    for name in later:
        del stored["search"][name]
        del stored["digests"][name]
    (folder / "config.json").write_text(json.dumps(stored))
    for path in (folder / "evaluations").iterdir():
        pd.read_parquet(path).drop(columns="violation").to_parquet(path, index=False)
    config = config_of(folder)
    assert config == small()
    resumed = run(config, folder)
    pd.testing.assert_frame_equal(resumed.evaluations, whole.evaluations)
    pd.testing.assert_frame_equal(resumed.front, whole.front)


def test_runs_without_limits_have_no_violation(tmp_path):
    records = []
    result = run(small(evaluations=60), tmp_path / "run", records.append)
    assert records[-1].violation is None
    assert "violation" not in records[-1].metrics()
    assert (result.evaluations["violation"] == 0).all()


def test_elites_are_within_the_limits(tmp_path):
    log_of = run(small(evaluations=60), tmp_path / "run")
    rows = read_log(log_of.folder, 4)
    beyond = dataclasses.replace(rows, violation=np.where(np.arange(len(rows)) % 2, 0.0, 1.0))
    assert (elites(beyond, TWO, 5).violation == 0).all()
    nowhere = dataclasses.replace(rows, violation=np.ones(len(rows)))
    assert len(elites(nowhere, TWO, 5)) == 0
    assert hypervolume(front_of(nowhere, TWO), TWO, np.zeros(2)) == 0
