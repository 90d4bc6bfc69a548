"""Measures of a search: memory, one's own, and those learnt from a table; and costs that no network reaches."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from gennape.errors import (
    CheckpointError,
    ConfigError,
    ConformanceError,
    InvalidDataError,
    ServiceError,
    WorkspaceError,
)
from gennape.platform.search.config import require_measures, search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.learnt import (
    FILE,
    MIN_NETWORKS,
    learn,
    parse_source,
    read_learnt,
    read_source,
    settings_of,
    split_sources,
    write_learnt,
)
from gennape.platform.search.log import read_log
from gennape.platform.search.measures import REGISTRY, Measure, register_measure
from gennape.platform.search.reachable import refuse_unreachable
from gennape.platform.search.registration import register
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.platform.serving.answers import answer_sets, joined
from gennape.platform.serving.replica import LoadForSearch
from gennape.predictors.model.checkpoint import load_checkpoint
from gennape.predictors.model.heads import unpack_heads
from gennape.predictors.model.latency import LatencyPredictor
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.graphs.cost import flops, params
from gennape.search_spaces.graphs.memory import peak_memory

SPACE = family("hiaml")


@pytest.fixture(scope="module")
def ensemble():
    return load_checkpoint()


@pytest.fixture
def own_measures():
    """Leave no measure behind."""
    before = dict(REGISTRY._own)
    yield
    REGISTRY._own.clear()
    REGISTRY._own.update(before)


def milliseconds(graphs):
    """Of a device made up here."""
    return 0.5 + flops(graphs) / 1e8 + params(graphs) / 1e6


def table(path, n=30, seed=5, **columns):
    genomes = SPACE.sample(np.random.default_rng(seed), 2 * n)
    _, first = np.unique(genomes, axis=0, return_index=True)
    genomes = genomes[np.sort(first)][:n]
    rows = pd.DataFrame({"architecture": [json.dumps(SPACE.encode(genome)) for genome in genomes]})
    rows["npu"] = milliseconds(SPACE.graphs(genomes))
    rows.assign(**columns).to_csv(path, index=False)
    return path


def small(**given):
    return search_config(**{"space": "hiaml", "evaluations": 80, "population": 20, "seed": 1} | given)


def run(config, folder, evaluator=None):
    folder.mkdir(exist_ok=True)
    return run_search(config, folder, LocalIslands(config, evaluator or SyntheticPredictor()))


# Memory and own measures ----------------------------------------------------------------------------------------------


def test_memory_is_recorded_where_it_is_asked_for(tmp_path):
    plain = run(small(), tmp_path / "plain").evaluations
    assert "memory" not in plain
    for name, given in (("o", {"objectives": "accuracy:max,memory:min"}), ("m", {"measures": ["memory"]})):
        result = run(small(**given), tmp_path / name)
        graphs = SPACE.graphs(np.stack([SPACE.decode(json.loads(text)) for text in result.front["architecture"]]))
        assert result.front["memory"].tolist() == peak_memory(graphs).tolist()
        assert list(result.front.columns) == [
            *("index", "architecture", "accuracy", "deviation", "flops", "macs", "params", "memory", "hash")
        ]  # fmt: skip
        assert result.evaluations["memory"].dtype == np.int64
        assert read_log(result.folder, 4).names == ("accuracy", "flops", "macs", "params", "memory")
    assert (
        run(small(measures=["memory"]), tmp_path / "again").front["hash"].tolist()
        == run(small(), tmp_path / "plain2").front["hash"].tolist()
    )


class Energy(Measure):
    """Made up."""

    name = "energy"
    unit = "mJ"

    def values(self, graphs):
        return params(graphs) / 1e5


@pytest.mark.usefixtures("own_measures")
def test_own_measures_are_objectives_and_limits(tmp_path):
    with pytest.raises(ConfigError, match="unknown objective 'energy'"):
        small(objectives="accuracy:max,energy:min")
    assert register(Energy).name == "energy"
    config = small(objectives="accuracy:max,energy:min", constraints=["energy<=40"], measures_from=("m.py:Energy",))
    assert config.measures == ("energy",)
    result = run(config, tmp_path / "run")
    np.testing.assert_allclose(result.front["energy"], result.front["params"] / 1e5)
    assert (result.evaluations["violation"] > 0).tolist() == (result.evaluations["energy"] > 40).tolist()
    require_measures(config)
    REGISTRY._own.clear()
    stored = search_config(**config.model_dump(mode="json"))  # a run can be read without the measure ...
    assert stored == config
    with pytest.raises(ConfigError, match=r"'energy' of this search is your own; .* --measure m\.py:Energy"):
        require_measures(stored)  # ... but not go on


def _own(**members):
    return type("Own", (Measure,), {"name": "own", "unit": "", **members})


@pytest.mark.usefixtures("own_measures")
@pytest.mark.parametrize(
    ("kind", "error", "says"),
    [
        (_own(values=lambda _, graphs: np.full(len(graphs), np.nan)), ConformanceError, "must be finite"),
        (_own(values=lambda _, graphs: np.arange(len(graphs))), ConformanceError, "must not depend on the others"),
        (_own(values=lambda *_: 3.0), ConformanceError, r"numbers of shape \[\] for 4 networks"),
        (_own(values=lambda *_: 1 / 0), ConformanceError, "'own' fails: ZeroDivisionError"),
        (_own(name="a b", values=lambda *_: 1), ConformanceError, "name is 'a b'"),
        (_own(unit=3, values=lambda *_: 1), ConformanceError, "unit is 3"),
        (_own(name="flops", values=lambda _, graphs: flops(graphs)), ConfigError, "'flops' ships with gennape"),
        (_own(name="state", values=lambda _, graphs: flops(graphs)), ConfigError, "'state' is in every run"),
        (object, ConformanceError, "is no measure"),
    ],
)
def test_ill_made_measures_are_refused(kind, error, says):
    with pytest.raises(error, match=says):
        register_measure(kind)


@pytest.mark.usefixtures("own_measures")
def test_networks_that_cannot_be_measured_are_never_on_the_front(tmp_path):
    class Some(Energy):
        name = "some"

        def values(self, graphs):
            return np.where(params(graphs) // 1000 % 3 > 0, params(graphs) / 1e5, np.nan)

    REGISTRY.take([Some()])
    result = run(small(objectives="accuracy:max,some:min"), tmp_path / "run")
    seen = result.evaluations
    assert seen["some"].isna().any()
    assert (seen["state"] == "INFEASIBLE").tolist() == seen["some"].isna().tolist()
    assert np.isfinite(result.front["some"]).all()

    class Nothing(Energy):
        name = "nothing"

        def values(self, graphs):
            return np.full(len(graphs), np.inf)

    REGISTRY.take([Nothing()])
    with pytest.raises(ServiceError, match="nothing is no finite number for any"):
        run(small(objectives="accuracy:max,nothing:min"), tmp_path / "none")


# Learnt measures ------------------------------------------------------------------------------------------------------


def test_latency_is_learnt_stored_and_searched_for(tmp_path, ensemble):
    given, sources = split_sources(
        {
            "space": "hiaml", "latency": [f"npu={table(tmp_path / 'npu.csv')}"], "evaluations": 60, "population": 15,
            "measures": ["memory", f"watts={table(tmp_path / 'w.csv.gz', power=np.arange(30) + 1.5)}:power"],
            "objectives": "accuracy:max,latency.npu:min", "constraints": ["latency.npu<=6"],
        }
    )  # fmt: skip
    assert [source.name for source in sources] == ["latency.npu", "watts"]
    learnt = learn(sources, SPACE, ensemble)
    assert learnt == learn(sources, SPACE, ensemble)
    config = search_config(**given, **settings_of(sources, learnt))
    assert config.measures == ("memory", "latency.npu", "watts")
    folder = tmp_path / "run"
    folder.mkdir()
    write_learnt(folder, learnt)
    for path in tmp_path.glob("*.csv*"):
        path.unlink()  # never read again
    predictor = LoadForSearch(read_learnt(folder, config))(None)
    result = run(config, folder, predictor)
    graphs = SPACE.graphs(np.stack([SPACE.decode(json.loads(text)) for text in result.evaluations["architecture"]]))
    error = np.abs(result.evaluations["latency.npu"] / milliseconds(graphs) - 1)
    assert error.median() < 0.05
    assert len(result.front) > 1
    assert (result.front["latency.npu"] <= 6).all()
    # what is predicted is what a head says alone, and the accuracies are those of the ensemble
    alone = LatencyPredictor.restored(ensemble, predictor.heads["latency.npu"].state()).predict(graphs)
    assert result.evaluations["latency.npu"].tolist() == alone.milliseconds.tolist()
    assert result.evaluations["accuracy"].tolist() == ensemble.predict(graphs).accuracy.tolist()

    (folder / FILE).write_bytes(learnt[:-1] + b"\1")
    with pytest.raises(WorkspaceError, match=r"heads\.safetensors is not what the search began with"):
        read_learnt(folder, config)
    (folder / FILE).unlink()
    with pytest.raises(WorkspaceError, match=r"cannot read .*heads\.safetensors"):
        read_learnt(folder, config)
    with pytest.raises(CheckpointError, match="cannot be read"):
        unpack_heads(ensemble, b"nothing")


def test_heads_are_served_in_batches_of_requests(tmp_path, ensemble):
    source = parse_source(f"npu={table(tmp_path / 'npu.csv')}", "latency.")
    predictor = unpack_heads(ensemble, learn([source], SPACE, ensemble))
    sets = [SPACE.graphs(SPACE.sample(np.random.default_rng(seed), 3)) for seed in range(2)]
    answers = answer_sets(predictor, sets)
    whole = joined(answers)
    expected = [predictor.predict(graphs).heads["latency.npu"] for graphs in sets]
    assert whole.heads["latency.npu"].tolist() == np.concatenate(expected).tolist()
    assert joined(answer_sets(ensemble, sets)).heads is None
    with pytest.raises(ServiceError, match=r"says nothing of latency\.npu"):
        run(small(heads=["latency.npu"]), tmp_path / "run", ensemble)


def _edited(path, edit):
    rows = pd.read_csv(path)
    edit(rows).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda rows: rows.assign(npu=rows["npu"].where(rows.index != 4)), "mend: 1; .*row 5: npu is 'nan'"),
        (lambda rows: rows.assign(npu=rows["npu"].where(rows.index != 4, -1.0)), "row 5: npu is -1; must be above 0"),
        (lambda rows: pd.concat([rows, rows[2:3]]), "row 31 is the same architecture as row 3; keep one row"),
        (lambda rows: rows[: MIN_NETWORKS - 1], f"holds {MIN_NETWORKS - 1} measured networks; .* needs {MIN_NETWORKS}"),
        (lambda rows: rows.assign(architecture='["?"]'), "holds no architecture of hiaml .*row 1: "),
        (
            lambda rows: rows.assign(architecture=rows["architecture"].where(rows.index != 7, "x")),
            "mend: 1; .*row 8: hiaml",
        ),
        (
            lambda rows: rows.rename(columns={"npu": "gpu"}),
            "has no column 'npu'; its columns of numbers are gpu. Name one",
        ),
        (lambda rows: rows.rename(columns={"architecture": "net"}), "needs a column 'architecture'"),
    ],
)
def test_tables_that_cannot_be_learnt_from_are_refused(tmp_path, edit, says):
    path = table(tmp_path / "npu.csv")
    _edited(path, edit)
    with pytest.raises((InvalidDataError, ConfigError), match=says):
        read_source(parse_source(f"npu={path}", "latency."), SPACE)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("npu", "cannot read 'npu'; write a name"),
        ("=x.csv", "cannot read '=x.csv'"),
        ("a.b=x.csv", "cannot read"),
        ("npu=absent.csv", r"npu=absent\.csv: absent\.csv does not exist"),
        ("npu=.", "is no file"),
    ],
)
def test_sources_that_cannot_be_meant_are_refused(text, says):
    with pytest.raises(ConfigError, match=says):
        parse_source(text, "latency.")


def test_names_of_learnt_measures_are_their_own(tmp_path):
    path = table(tmp_path / "npu.csv")
    with pytest.raises(ConfigError, match="'memory' is there already"):
        parse_source(f"memory={path}")
    twice = [parse_source(f"npu={path}"), parse_source(f"npu={path}:npu")]
    assert [source.column for source in twice] == ["", "npu"]
    with pytest.raises(ConfigError, match="npu is given more than once"):
        settings_of(twice, b"")


# Costs that no network reaches ----------------------------------------------------------------------------------------


def _ends(space):
    """The least and the most FLOPs among many networks; of hiaml and nb201 among all of one block."""
    genomes = space.sample(np.random.default_rng(3), 300)
    found = flops(space.graphs(genomes))
    return int(found.min()), int(found.max())


@pytest.mark.parametrize("name", ["hiaml", "nb201", "nb101", "ofa_resnet"])
def test_limits_beyond_the_ends_are_refused_and_others_are_not(name):
    space = family(name)
    least, most = _ends(space)
    for kept in (f"flops<={least}", f"flops>={most}", f"macs<={least // 2 + 1}"):
        refuse_unreachable(search_config(space=name, constraints=[kept]), space)
    with pytest.raises(
        ConfigError, match=rf"no network of {name} keeps flops<=1000: the smallest flops found is \d+\."
    ):
        refuse_unreachable(search_config(space=name, constraints=["flops<=1000"]), space)
    with pytest.raises(ConfigError, match=r"the largest memory found is \d+\. Lower this limit"):
        refuse_unreachable(search_config(space=name, constraints=["memory>=1e12"]), space)


def test_the_ends_of_a_small_space_are_found_exactly():
    space = family("nb201")
    every = np.stack(np.meshgrid(*[np.arange(5)] * 6, indexing="ij"), -1).reshape(-1, 6)
    some = every[(every == every[:, :1]).sum(1) >= 5]  # the ends are among networks with nearly one operation
    costs = params(space.graphs(some))
    for sign, bound in (("<=", costs.min()), (">=", costs.max())):
        refuse_unreachable(search_config(space="nb201", constraints=[f"params{sign}{bound}"]), space)
        beyond = bound - 1 if sign == "<=" else bound + 1
        with pytest.raises(ConfigError, match=f"found is {bound}"):
            refuse_unreachable(search_config(space="nb201", constraints=[f"params{sign}{beyond}"]), space)


def test_every_family_is_checked_in_little_time():
    for space in FAMILIES:
        config = search_config(space=space.name, constraints=["params>=1", "accuracy>=1"])
        refuse_unreachable(config, space)
