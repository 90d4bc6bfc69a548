"""``gennape label``: which networks, which recipe, what it says; and the way from images to a predictor that knows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from labelling_cases import coloured, write_parquet
from typer.testing import CliRunner

from gennape.errors import ConfigError, InvalidDataError, WorkspaceError
from gennape.jobs.cli import app
from gennape.jobs.label import _networks, _parted
from gennape.jobs.shared.training import device_of, recipe_of
from gennape.platform.labelling import study as labelling
from gennape.platform.labelling.study import StudyProgress, StudyResult
from gennape.platform.labelling.training.recipe import Recipe
from gennape.platform.search.config import search_config
from gennape.platform.search.runs import REPORT, describe_run
from gennape.platform.tracking.tracker import open_store
from gennape.search_spaces.families.registry import family


def networks(tmp_path, **given):
    options = dict.fromkeys(("space", "sample", "among", "run", "architectures", "checkpoint"), None)
    return _networks(tmp_path, **{**options, "seed": 0, **given})


def run(*arguments):
    return CliRunner().invoke(app, ["label", *map(str, arguments)])


# Which networks ------------------------------------------------------------------------------------------------------


def test_exactly_one_source_of_networks_is_taken(tmp_path):
    space, genomes = networks(tmp_path, space="hiaml", sample=5)
    assert (space.name, len(genomes)) == ("hiaml", 5)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([space.encode(genome) for genome in genomes]))
    assert (networks(tmp_path, space="hiaml", architectures=path)[1] == genomes).all()
    for wrong, told in (
        ({}, "one of --sample N, --run NAME, --architectures FILE; got"),
        ({"sample": 5, "architectures": path}, "one of --sample"),
        ({"sample": 5}, "Give --space"),
        ({"sample": 5, "space": "none"}, "unknown search space"),
        ({"architectures": path, "space": "hiaml", "among": 9}, "--among chooses a --sample"),
    ):
        with pytest.raises(ConfigError, match=told):
            networks(tmp_path, **wrong)


def test_networks_of_a_part_of_a_space(tmp_path):
    part = _parted("hiaml", ["block of stage 1=hiaml_z"], None)
    space, genomes = networks(tmp_path, space=part, sample=20)
    assert {space.encode(genome)[0] for genome in genomes} == {"hiaml_z"}
    path = tmp_path / "a.json"
    path.write_text(json.dumps([space.encode(genomes[0]), ["hiaml_a22"] * 4]))
    with pytest.raises(InvalidDataError, match="row 2: hiaml: block of stage 1 is 'hiaml_a22', which is outside of"):
        networks(tmp_path, space=part, architectures=path)
    assert _parted("hiaml", None, None) == "hiaml"
    with pytest.raises(ConfigError, match="Give --space"):
        _parted(None, ["depth=3"], None)


def test_the_front_of_a_search(tmp_path):
    space = family("hiaml")
    folder = tmp_path / "runs" / "hiaml-20260101-120000-s0"
    (folder / REPORT).mkdir(parents=True)
    describe_run(folder, search_config(space="hiaml"))
    genomes = networks(tmp_path, space="hiaml", sample=3)[1]
    points = [{"index": i, "architecture": space.encode(genome)} for i, genome in enumerate(genomes)]
    (folder / REPORT / "front.json").write_text(json.dumps({"points": points}))
    found, front = networks(tmp_path, run="hiaml")
    assert found.name == "hiaml"
    assert (front == genomes).all()
    with pytest.raises(ConfigError, match="leave --space out"):
        networks(tmp_path, run="hiaml", space="nb101")
    with pytest.raises(WorkspaceError, match="no run"):
        networks(tmp_path, run="two_path")


# The recipe ----------------------------------------------------------------------------------------------------------


def test_the_command_line_goes_before_a_file_and_that_before_the_usual(tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text('{"epochs": 7, "peak_rate": 0.2, "precision": "bf16"}')
    given = {"epochs": 9, "batch": None}
    assert recipe_of(path, given, "cpu") == Recipe(epochs=9, peak_rate=0.2, precision="bf16")
    assert recipe_of(None, dict.fromkeys(given), "cpu") == Recipe(precision="fp32")
    for text, told in (("[]", "holds no recipe"), ("{", "cannot read the recipe"), ('{"epoch": 1}', "no 'epoch'")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=told):
            recipe_of(path, given, "cpu")


# What it says --------------------------------------------------------------------------------------------------------


def test_what_is_said_in_the_end(tmp_path, monkeypatch):
    def label(_out, _workspace, tasks, _sources, recipe, *_rest, retry_failed):
        assert not retry_failed
        follow = _rest[3]
        follow(StudyProgress(1, 0, 2, 3, 2 * recipe.epochs))
        assert len(tasks) == 2
        return StudyResult(1, 1, 1, ("out of memory with 4 trainings beside each other, on with 2",))

    monkeypatch.setattr(labelling, "label", label)
    out = tmp_path / "labels.csv"
    done = run("--images", "x", "--space", "hiaml", "--sample", 2, "--out", out, "--workspace", tmp_path)
    assert done.exit_code == 0, done.output
    assert f"2 trainings, 1 of them before: 1 labels in {out}" in done.output
    assert f"1 failed; reasons in {tmp_path / 'labels.failed.csv'}" in done.output
    assert "out of memory with 4" in done.output
    assert f"next: gennape finetune --space hiaml --labels {out} --out tuned" in done.output


def test_where_all_trainings_failed_nothing_is_to_be_learnt(tmp_path, monkeypatch):
    def label(*_, retry_failed):
        assert retry_failed
        return StudyResult(0, 2, 0, ())

    monkeypatch.setattr(labelling, "label", label)
    given = ["--images", "x", "--space", "hiaml", "--sample", 2, "--out", tmp_path / "l.csv", "--workspace", tmp_path]
    done = run(*given, "--retry-failed")
    assert done.exit_code == 1
    assert "2 failed; reasons in" in done.output
    assert "finetune" not in done.output


def test_of_a_cluster_the_device_has_to_be_said():
    with pytest.raises(ConfigError, match="--device cuda or --device cpu"):
        device_of(None, "auto")
    assert (device_of("cuda", "auto"), device_of("cpu", "auto"), device_of("cpu", None)) == ("cuda", "cpu", "cpu")
    assert device_of(None, None) == ("cuda" if torch.cuda.is_available() else "cpu")


def test_an_interruption_says_how_to_go_on(tmp_path, monkeypatch):
    def label(*_, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(labelling, "label", label)
    out = tmp_path / "labels.csv"
    done = run("--images", "x", "--space", "hiaml", "--sample", 2, "--out", out, "--workspace", tmp_path)
    assert done.exit_code == 130
    assert "repeat the command to continue" in done.output


def test_what_is_wrong_is_said_before_anything_starts(tmp_path):
    given = ["--images", tmp_path / "absent", "--space", "hiaml", "--sample", 2, "--workspace", tmp_path]
    for out, error in (("labels.txt", ConfigError), ("labels.csv", InvalidDataError)):
        assert isinstance(run(*given, "--out", tmp_path / out).exception, error)


# The whole way -------------------------------------------------------------------------------------------------------


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own, of its tables
def test_guide_from_images_to_a_predictor_that_learnt_from_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENNAPE_WORKSPACE", raising=False)
    write_parquet(tmp_path / "cifar10_train.parquet", coloured(18, 3, size=(16, 16)))
    write_parquet(tmp_path / "cifar10_test.parquet", coloured(6, 3, seed=1, size=(16, 16)))
    guide = (Path(__file__).resolve().parents[2] / "docs" / "label.md").read_text()
    label, tune, _ = re.findall(r"^gennape (.*)$", guide, re.MULTILINE)
    smaller = "--resize 32 --space two_path --sample 3 --trainings 2 --epochs 1 --batch 8"
    done = run(*label.split()[1:], *smaller.split())
    assert done.exit_code == 0, f"{done.output} {done.exception!r}"
    table = pd.read_parquet("labels.parquet")
    assert len(table) == 6
    assert table.groupby("network")["seed"].apply(sorted).tolist() == [[0, 1]] * 3
    assert (tmp_path / "labels.png").stat().st_size > 0
    tune = tune.replace("hiaml", "two_path")
    assert done.output.splitlines()[-1] == f"next: gennape {tune}"
    tuned = CliRunner().invoke(app, tune.split())
    assert tuned.exit_code == 0, f"{tuned.output} {tuned.exception!r}"
    assert "fine-tuned on 6 networks of two_path" in tuned.output
    client, experiment = open_store(tmp_path / "gennape-workspace", None)
    (found,) = client.search_runs([experiment])
    assert found.data.metrics["labels"] == 6
    assert found.data.params["images.size"] == "[32, 32]"
