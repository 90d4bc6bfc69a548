"""Tuning: what is tried, what is judged by, what goes on after a kill, and that ``pretrain`` and ``fit`` read it."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from typer.testing import CliRunner

from gennape.errors import ConfigError
from gennape.jobs import tune as verb
from gennape.jobs.cli import app
from gennape.platform.tracking import open_store
from gennape.platform.tuning import tuning_folder
from gennape.platform.tuning_trial import NAMES, RESULTS, Epochs, Settings, draw_settings, measure
from gennape.predictors.checkpoint import provenance_of
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.labels import read_labels, split

# MLflow's own loading of runs, on the release of SQLAlchemy that is installed.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "tune.md"
SMALL = ["--trials", "3", "--rows", "60", "--epochs", "2", "--pretrain-epochs", "1", "--rungs", "2", "--batch", "16"]
TIMEOUT_S = 240


@pytest.fixture
def labels(tmp_path, monkeypatch):
    """Sampled HiAML networks whose accuracy is made up of their number of parameters."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENNAPE_WORKSPACE", raising=False)
    return write_labels(tmp_path / "hiaml.csv", "hiaml", 160)


def write_labels(path, name, n):
    space = family(name)
    genomes = np.unique(space.sample(np.random.default_rng(0), n), axis=0)
    accuracy = np.random.default_rng(1).uniform(85, 95, len(genomes))
    architectures = [json.dumps(space.encode(genome)) for genome in genomes]
    pd.DataFrame({"architecture": architectures, "acc": accuracy}).to_csv(path, index=False)
    return path


def invoke(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result


# What is tried -------------------------------------------------------------------------------------------------------


def test_the_usual_settings_come_first_and_fewer_are_the_first_of_more():
    more = draw_settings(30, NAMES, np.random.default_rng(4))
    assert more[0] == Settings()
    assert more[:7] == draw_settings(7, NAMES, np.random.default_rng(4))
    assert all(len({asdict(settings)[name] for settings in more}) > 1 for name in NAMES)
    only = draw_settings(30, ["clusters"], np.random.default_rng(4))
    assert [settings.clusters for settings in only] == [settings.clusters for settings in more]
    assert {settings.hidden for settings in only} == {64}


def test_usual_settings_are_the_options_usual_values():
    import typer

    commands = typer.main.get_command(app).commands
    for name, options in Settings().options().items():
        usual = {parameter.name: parameter.default for parameter in commands[name].params}
        assert options == {option: usual[option] for option in options}


def test_a_part_of_the_epochs_is_at_least_one_of_each():
    assert Epochs(4, 24, 20, 20, 40).part(1 / 9) == Epochs(1, 3, 3, 3, 5)
    assert Epochs(4, 24, 20, 20, 40).part(1) == Epochs(4, 24, 20, 20, 40)


def test_rows_that_are_tested_on_take_no_part_and_judges_are_not_trained_on(labels):
    rows = verb._rows(labels, "hiaml", None, "hiaml", 1000, 0.0, 0)
    everything = read_labels(labels, family("hiaml"))
    part = split(everything)
    used = np.concatenate([rows.accuracy, rows.judges[1]])
    assert sorted(used) == sorted(everything.accuracy[part == 0])
    assert len(rows.judges[1]) == (part == 0).sum() // 5
    assert sorted(rows.held_out[1]) == sorted(everything.accuracy[part == 1])


def test_a_trial_gives_the_same_result_again(labels):
    rows = verb._rows(labels, "hiaml", None, "hiaml", 40, 0.0, 0)
    small = Settings(hidden=8, layers=1, embedding=4, clusters=2)
    first, second = (measure(small, rows, Epochs(1, 1, 1, 1, 1), 16, 0) for _ in range(2))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert -1 <= first["srcc"] <= 1


# With Ray Tune -------------------------------------------------------------------------------------------------------


@pytest.mark.cluster
def test_a_killed_tuning_goes_on_and_its_settings_are_read(tmp_path, monkeypatch):
    """The commands of the guide. The driver is killed once it has a result; what was measured is not measured again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENNAPE_WORKSPACE", raising=False)
    write_labels(tmp_path / "nb101.csv.gz", "nb101", 160)
    guide = [shlex.split(line)[1:] for line in GUIDE.read_text().split("```bash\n")[1].split("```")[0].splitlines()]
    out, folder = tmp_path / "tuned.json", tuning_folder(tmp_path / "tuned.json", tmp_path / "ws")
    arguments = [*guide[0], "--workspace", "ws", *SMALL]
    command = [sys.executable, "-m", "gennape", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        try:
            deadline = time.monotonic() + TIMEOUT_S
            while not list((folder / RESULTS).glob("[0-9]*.json")):  # a name with a dot is half written
                assert driver.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            below = psutil.Process(driver.pid).children(recursive=True)
            driver.kill()
            for child in below:
                with suppress(psutil.NoSuchProcess):
                    os.kill(child.pid, signal.SIGKILL)
    kept = {path.name: path.read_bytes() for path in (folder / RESULTS).glob("[0-9]*.json")}
    assert kept
    assert not out.exists()
    with pytest.raises(ConfigError, match=r"begun: epochs\.fit was 2, now 5\. Repeat"):
        invoke(*arguments, "--epochs", 5)

    result = invoke(*arguments)
    assert f"{len(kept)} of them before" in result.output
    assert {name: (folder / RESULTS / name).read_bytes() for name in kept} == kept
    with (tmp_path / "tuned.trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows if row["budget"] == "1"] == ["0", "1", "2"]
    whole = [row for row in rows if row["budget"] == "3"]
    best = max(whole, key=lambda row: float(row["srcc"]))
    settings = json.loads(out.read_bytes())
    assert {**settings["pretrain"], **settings["fit"]} == asdict(Settings()) | {
        name: type(value)(best[name]) for name, value in asdict(Settings()).items()
    }

    client, experiment = open_store(tmp_path / "ws")
    runs = client.search_runs([experiment])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["best.clusters"] == best["clusters"]
    assert parent.data.metrics["best_srcc"] == float(best["srcc"])
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"settings.json", "trials.csv"}
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.info.run_name for run in children) == ["trial-000", "trial-001", "trial-002"]

    follow = [shlex.split(line.partition(": ")[2]) for line in result.output.splitlines()[-2:]]
    smaller = {
        "pretrain": "--epochs 1 --batch 16 --hidden 8",
        "fit": "--epochs 1 --head-epochs 1 --pair-epochs 1 --k-gnn-epochs 1 --batch 16",
    }
    assert [options[1:] for options in follow] == guide[1:]
    for _, name, *options in follow:
        invoke(name, *options, *smaller[name].split())
    encoder = json.loads((tmp_path / "encoder" / "checkpoint.json").read_bytes())["config"]
    assert encoder["hidden"] == 8  # what is given counts before the file
    assert encoder["layers"] == settings["pretrain"]["layers"]
    assert provenance_of(tmp_path / "encoder")["pretrain"]["learning_rate"] == settings["pretrain"]["learning_rate"]
    checkpoint = json.loads((tmp_path / "checkpoint" / "checkpoint.json").read_bytes())
    assert checkpoint["config"]["clusters"] == settings["fit"]["clusters"]


# The file ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "says nothing of pretrain"),
        ('{"fit": {}}', "says nothing of pretrain"),
        ("{", "cannot read the settings"),
        ('{"pretrain": {"hiden": 3}}', "has no option 'hiden'"),
        ('{"pretrain": {"hidden": "wide"}}', "hidden is 'wide'"),
        ('{"pretrain": {"hidden": 1}}', "hidden is 1"),
        ('{"pretrain": {"config": "own"}}', "config is 'own'"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path, content, message):
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        invoke("pretrain", "--settings", path, "--out", tmp_path / "encoder")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--vary", "width"), "--vary takes config, hidden"),
        (("--judge-family", "nb201"), "Give --judge"),
        (("--minimum-accuracy", 94.9), r"rows to (train on|judge by)"),
    ],
)
def test_what_does_not_fit_together_is_refused(labels, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        invoke("tune", "--family", "hiaml", "--data", labels, "--out", tmp_path / "tuned.json", *arguments)
