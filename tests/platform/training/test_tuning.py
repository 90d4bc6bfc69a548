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
from contextlib import nullcontext, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
from typer.testing import CliRunner

from gennape.errors import ConfigError, InvalidDataError, WorkspaceError
from gennape.jobs import tune as verb
from gennape.jobs.cli import app
from gennape.platform.tracking.tracker import open_store
from gennape.platform.training import tuning
from gennape.platform.training.settings import RESULTS, Epochs, Settings, TuningStudy
from gennape.platform.training.trial import CONFIG, NAMES, draw_settings, measure
from gennape.platform.training.tuning import tuning_folder
from gennape.predictors.encoder import pretraining
from gennape.predictors.model.checkpoint import provenance_of
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.labels.labels import read_labels, split

# MLflow's own loading of runs, on the release of SQLAlchemy that is installed.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ROOT = Path(__file__).resolve().parents[3]
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


def test_rows_that_are_tested_on_take_no_part_and_validation_rows_are_not_trained_on(labels):
    rows = verb._rows(labels, "hiaml", None, "hiaml", 1000, 0.0, 0)
    everything = read_labels(labels, family("hiaml"))
    part = split(everything)
    used = np.concatenate([rows.accuracy, rows.validation[1]])
    assert sorted(used) == sorted(everything.accuracy[part == 0])
    assert len(rows.validation[1]) == (part == 0).sum() // 5
    assert sorted(rows.held_out[1]) == sorted(everything.accuracy[part == 1])


def test_no_validation_row_is_trained_on_by_whatever_name(labels):
    """The validation file holds all that is trained on; with as many others as are asked for, so many judge."""
    rows = verb._rows(labels, "hiaml", labels, "hiaml", 40, 0.0, 0)
    learnt = {*canonical_hashes(rows.graphs), *canonical_hashes(rows.held_out[0])}
    validation = canonical_hashes(rows.validation[0])
    assert not learnt & set(validation)
    everything = read_labels(labels, family("hiaml"))
    hashes = np.array(canonical_hashes(family("hiaml").graphs(everything.genomes)))
    others = everything.accuracy[(split(everything) != 2) & ~np.isin(hashes, list(learnt))]
    assert len(validation) == min(40, len(others))
    assert set(rows.validation[1]) <= set(others)


def test_too_few_networks_that_are_not_trained_on_are_refused(labels):
    with pytest.raises(ConfigError, match=r"0 rows to validate on, \d+ others are of networks that are trained on"):
        verb._rows(labels, "hiaml", labels, "hiaml", 1000, 0.0, 0)


def test_labels_that_are_all_equal_are_refused_before_ray_is_started(labels, tmp_path):
    """Every trial would fail of them."""
    equal = pd.read_csv(labels)
    equal["acc"] = 90.0
    equal.to_csv(tmp_path / "equal.csv", index=False)
    for data, more, message in (
        (tmp_path / "equal.csv", (), "differ in accuracy and FLOPs, got .* of the same accuracy"),
        (labels, ("--judge", tmp_path / "equal.csv", "--rows", 40), "rows to validate on are all of one accuracy"),
    ):
        of = ("tune", "--family", "hiaml", "--data", data, "--out", tmp_path / "tuned.json", *more)
        words = [str(word) for word in (*of, "--workspace", tmp_path / "runs")]
        with pytest.raises(InvalidDataError, match=message):
            CliRunner().invoke(app, words, catch_exceptions=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["equal.csv", "hiaml.csv"]


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (0.25, "cuda")])
def test_only_trials_that_are_given_a_gpu_compute_on_one(tmp_path, monkeypatch, gpus, device):
    """On a machine that has one, which Ray hides from nobody."""
    from ray import tune

    class Stopped(Exception):
        pass

    def pretrain(*_, device, **__):
        raise Stopped(device.type)

    trials = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(pretraining, "pretrain", pretrain)
    monkeypatch.setattr(tune, "with_parameters", partial)
    monkeypatch.setattr(tune, "with_resources", lambda trial, _: trials.append(trial))
    monkeypatch.setattr(tune, "Tuner", lambda *_, **__: None)
    study = TuningStudy(tmp_path, (Settings(),), Epochs(), 1, 16, 0)
    (tmp_path / CONFIG).write_text("{}")
    tuning._tuner(study, SimpleNamespace(graphs=None, spectra=None), gpus, None)
    with pytest.raises(Stopped, match=device):
        trials[0]({"trial": 0})


def test_settings_are_written_with_what_they_were_found_for(tmp_path):
    """In options of the verbs, which are all there are of these kinds."""
    import typer

    study = TuningStudy(tmp_path / "ws", (Settings(), Settings(hidden=96)), Epochs(5, 7, 2, 3, 4), 1, 16, 0, 91.5)
    (study.folder / RESULTS).mkdir(parents=True)
    (study.folder / CONFIG).write_text("{}")
    for trial in range(2):
        study.result_path(trial, 1).write_text(json.dumps({"srcc": trial / 2, "mae": 1.0, "seconds": 1.0}))
    tuning._write(tmp_path / "tuned.json", study, tuning._best(study, 0, []))
    written = json.loads((tmp_path / "tuned.json").read_bytes())
    pretrain, fit = ({**written[name]} for name in ("pretrain", "fit"))
    assert pretrain["hidden"] == 96
    assert {"epochs": 5, "batch": 32}.items() <= pretrain.items()
    epochs = {"epochs": 7, "head_epochs": 2, "pair_epochs": 3, "k_gnn_epochs": 4}
    assert {**epochs, "batch": 16, "minimum_accuracy": 91.5}.items() <= fit.items()
    commands = typer.main.get_command(app).commands
    for name in ("pretrain", "fit"):
        options = {parameter.name for parameter in commands[name].params}
        kinds = {option for option in options if "epochs" in option or option in ("batch", "minimum_accuracy")}
        assert kinds <= set(written[name]) <= options


def test_tunings_that_begin_in_one_second_are_runs_of_different_names(tmp_path, monkeypatch):
    names = []

    def track(_, name, *__):
        names.append(name)
        raise InterruptedError

    monkeypatch.setattr(tuning, "local_ray", nullcontext)
    monkeypatch.setattr(tuning, "track", track)
    monkeypatch.setattr(time, "strftime", lambda _: "20260101-000000")
    for name in ("first", "second"):
        out = tmp_path / f"{name}.json"
        study = TuningStudy(tuning_folder(out, tmp_path), (Settings(),), Epochs(), 1, 16, 0)
        with pytest.raises(InterruptedError):
            tuning.tune_settings(out, tmp_path, {}, study, None)
    assert names == ["tune-20260101-000000", "tune-20260101-000000-2"]


@pytest.mark.parametrize("out", ["file/tuned.json", "folder"])
def test_a_place_that_cannot_be_written_is_refused_before_the_first_trial(tmp_path, monkeypatch, out):
    monkeypatch.setattr(tuning, "local_ray", None)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    study = TuningStudy(tuning_folder(tmp_path / out, tmp_path), (Settings(),), Epochs(), 1, 16, 0)
    with pytest.raises(WorkspaceError, match="give another --out"):
        tuning.tune_settings(tmp_path / out, tmp_path, {}, study, None)


def test_a_trial_gives_the_same_result_again(labels):
    rows = verb._rows(labels, "hiaml", None, "hiaml", 40, 0.0, 0)
    small = Settings(hidden=8, layers=1, embedding=4, clusters=2)
    first, second = (measure(small, rows, Epochs(1, 1, 1, 1, 1), 16, 0) for _ in range(2))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert -1 <= first["srcc"] <= 1


# With Ray Tune -------------------------------------------------------------------------------------------------------


def kept_of_a_killed(arguments, folder):
    """The driver is killed once it has a result; the results by then."""
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
    return kept


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.drill)], ids=["whole", "killed"])
def test_a_tuning_goes_on_after_a_kill_and_its_settings_are_read(tmp_path, monkeypatch, killed):
    """The commands of the guide. What was measured before the driver was killed is not measured again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENNAPE_WORKSPACE", raising=False)
    write_labels(tmp_path / "nb101.csv.gz", "nb101", 160)
    guide = [shlex.split(line)[1:] for line in GUIDE.read_text().split("```bash\n")[1].split("```")[0].splitlines()]
    out, folder = tmp_path / "tuned.json", tuning_folder(tmp_path / "tuned.json", tmp_path / "ws")
    arguments = [*guide[0], "--workspace", "ws", *SMALL]
    kept = {}
    if killed:
        kept = kept_of_a_killed(arguments, folder)
        assert not out.exists()
        with pytest.raises(ConfigError, match=r"begun: epochs\.fit was 2, now 5\. Repeat"):
            invoke(*arguments, "--epochs", 5)

    result = invoke(*arguments)
    assert not killed or f"{len(kept)} of them before" in result.output
    assert {name: (folder / RESULTS / name).read_bytes() for name in kept} == kept
    with (tmp_path / "tuned.trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows if row["budget"] == "1"] == ["0", "1", "2"]
    whole = [row for row in rows if row["budget"] == "3"]
    best = max(whole, key=lambda row: float(row["srcc"]))
    settings = json.loads(out.read_bytes())
    won = {name: type(value)(best[name]) for name, value in asdict(Settings()).items()}
    assert won.items() <= {**settings["pretrain"], **settings["fit"]}.items()
    assert (settings["pretrain"]["epochs"], settings["fit"]["epochs"]) == (1, 2)

    client, experiment = open_store(tmp_path / "ws")
    runs = client.search_runs([experiment])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["best.clusters"] == best["clusters"]
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


def test_a_file_may_name_an_option_by_any_of_its_names(tmp_path):
    path = tmp_path / "settings.json"
    for name in ("space", "family"):
        path.write_text(json.dumps({"pretrain": {name: ["of nobody"]}}))
        with pytest.raises(ConfigError, match="unknown search space 'of nobody'"):
            invoke("pretrain", "--settings", path, "--out", tmp_path / "encoder")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--vary", "width"), "--vary takes config, hidden"),
        (("--judge-family", "nb201"), "--judge-space needs --judge"),
        (("--minimum-accuracy", 94.9), r"rows to (train on|validate on)"),
    ],
)
def test_what_does_not_fit_together_is_refused(labels, tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        invoke("tune", "--family", "hiaml", "--data", labels, "--out", tmp_path / "tuned.json", *arguments)
