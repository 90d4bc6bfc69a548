"""Limits, learnt and own measures, parts of spaces and starts, as ``gennape search`` takes them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import search_without_services
import typer
from typer.testing import CliRunner

import gennape.predictors.model.checkpoint
from gennape.errors import ConfigError, InvalidDataError
from gennape.jobs.search import search
from gennape.jobs.shared.own_code import own_sources, there
from gennape.jobs.submit import refuse_unparsable
from gennape.platform.search.measures import REGISTRY
from gennape.platform.search.runs import config_of, list_runs
from gennape.predictors.model.checkpoint import load_checkpoint
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.cost import flops, params

SMALL = ["--space", "hiaml", "--evaluations", "120", "--population", "20"]
SPACE = family("hiaml")
OWN = """
import gennape as gp

class Energy(gp.Measure):
    name = "energy"
    unit = "mJ"

    def values(self, graphs):
        return gp.params(graphs) / 1e5
"""

app = typer.Typer()
app.command("search")(search)
app.command("other")(lambda: None)


@pytest.fixture
def tracker(monkeypatch):
    tracker = search_without_services._Tracker()
    search_without_services.replace(monkeypatch.setattr, "inline", 0, tracker)
    return tracker


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    yield f"{tmp_path / 'own.py'}:Energy"
    REGISTRY._own.pop("energy", None)


@pytest.fixture
def measured(tmp_path):
    genomes = np.unique(SPACE.sample(np.random.default_rng(5), 40), axis=0)
    graphs = SPACE.graphs(genomes)
    rows = pd.DataFrame({"architecture": [json.dumps(SPACE.encode(genome)) for genome in genomes]})
    rows.assign(npu=0.5 + flops(graphs) / 1e8 + params(graphs) / 1e6).to_csv(tmp_path / "measured.csv", index=False)
    return tmp_path / "measured.csv"


def call(workspace, *arguments):
    result = CliRunner().invoke(app, ["search", *map(str, arguments), "--workspace", str(workspace)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def front_of(workspace):
    (run,) = list_runs(workspace)
    return pd.read_csv(run / "report" / "front.csv")


@pytest.mark.usefixtures("tracker")
def test_limits_are_kept_and_stay_those_of_the_run(tmp_path):
    result = call(tmp_path, *SMALL, "--constraint", "flops<=2e8", "--constraint", "memory <= 300_000")
    front = front_of(tmp_path)
    assert (front["flops"] <= 2e8).all()
    assert (front["memory"] <= 300_000).all()
    assert list(front.columns)[:4] == ["index", "architecture", "accuracy", "deviation"]
    assert "memory" in result.output
    call(
        tmp_path,
        "--resume",
        "latest",
        "--evaluations",
        "140",
        "--constraint",
        "flops<=2e8",
        "--constraint",
        "memory<=3e5",
    )
    with pytest.raises(ConfigError, match=r"constraints is \('flops<=200000000', .*got \('flops<=1000000',\)"):
        call(tmp_path, "--resume", "latest", "--evaluations", "160", "--constraint", "flops<=1e6")


@pytest.mark.usefixtures("tracker")
def test_where_nothing_is_within_the_limits_the_summary_says_so(tmp_path):
    result = call(tmp_path, *SMALL, "--constraint", "accuracy>=99.99")
    assert "none of 120 networks is within accuracy>=99.99; the nearest is" in result.output
    assert "none within the limits, the nearest is" in result.output  # while it ran
    assert len(front_of(tmp_path)) == 0


@pytest.mark.usefixtures("tracker")
@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["--constraint", "speed<=3"], ConfigError, "unknown measure 'speed'"),
        (["--constraint", "flops<3"], ConfigError, "cannot read the limit"),
        (["--constraint", "flops<=1e8", "--constraint", "flops>=1e9"], ConfigError, "no network can keep both"),
        (
            ["--constraint", "flops<=100"],
            ConfigError,
            r"no network of hiaml keeps flops<=100: the smallest flops found",
        ),
        (["--fix", "depth=3"], ConfigError, "hiaml has no gene 'depth'"),
        (["--fix", "block*=hiaml_q"], ConfigError, "no gene has the value hiaml_q"),
        (["--subspace", "absent.json"], ConfigError, r"absent\.json does not exist"),
        (["--start", "absent.csv"], InvalidDataError, r"absent\.csv does not exist"),
        (["--latency", "npu"], ConfigError, "cannot read 'npu'"),
        (["--latency", "npu=absent.csv"], ConfigError, r"absent\.csv does not exist"),
        (["--measure", "speed"], ConfigError, "unknown measure 'speed'; known are accuracy"),
        (["--fix", "block of stage 1=hiaml_z", "--constraint", "params>=1e9"], ConfigError, "largest params found"),
    ],
)
def test_what_cannot_be_meant_ends_before_anything_is_made(tmp_path, arguments, error, says):
    with pytest.raises(error, match=says):
        call(tmp_path, *SMALL, *arguments)
    assert list_runs(tmp_path) == []


@pytest.mark.usefixtures("tracker")
def test_a_table_that_cannot_be_learnt_from_ends_before_anything_is_made(tmp_path, measured):
    rows = pd.read_csv(measured)
    pd.concat([rows, rows[:1]]).to_csv(measured, index=False)
    with pytest.raises(InvalidDataError, match=f"row {len(rows) + 1} is the same architecture as row 1"):
        call(tmp_path / "w", *SMALL, "--latency", f"npu={measured}")
    assert list_runs(tmp_path / "w") == []


@pytest.mark.usefixtures("tracker")
def test_latencies_and_own_measures_are_searched_for(tmp_path, monkeypatch, measured, own):
    monkeypatch.setattr(gennape.predictors.model.checkpoint, "load_checkpoint", load_checkpoint)
    objectives = "accuracy:max,latency.npu:min,energy:min"
    learnt = ["--latency", f"npu={measured}", "--measure", f"watts={measured}:npu", "--measure", own]
    call(tmp_path / "w", *SMALL, "--local", *learnt, "--measure", "memory", "--objectives", objectives)
    front = front_of(tmp_path / "w")
    assert list(front.columns)[7:] == ["energy", "memory", "latency.npu", "watts", "hash"]
    np.testing.assert_allclose(front["energy"], front["params"] / 1e5)
    assert front["watts"].tolist() == front["latency.npu"].tolist()  # learnt from one column
    (run,) = list_runs(tmp_path / "w")
    config = config_of(run)
    assert config.measures_from == (own,)
    assert config.heads_from == (f"latency.npu={measured}", f"watts={measured}:npu")
    measured.rename(tmp_path / "gone.csv")
    with pytest.raises(ConfigError, match=r"keeps what it has learnt, from latency\.npu=.*; leave out latency\.gpu=x"):
        call(tmp_path / "w", "--local", "--resume", "latest", "--evaluations", "140", "--latency", "gpu=x")
    REGISTRY._own.clear()
    with pytest.raises(ConfigError, match=r"'energy' of this search is your own; .*--measure"):
        call(tmp_path / "w", "--local", "--resume", "latest", "--evaluations", "140")
    resumed = call(tmp_path / "w", "--local", "--resume", "latest", "--evaluations", "140", "--measure", own)
    assert len(pd.read_parquet(run / "report" / "evaluations.parquet")) == 140
    assert resumed.exit_code == 0


@pytest.mark.usefixtures("tracker")
def test_parts_of_spaces_and_starts(tmp_path):
    (tmp_path / "part.json").write_text(json.dumps({"block of stage 1": ["hiaml_z", "hiaml_a22"]}))
    given = ["--subspace", tmp_path / "part.json", "--fix", "block of stage 2=hiaml_z"]
    result = call(tmp_path / "a", *SMALL, *given)
    assert "2 x" not in result.output
    assert "searching Subspace('hiaml' with block of stage 1=hiaml_z,hiaml_a22, block of stage 2=hiaml_z: 392 of" in (
        result.output
    )
    (run,) = list_runs(tmp_path / "a")
    seen = [json.loads(text) for text in pd.read_parquet(run / "report" / "evaluations.parquet")["architecture"]]
    assert {one[0] for one in seen} == {"hiaml_z", "hiaml_a22"}
    assert {one[1] for one in seen} == {"hiaml_z"}
    call(tmp_path / "a", "--resume", run.name, "--evaluations", "130", *given)
    with pytest.raises(ConfigError, match="fixed is "):
        call(tmp_path / "a", "--resume", run.name, "--evaluations", "150", "--fix", "block of stage 2=hiaml_z")

    start = run / "report" / "front.csv"
    call(tmp_path / "b", *SMALL, "--start", start)
    (begun,) = list_runs(tmp_path / "b")
    rows = pd.read_parquet(begun / "report" / "evaluations.parquet")
    assert set(pd.read_csv(start)["architecture"]) <= set(rows[rows["generation"] == 0]["architecture"])
    assert config_of(begun).starts_from == str(start)
    call(tmp_path / "b", "--resume", begun.name, "--evaluations", "130", "--start", start)
    with pytest.raises(ConfigError, match="starts_from is "):
        call(tmp_path / "b", "--resume", begun.name, "--evaluations", "150", "--start", "other.csv")


def test_a_job_is_sent_the_files_that_its_options_name(tmp_path, own, measured):
    (tmp_path / "part.json").write_text("{}")
    verb = ["search", *SMALL, "--latency", f"npu={measured}:npu", "--measure", f"watts={measured}", "--measure", own,
            f"--subspace={tmp_path / 'part.json'}", "--start", str(measured)]  # fmt: skip
    verbs = typer.main.get_command(app).commands
    refuse_unparsable(verb, verbs)
    assert own_sources(verb) == sorted([measured, tmp_path / "own.py", tmp_path / "part.json"])
    assert there(verb)[6:] == [
        *("search", *SMALL)[6:], "--latency", "npu=measured.csv:npu", "--measure", "watts=measured.csv",
        "--measure", "own.py:Energy", "--subspace=part.json", "--start", "measured.csv",
    ]  # fmt: skip
