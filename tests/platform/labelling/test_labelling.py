"""Labels from architectures and images: what is refused, what is written, and that nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from labelling_cases import coloured, write_parquet

from gennape.errors import CheckpointError, ConfigError, InvalidDataError
from gennape.platform.cluster.connection import local_ray
from gennape.platform.labelling import pool as labelling_pool
from gennape.platform.labelling import study as labelling
from gennape.platform.labelling.pool import LabellingStudy, Pool, Trainer, WorkerAllocation, checkpoint_path
from gennape.platform.labelling.rows import (
    LabellingTask,
    beside,
    read_row,
    tasks_of,
    write_labels,
    write_row,
)
from gennape.platform.labelling.sources import architectures_in, most_informative, sampled
from gennape.platform.labelling.study import ImageSources, Workers, label, study_folder
from gennape.platform.labelling.training.device_images import put
from gennape.platform.labelling.training.failures import DivergedError, UnsuitableImagesError
from gennape.platform.labelling.training.images import read_image_set
from gennape.platform.labelling.training.network_training import TrainingResult, train
from gennape.platform.labelling.training.recipe import Recipe, Seed
from gennape.platform.tracking.tracker import open_store
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.labels.labels import read_labels

RECIPE = Recipe(epochs=3, batch=8, precision="fp32")
SPACE = family("two_path")
OUTCOME = TrainingResult([40.0, 60.0], 55.0, 2.0, 100.0, "cpu", recorded=False)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As workers have it: sums depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    train_images, test_images = coloured(18, 3, size=(32, 32)), coloured(6, 3, seed=1, size=(32, 32))
    return ImageSources(
        write_parquet(folder / "train.parquet", train_images), write_parquet(folder / "test.parquet", test_images)
    )


@pytest.fixture(scope="module")
def tasks():
    """The three smallest networks of a sample."""
    found = tasks_of(SPACE, sampled(SPACE, 40, 0), 1)
    return sorted(found, key=lambda task: task.flops)[:3]


@pytest.fixture(scope="module")
def direct(sources, tasks):
    """What the networks get without any of this."""
    data = put(read_image_set(sources.train, sources.test), RECIPE, torch.device("cpu"))
    found = {}
    for task in tasks:
        graph = SPACE.graph(SPACE.decode(json.loads(task.architecture)))
        found[task.key] = train(graph, data, RECIPE, Seed(7, task.network, task.training))
    return found


def agrees(out, direct):
    table = pd.read_parquet(out)
    assert len(table) == len(direct)
    for row in table.to_dict("records"):
        outcome = direct[f"{row['network']}-{row['seed']}"]
        assert json.loads(row["accuracy_by_epoch"]) == outcome.validation
        assert row["accuracy"] == row["test_accuracy"] == outcome.test


def in_process(monkeypatch):
    """Trainings here and now, without Ray and MLflow; returns the list of those that were begun."""
    begun = []

    class Here(Pool):
        def run(self, tasks, poll):
            worker = Trainer(self._study, "cpu")
            monkeypatch.setattr(labelling_pool.ray, "get_runtime_context", _Context)
            worker.ready()
            for task in tasks:
                begun.append(task)
                poll()
                worker.train(task)
                yield task

    monkeypatch.setattr(labelling, "Pool", Here)
    monkeypatch.setattr(labelling, "local_ray", _nothing)
    monkeypatch.setattr(labelling, "track", _nothing)
    monkeypatch.setattr(labelling, "_allocation", lambda *_: WorkerAllocation(1, "cpu"))
    return begun


class _Context:
    def get_node_id(self):
        return "here"


class _nothing:
    """A context of which nothing is kept."""

    run_id = "run"

    def __init__(self, *_args, **_kwargs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def metrics(self, *_):
        pass

    def artifacts(self, *_):
        pass


# What is written -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz"])
def test_labels_are_read_by_what_reads_labels(tmp_path, suffix):
    tasks, out = tasks_of(SPACE, sampled(SPACE, 3, 0), 2), tmp_path / f"labels{suffix}"
    (tmp_path / "rows").mkdir()
    rows = [write_row(tmp_path, task, "recipe", "data", OUTCOME) for task in tasks[:5]]
    rows.append(write_row(tmp_path, tasks[5], "recipe", "data", str(DivergedError(7, 1))))
    write_labels(out, rows, {"seed": 0})
    labels = read_labels(out, SPACE)
    assert labels.accuracy.tolist() == [55.0] * 5
    assert [json.dumps(SPACE.encode(genome)) for genome in labels.genomes] == [task.architecture for task in tasks[:5]]
    assert read_labels(out, SPACE, "validation_accuracy").accuracy.tolist() == [60.0] * 5
    failed = pd.read_csv(beside(out, ".failed.csv"))
    assert failed["seed"].tolist() == [1]
    assert "step 7" in failed["reason"][0]
    assert json.loads(beside(out, ".study.json").read_text()) == {"seed": 0, "labels": 5, "failed": 1}
    before = out.read_bytes()
    write_labels(out, rows[:5], {"seed": 0})
    assert out.read_bytes() == before
    assert not beside(out, ".failed.csv").exists()


def test_without_images_to_test_on_the_label_is_that_of_validation(tmp_path):
    (task,) = tasks_of(SPACE, sampled(SPACE, 1, 0), 1)
    (tmp_path / "rows").mkdir()
    row = write_row(tmp_path, task, "recipe", "data", replace(OUTCOME, test=None))
    assert (row["accuracy"], row["validation_accuracy"], row["test_accuracy"]) == (60.0, 60.0, None)
    assert read_row(tmp_path, task) == row
    write_labels(tmp_path / "labels.csv", [row], {})
    assert read_labels(tmp_path / "labels.csv", SPACE).accuracy.tolist() == [60.0]


def test_networks_that_are_the_same_are_trained_once():
    genomes = sampled(SPACE, 5, 0)
    tasks = tasks_of(SPACE, np.concatenate([genomes, genomes[:2]]), 2)
    assert len(tasks) == 10
    assert len({task.key for task in tasks}) == 10
    assert [task.training for task in tasks] == [0] * 5 + [1] * 5


def test_a_study_gives_what_training_gives_and_trains_nothing_twice(sources, tasks, direct, tmp_path, monkeypatch):
    begun, told = in_process(monkeypatch), []
    out = tmp_path / "labels.parquet"
    result = label(out, tmp_path, tasks[:2], sources, RECIPE, 7, Workers("cpu"), follow=told.append)
    assert (result.labels, result.failed, result.before) == (2, 0, 0)
    result = label(out, tmp_path, tasks, sources, RECIPE, 7, Workers("cpu"), follow=told.append)
    assert (result.labels, result.failed, result.before) == (3, 0, 2)
    assert begun == tasks
    agrees(out, direct)
    assert (told[-1].labels, told[-1].epochs, told[-1].total_epochs) == (3, 9, 9)
    assert [each.epochs for each in told[3:]] == sorted(each.epochs for each in told[3:])
    assert beside(out, ".png").read_bytes().startswith(b"\x89PNG")
    study = json.loads(beside(out, ".study.json").read_text())
    assert study["recipe"]["epochs"] == 3
    assert {study["recipe_sha256"]} == set(pd.read_parquet(out)["recipe"])
    assert {study["images"]["sha256"]} == set(pd.read_parquet(out)["data"])
    assert not list((study_folder(out, tmp_path) / "checkpoints").iterdir())
    result = label(tmp_path / "part" / ".." / out.name, tmp_path, tasks[2:], sources, RECIPE, 7, Workers("cpu"))
    assert (result.labels, result.before, result.others) == (1, 1, 2)
    assert begun == tasks
    agrees(out, direct)


def test_labels_whose_study_is_elsewhere_are_left_alone(sources, tasks, tmp_path, monkeypatch):
    begun = in_process(monkeypatch)
    out = tmp_path / "labels.csv"
    out.write_text("of hours\n")
    with pytest.raises(ConfigError, match="the study that wrote it is not in"):
        label(out, tmp_path, tasks, sources, RECIPE, 7, Workers("cpu"))
    assert (out.read_text(), begun) == ("of hours\n", [])


def test_what_failed_is_trained_again_where_that_is_asked_for(sources, tasks, direct, tmp_path, monkeypatch):
    begun, out = in_process(monkeypatch), tmp_path / "labels.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(labelling_pool, "train", _diverges)
        result = label(out, tmp_path, tasks[:1], sources, RECIPE, 7, Workers("cpu"))
    assert (result.labels, result.failed) == (0, 1)
    assert beside(out, ".failed.csv").exists()
    assert label(out, tmp_path, tasks, sources, RECIPE, 7, Workers("cpu")).failed == 1
    result = label(out, tmp_path, tasks, sources, RECIPE, 7, Workers("cpu"), retry_failed=True)
    assert (result.labels, result.failed, result.before) == (3, 0, 2)
    assert begun == [tasks[0], *tasks[1:], tasks[0]]
    assert not beside(out, ".failed.csv").exists()
    agrees(out, direct)


def _diverges(*_args, **_kwargs):
    raise DivergedError(41, 2)


class _Stop(Exception):
    """Stands for whatever ends a process."""


def test_labels_so_far_are_kept_whatever_ends_it(sources, tasks, direct, tmp_path, monkeypatch):
    in_process(monkeypatch)
    out, count = tmp_path / "labels.parquet", [0]

    def follow(progress):
        if progress.labels >= count[0]:
            raise _Stop

    for count[0] in (1,):
        with pytest.raises(_Stop):
            label(out, tmp_path, tasks, sources, RECIPE, 7, Workers("cpu"), follow=follow)
        assert len(pd.read_parquet(out)) == count[0]
    label(out, tmp_path, tasks, sources, RECIPE, 7, Workers("cpu"))
    agrees(out, direct)


def test_another_study_is_not_written_into_the_same_file(sources, tasks, tmp_path, monkeypatch):
    in_process(monkeypatch)
    out = tmp_path / "labels.parquet"
    label(out, tmp_path, tasks[:1], sources, RECIPE, 7, Workers("cpu"))
    before = out.read_bytes()
    for change, told in (
        ({"recipe": replace(RECIPE, epochs=5)}, "epochs was 3, now 5"),
        ({"seed": 8}, "seed was 7, now 8"),
        ({"sources": replace(sources, test=None)}, "other images"),
    ):
        given = {"sources": sources, "recipe": RECIPE, "seed": 7, **change}
        with pytest.raises(ConfigError, match=told):
            label(out, tmp_path, tasks, workers=Workers("cpu"), **given)
    assert out.read_bytes() == before


def test_what_would_fail_in_every_training_is_refused_before_any(sources, tasks, tmp_path):
    def refused(error, told, tasks=tasks, sources=sources, recipe=RECIPE, out="labels.parquet"):
        with pytest.raises(error, match=told):
            label(tmp_path / out, tmp_path, tasks, sources, recipe, 7, Workers("cpu"))

    refused(ConfigError, "suffix must be one of .parquet, .csv, .csv.gz", out="labels.txt")
    refused(ConfigError, "do not fill one batch of 512", recipe=Recipe())
    large = tasks_of(family("ofa_mbv3"), sampled(family("ofa_mbv3"), 1, 0), 1)
    refused(UnsuitableImagesError, "resize", tasks=[*tasks, *large])
    many = write_parquet(tmp_path / "many.parquet", coloured(36, 3, size=(40, 40)))
    refused(UnsuitableImagesError, "40 x 40", sources=ImageSources(many))
    refused(InvalidDataError, "does not exist", sources=ImageSources(tmp_path / "absent.parquet"))
    assert not (tmp_path / "labels.parquet").exists()


# The worker ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def worker(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling_pool.ray, "get_runtime_context", _Context)
    images = read_image_set(sources.train, sources.test, None, tmp_path)
    files = [labelling.cache_file(path, None, tmp_path) for path in (sources.train, sources.test)]
    for part in ("rows", "checkpoints"):
        (tmp_path / part).mkdir()
    trainer = Trainer(LabellingStudy(RECIPE, 7, *files, images.sha256, tmp_path, 0.0), "cpu")
    trainer.ready()
    return trainer, tmp_path


def test_a_worker_notes_a_loss_that_is_no_number(worker, tasks, monkeypatch):
    trainer, folder = worker
    monkeypatch.setattr(labelling_pool, "train", _diverges)
    trainer.train(tasks[0])
    row = read_row(folder, tasks[0])
    assert (row["state"], "step 41, in epoch 3" in row["reason"]) == ("FAILED", True)


def test_a_worker_begins_anew_where_a_checkpoint_is_of_no_use(worker, tasks, direct):
    trainer, folder = worker
    checkpoint_path(folder, tasks[0]).write_bytes(b"of another version")
    trainer.train(tasks[0])
    assert read_row(folder, tasks[0])["accuracy_by_epoch"] == direct[tasks[0].key].validation
    assert not list((folder / "checkpoints").iterdir())


def test_a_worker_that_begins_anew_notes_a_loss_that_is_no_number(worker, tasks, monkeypatch):
    trainer, folder = worker
    errors = [CheckpointError("of another version"), DivergedError(41, 2)]

    def fails(*_args, **_kwargs):
        raise errors.pop(0)

    monkeypatch.setattr(labelling_pool, "train", fails)
    trainer.train(tasks[0])
    assert read_row(folder, tasks[0])["state"] == "FAILED"


def test_a_worker_does_no_training_twice(worker, tasks, monkeypatch):
    trainer, folder = worker
    row = write_row(folder, tasks[0], "recipe", "data", OUTCOME)
    monkeypatch.setattr(labelling_pool, "train", None)
    trainer.train(tasks[0])
    assert read_row(folder, tasks[0]) == row


def test_images_that_changed_are_found_out(worker):
    trainer, _ = worker
    trainer._study = replace(trainer._study, data="other")
    with pytest.raises(InvalidDataError, match="have changed"):
        trainer.ready()


# Which networks ------------------------------------------------------------------------------------------------------


def test_a_smaller_sample_is_the_beginning_of_a_larger_one():
    few, many = sampled(SPACE, 5, 3), sampled(SPACE, 300, 3)
    assert np.array_equal(few, many[:5])
    assert len(tasks_of(SPACE, many, 1)) == 300
    assert not np.array_equal(few, sampled(SPACE, 5, 4))


def test_the_predictor_chooses_among_a_sample():
    chosen, pool = most_informative(SPACE, 4, 30, 0, None), sampled(SPACE, 30, 0)
    assert len({genome.tobytes() for genome in chosen}) == 4
    assert {genome.tobytes() for genome in chosen} <= {genome.tobytes() for genome in pool}
    with pytest.raises(ConfigError, match="--among is 3; must be from --sample, 4"):
        most_informative(SPACE, 4, 3, 0, None)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.json"])
def test_architectures_come_from_tables_and_lists(tmp_path, name):
    genomes = sampled(SPACE, 3, 0)
    listed = [SPACE.encode(genome) for genome in genomes]
    path = tmp_path / name
    if name == "a.json":
        path.write_text(json.dumps(listed))
    else:
        table = pd.DataFrame({"architecture": [json.dumps(each) for each in listed], "flops": [1, 2, 3]})
        table.to_csv(path) if name == "a.csv" else table.to_parquet(path)
    assert np.array_equal(architectures_in(path, SPACE), genomes)


def test_files_without_architectures_are_named(tmp_path):
    (tmp_path / "column.csv").write_text("network\n1\n")
    (tmp_path / "row.csv").write_text("architecture\nnothing\n")
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "torn.json").write_text("[")
    (tmp_path / "torn.parquet").write_text("PAR1")
    for name, told in {
        "column.csv": "no column 'architecture'",
        "row.csv": "row 1: two_path",
        "object.json": "holds no list",
        "empty.json": "holds no architectures",
        "torn.json": "cannot read",
        "torn.parquet": "cannot read",
        "absent.csv": "cannot read",
    }.items():
        with pytest.raises(InvalidDataError, match=told):
            architectures_in(tmp_path / name, SPACE)


# With Ray ------------------------------------------------------------------------------------------------------------

DRIVER = """
import sys
from pathlib import Path
from gennape.platform.labelling.study import ImageSources, Workers, label
from gennape.platform.labelling.rows import LabellingTask
from gennape.platform.labelling.training.recipe import Recipe
import json
out, workspace, train, test, address, tasks, recipe = sys.argv[1:]
label(Path(out), Path(workspace), [LabellingTask(**task) for task in json.loads(tasks)],
      ImageSources(Path(train), Path(test)), Recipe(**json.loads(recipe)), 7, Workers("cpu", 1, save_after=0.0),
      address)
"""
_TIMEOUT_S = 240


def _wait_for(condition, process):
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        assert process.poll() is None, "the study ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _trainers():
    """Workers of this process's own Ray that are training."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] == ["ray::Trainer.train"]:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.cluster
@pytest.mark.drill
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own, of its tables
def test_a_study_killed_twice_whose_worker_is_killed_too_loses_nothing(sources, tasks, tmp_path):
    recipe = replace(RECIPE, epochs=12)
    out, folder = tmp_path / "labels.parquet", study_folder(tmp_path / "labels.parquet", tmp_path)
    described = json.dumps([{name: getattr(task, name) for name in LabellingTask.__slots__} for task in tasks])
    settings = json.dumps({"epochs": 12, "batch": 8, "precision": "fp32"})

    def rows():
        return {path.name: path.stat().st_mtime_ns for path in folder.glob("rows/[!.]*.json")}

    def under_way():
        return list(folder.glob("checkpoints/[!.]*.safetensors"))

    with local_ray(num_cpus=2):
        import ray

        address = ray.get_runtime_context().gcs_address
        before = {}
        # Once in the midst of the first training, once in the midst of a later one.
        for fewest in (0, 1):
            arguments = [out, tmp_path, sources.train, sources.test, address, described, settings]
            driver = subprocess.Popen([sys.executable, "-c", DRIVER, *map(str, arguments)])
            _wait_for(lambda fewest=fewest: len(rows()) >= fewest and under_way(), driver)
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            assert before.items() <= rows().items()
            before = rows()
        killed = []

        def follow(progress):
            if not killed and progress.labels < 3 and under_way() and (pids := _trainers()):
                os.kill(pids[0], signal.SIGKILL)
                killed.extend(pids)

        result = label(
            out, tmp_path, tasks, sources, recipe, 7, Workers("cpu", 1, save_after=0.0), follow=follow
        )  # fmt: skip
        assert before.items() <= rows().items()
    assert killed
    assert (result.labels, result.failed) == (3, 0)
    assert result.before >= 1
    data = put(read_image_set(sources.train, sources.test), recipe, torch.device("cpu"))
    wanted = {
        task.key: train(
            SPACE.graph(SPACE.decode(json.loads(task.architecture))), data, recipe, Seed(7, task.network, 0)
        )
        for task in tasks
    }
    agrees(out, wanted)
    client, experiment = open_store(tmp_path, None)
    runs = client.search_runs([experiment])
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.metrics["labels"] == 3
    assert runs[0].data.params["recipe.epochs"] == "12"
    assert [artifact.path for artifact in client.list_artifacts(runs[0].info.run_id)] == ["labels.png"]
