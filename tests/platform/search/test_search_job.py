"""``gennape search`` as people use it: checks before anything starts, Ctrl-C, kill, and continuing."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import get_type_hints

import pandas as pd
import psutil
import pytest
import typer
from typer.testing import CliRunner

from gennape.errors import CheckpointError, ConfigError, WorkspaceError
from gennape.jobs.search import search
from gennape.platform.cluster.connection import local_ray
from gennape.platform.search.config import SearchConfig, search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.log import read_log
from gennape.platform.search.objectives import NAMES
from gennape.platform.search.ray_islands import RayIslands, most_replicas
from gennape.platform.search.runs import list_runs, status_of
from gennape.platform.search.searchers.registry import SEARCHERS
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.platform.workspace.run_lock import lock_run

SCRIPT = Path(__file__).parents[2] / "support" / "search_without_services.py"
PATIENCE_S = 400  # on a busy machine
SMALL = ["--space", "hiaml", "--evaluations", "200", "--population", "20", "--migration-every", "2"]

app = typer.Typer()
app.command("search")(search)
app.command("other")(lambda: None)


def stand_ins():
    spec = importlib.util.spec_from_file_location("search_without_services", SCRIPT)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tracker(monkeypatch):
    module = stand_ins()
    tracker = module._Tracker()
    module.replace(monkeypatch.setattr, "inline", 0, tracker)
    return tracker


def call(workspace, *arguments):
    """Run the verb in this process; expected errors come out as exceptions."""
    result = CliRunner().invoke(app, ["search", *arguments, "--workspace", str(workspace)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def front_bytes(workspace):
    (run,) = list_runs(workspace)
    return (run / "report" / "front.csv").read_bytes()


def test_a_search_leaves_its_results_and_says_where(tmp_path, tracker):
    result = call(tmp_path, *SMALL, "--tracking-uri", "http://127.0.0.1:5000")
    (run,) = list_runs(tmp_path)
    assert result.exit_code == 0
    assert run.name.startswith("hiaml-")
    assert run.name.endswith("-s0")
    assert str(run / "report") in result.output
    assert f"gennape export --run {run.name} --index" in result.output
    front = pd.read_csv(run / "report" / "front.csv")
    assert front["index"].tolist() == list(range(len(front)))
    assert len(pd.read_parquet(run / "report" / "evaluations.parquet")) == 200
    assert status_of(run) == {
        "status": "finished",
        "reason": "all 200 evaluations are done",
        "tracking_run": "tracked-1",
    }
    assert tracker.folders == [run / "report"]
    assert tracker.images[-1] == tracker.steps[-1][0]
    assert [step for step, _ in tracker.steps] == list(range(len(tracker.steps)))
    assert tracker.steps[-1][1]["evaluations"] == 200
    assert sorted(tracker.islands) == ["island-0", "island-1"]
    found = pd.read_parquet(run / "report" / "evaluations.parquet")["island"].value_counts()
    assert [tracker.islands[f"island-{i}"]["evaluations"] for i in range(2)] == [found[0], found[1]]
    assert sum(island["front_size"] for island in tracker.islands.values()) == len(front)
    assert tracker.server == "http://127.0.0.1:5000"
    assert {path.name for path in run.rglob(".*")} == {".lock"}


@pytest.mark.usefixtures("tracker")
@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ([], ConfigError, "search needs --space.*hiaml.*--resume"),
        (["--space", "resnet"], ConfigError, "unknown search space 'resnet'"),
        (["--space", "hiaml", "--objectives", "accuracy:best"], ConfigError, "needs a direction"),
        (["--space", "hiaml", "--searcher", "luck"], ConfigError, "known are nsga2, random"),
        (["--space", "hiaml", "--tracking-uri", "http://u:hush@h"], ConfigError, "MLFLOW_TRACKING_PASSWORD"),
        (["--resume", "yesterday"], WorkspaceError, "recent runs: none yet"),
    ],
)
def test_bad_settings_end_before_anything_is_made(tmp_path, arguments, error, says):
    with pytest.raises(error, match=says):
        call(tmp_path, *arguments)
    assert list_runs(tmp_path) == []


def test_a_missing_checkpoint_ends_before_anything_is_made(tmp_path):
    with pytest.raises(CheckpointError, match="absent"):
        call(tmp_path, "--space", "hiaml", "--checkpoint", str(tmp_path / "absent"))
    assert list_runs(tmp_path) == []


def test_ranges_are_those_of_the_settings():
    hints = get_type_hints(search, include_extras=True)
    for name in ("evaluations", "islands", "population", "migration_every", "seed"):
        bounds = {
            key: getattr(each, key)
            for each in SearchConfig.model_fields[name].metadata
            for key in ("ge", "le")
            if hasattr(each, key)
        }
        (option,) = hints[name].__metadata__
        assert (option.min, option.max) == (bounds["ge"], bounds.get("le")), name


@pytest.mark.parametrize("option", ["evaluations", "islands", "population", "migration-every", "seed"])
def test_numbers_out_of_range_are_told_as_everywhere(tmp_path, option):
    result = call(tmp_path, "--space", "hiaml", f"--{option}", "-5")
    assert result.exit_code == 2
    assert f"--{option}" in result.output
    assert list_runs(tmp_path) == []


def test_help_names_all_that_may_be_chosen():
    parameters = {p.name: p.help for p in typer.main.get_command(app).commands["search"].params}
    for each in SEARCHERS:
        assert each.name in parameters["searcher"]
    for name in NAMES:
        assert name in parameters["objectives"]


def test_help_states_the_defaults_that_hold():
    config = search_config(space="hiaml")
    parameters = {p.name: p for p in typer.main.get_command(app).commands["search"].params}
    for name in set(SearchConfig.model_fields) & set(parameters) - {"space", "checkpoint"}:
        assert parameters[name].show_default == str(getattr(config, name)), name


def interrupt_at(monkeypatch, generation):
    original = LocalIslands.advance

    def advance(self, island, task, news):
        if task.generation == generation:
            raise KeyboardInterrupt
        return original(self, island, task, news)

    monkeypatch.setattr(LocalIslands, "advance", advance)


@pytest.mark.parametrize("generation", [0, 3])
def test_ctrl_c_says_how_to_go_on_and_going_on_gives_the_same_front(tmp_path, tracker, monkeypatch, generation):
    call(tmp_path / "whole", *SMALL)
    with monkeypatch.context() as patch:
        interrupt_at(patch, generation)
        result = call(tmp_path / "cut", *SMALL)
    (run,) = list_runs(tmp_path / "cut")
    assert result.exit_code == 130
    command = f"gennape search --resume {run.name} --workspace {tmp_path / 'cut'}"
    assert [line for line in result.output.splitlines() if "interrupted" in line] == [
        f"interrupted; continue with: {command}"
    ]
    assert status_of(run)["status"] == "interrupted"
    resumed = call(tmp_path / "cut", "--resume", run.name[:10], "--objectives", "accuracy:max, flops:min")
    assert resumed.exit_code == 0
    assert front_bytes(tmp_path / "cut") == front_bytes(tmp_path / "whole")
    assert tracker.continued == ("tracked-1" if generation else None)
    again = call(tmp_path / "cut", "--resume", run.name)
    assert again.exit_code == 0
    assert f"{run.name} is finished: all 200 evaluations are done" in again.output


def test_an_interruption_after_the_end_leaves_the_run_finished(tmp_path, tracker, monkeypatch):
    @contextmanager
    def track(*_, **__):
        yield tracker
        raise KeyboardInterrupt  # while what is told to MLflow is waited for

    monkeypatch.setattr("gennape.platform.tracking.tracker.track", track)
    result = call(tmp_path, *SMALL)
    (run,) = list_runs(tmp_path)
    assert result.exit_code == 130
    assert status_of(run)["status"] == "finished"
    assert f"interrupted after its end; the front is in {run / 'report'}" in result.output


@pytest.mark.usefixtures("tracker")
def test_contradictions_and_another_checkpoint_are_refused(tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 1)
    call(tmp_path, *SMALL, "--seed", "4")
    (run,) = list_runs(tmp_path)
    with pytest.raises(ConfigError, match=r"seed is 4, got 5; searcher is 'nsga2', got 'random'"):
        call(tmp_path, "--resume", run.name, "--seed", "5", "--searcher", "random")
    monkeypatch.setattr(SyntheticPredictor, "sha256", "f" * 64)
    with pytest.raises(
        ConfigError, match=r"begun with the checkpoint 0{12}… \(shipped\), but the shipped one is f{12}…"
    ):
        call(tmp_path, "--resume", run.name)
    monkeypatch.undo()
    stored = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(stored | {"search": stored["search"] | {"luck": 7}}))
    with pytest.raises(WorkspaceError, match=r"luck \(7\) was added"):
        call(tmp_path, "--resume", run.name)


@pytest.mark.usefixtures("tracker")
def test_a_run_goes_on_with_its_checkpoint_wherever_that_lies_now(tmp_path, monkeypatch):
    served = []

    def serve(config, _load):
        served.append(config.checkpoint)
        return nullcontext(SyntheticPredictor())

    monkeypatch.setattr("gennape.platform.serving.deployment.serve_ensemble", serve)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        call(tmp_path, *SMALL, "--cluster", "--checkpoint", str(tmp_path / "old"))
        (run,) = list_runs(tmp_path)
        again = call(tmp_path, "--resume", run.name, "--cluster", "--checkpoint", str(tmp_path / "moved"))
    told = [line.split("continue with: ")[1] for line in again.output.splitlines() if "continue with" in line]
    assert told == [
        f"gennape search --resume {run.name} --checkpoint {tmp_path / 'moved'} --workspace {tmp_path} --cluster"
    ]
    with monkeypatch.context() as patch:
        patch.setattr("gennape.platform.serving.deployment.serve_ensemble", lambda *_: nullcontext(Replaced()))
        with pytest.raises(ConfigError, match="is there now; put the former back"):
            call(tmp_path, "--resume", run.name, "--cluster")
    assert status_of(run)["status"] == "failed"
    moved = ["--checkpoint", str(tmp_path / "moved")]
    assert call(tmp_path, "--resume", run.name, "--cluster", *moved).exit_code == 0
    assert served == [tmp_path / "old", tmp_path / "moved", tmp_path / "moved"]


class Replaced(SyntheticPredictor):
    """Of another checkpoint than the run began with."""

    sha256 = "f" * 64


@pytest.mark.usefixtures("tracker")
def test_whatever_ends_a_run_its_status_says_so(tmp_path, monkeypatch):
    def breaks(*_):
        raise RuntimeError("odd")

    monkeypatch.setattr(LocalIslands, "advance", breaks)
    with pytest.raises(RuntimeError):
        call(tmp_path, *SMALL)
    (run,) = list_runs(tmp_path)
    assert status_of(run) == {**status_of(run), "status": "failed", "reason": "RuntimeError: odd"}


@pytest.mark.usefixtures("tracker")
def test_a_run_at_work_cannot_be_resumed_beside_it(tmp_path, monkeypatch):
    interrupt_at(monkeypatch, 1)
    call(tmp_path, *SMALL)
    (run,) = list_runs(tmp_path)
    with lock_run(run), pytest.raises(WorkspaceError, match="another process"):
        call(tmp_path, "--resume", run.name)


@pytest.mark.usefixtures("tracker")
def test_asynchronous_islands_are_a_setting_of_the_run(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        call(tmp_path, *SMALL, "--asynchronous")
    (run,) = list_runs(tmp_path)
    recorded = read_log(run, 4).hashes.tolist()
    for option in ("--synchronous", "--in-step"):
        with pytest.raises(ConfigError, match="asynchronous is True, got False"):
            call(tmp_path, "--resume", run.name, option)
    assert call(tmp_path, "--resume", run.name).exit_code == 0
    report = pd.read_parquet(run / "report" / "evaluations.parquet")
    assert report["hash"].tolist() == read_log(run, 4).hashes.tolist()
    assert report["hash"].tolist()[: len(recorded)] == recorded
    assert len(recorded) >= 40
    assert report["hash"].nunique() == 200
    assert list(report.columns[:6]) == ["hash", "architecture", "accuracy", "flops", "macs", "params"]


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_actors_find_what_islands_of_one_process_find_even_when_one_is_killed(tmp_path):
    import ray

    config = search_config(space="hiaml", evaluations=200, population=20, migration_every=2, seed=5)
    (tmp_path / "inline").mkdir()
    expected = run_search(config, tmp_path / "inline", LocalIslands(config, SyntheticPredictor()))
    asynchronous = config.model_copy(update={"asynchronous": True})

    def kill_one(islands, record):
        if record.generation == 1:
            ray.kill(islands.actors[1])

    with local_ray():
        with RayIslands(config, SyntheticPredictor()) as islands:
            (tmp_path / "actors").mkdir()
            result = run_search(config, tmp_path / "actors", islands, partial(kill_one, islands))
        with RayIslands(asynchronous, SyntheticPredictor()) as others:
            (tmp_path / "asynchronous").mkdir()
            arrived = run_search(asynchronous, tmp_path / "asynchronous", others, partial(kill_one, others))
    pd.testing.assert_frame_equal(result.front, expected.front)
    pd.testing.assert_frame_equal(result.evaluations, expected.evaluations)
    assert len(arrived.evaluations) == arrived.evaluations["hash"].nunique() == 200
    for name in ("actors", "asynchronous"):
        events = [json.loads(line) for line in (tmp_path / name / "failures.jsonl").read_text().splitlines()]
        assert {(e["state"], e["island"]) for e in events} == {("PREEMPTED", 1)}


@contextmanager
def driver_at_work(cut, islands, *arguments):
    """A search in a process, and in a group of processes, of its own: in its third generation."""
    where = {"actors": "--cluster", "local": "--local"}[islands]
    command = [sys.executable, str(SCRIPT), islands, "0.5", "search", where, *arguments, "--workspace", str(cut)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as driver:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not list(cut.glob("runs/*/evaluations/000001.parquet")):
                assert driver.poll() is None, driver.stdout.read()
                assert time.monotonic() < deadline, "no second generation in time"
                time.sleep(0.05)
            yield driver
        finally:
            driver.kill()


@pytest.mark.usefixtures("tracker")
@pytest.mark.cluster
@pytest.mark.parametrize(
    ("islands", "how", "status"),
    [
        ("local", signal.SIGINT, 130),
        ("local", signal.SIGTERM, 143),
        ("local", signal.SIGKILL, -signal.SIGKILL),
        pytest.param("actors", signal.SIGINT, 130, marks=pytest.mark.drill),
        ("actors", signal.SIGTERM, 143),  # to the whole group, as `timeout` and shells send it
        pytest.param("actors", signal.SIGKILL, -signal.SIGKILL, marks=pytest.mark.drill),
    ],
)
def test_a_driver_ended_in_mid_search_is_continued_to_the_same_front(tmp_path, islands, how, status):
    call(tmp_path / "whole", *SMALL)
    cut = tmp_path / "cut"
    with driver_at_work(cut, islands, *SMALL) as driver:
        children = psutil.Process(driver.pid).children(recursive=True)
        (os.killpg if how == signal.SIGTERM else os.kill)(driver.pid, how)
        output, _ = driver.communicate(timeout=PATIENCE_S)
    (run,) = list_runs(cut)
    assert driver.returncode == status, output
    assert status_of(run)["status"] == "interrupted"
    if how != signal.SIGKILL:
        where = {"actors": "--cluster", "local": "--local"}[islands]
        told = f"interrupted; continue with: gennape search --resume {run.name} --workspace {cut} {where}"
        assert output.splitlines()[-1] == told
        assert "Traceback" not in output
        assert "***" not in output  # as Ray's core begins its stack
        assert status_of(run)["reason"] == {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[how]
        assert bool(children) == (islands == "actors")
        psutil.wait_procs(children, timeout=10)
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    logged = read_log(run, 4)
    front = pd.read_csv(run / "report" / "front.csv")
    assert set(front["hash"]) <= set(logged.hashes)
    assert len(front)
    call(cut, "--resume", run.name)
    assert front_bytes(cut) == front_bytes(tmp_path / "whole")


@pytest.mark.cluster
@pytest.mark.parametrize("islands", ["local", "actors"])
def test_a_search_whose_folder_is_deleted_ends_soon(tmp_path, islands):
    with driver_at_work(tmp_path, islands, *SMALL[:3], "100000", *SMALL[4:]) as driver:
        (run,) = list_runs(tmp_path)
        began = time.monotonic()
        while run.exists():  # a report that is written meanwhile keeps its folder a moment longer
            shutil.rmtree(run, ignore_errors=True)
        output, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 1
    assert time.monotonic() - began < 10
    assert output.startswith(f"gennape: error: the folder of the run was deleted or moved while it was at work: {run};")
    assert not run.exists()


@pytest.mark.usefixtures("tracker")
def test_a_finished_run_goes_on_with_a_larger_budget(tmp_path):
    call(tmp_path / "whole", *SMALL)
    call(tmp_path / "small", *SMALL[:3], "70", *SMALL[4:])
    (run,) = list_runs(tmp_path / "small")
    with pytest.raises(ConfigError, match="evaluations is 70, got 60"):
        call(tmp_path / "small", "--resume", "latest", "--evaluations", "60")
    done = call(tmp_path / "small", "--resume", "latest", "--evaluations", "70")
    assert f"{run.name} is finished: all 70 evaluations are done" in done.output
    assert "give it more --evaluations to go on" in done.output
    shard, content = run / "evaluations" / "000000.parquet", (run / "evaluations" / "000000.parquet").read_bytes()
    shard.write_bytes(b"damaged")
    stopped = CliRunner().invoke(
        app, ["search", "--resume", "latest", "--evaluations", "200", "--workspace", str(tmp_path / "small")]
    )
    shard.write_bytes(content)
    (told,) = [line for line in stopped.stderr.splitlines() if "continue with" in line]
    words = shlex.split(told.partition("continue with: gennape ")[2])  # the larger budget is not written down yet
    assert CliRunner().invoke(app, words).exit_code == 0
    assert front_bytes(tmp_path / "small") == front_bytes(tmp_path / "whole")
    assert status_of(run)["reason"] == "all 200 evaluations are done"


def test_replicas_follow_islands_as_far_as_the_cluster_goes(monkeypatch):
    import ray

    assert most_replicas(64) == 2, "without a cluster"
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    for cpus, islands, expected in [(2, 64, 2), (1000, 64, 64), (1000, 1, 2), (40, 64, 20)]:
        monkeypatch.setattr(ray, "cluster_resources", lambda cpus=cpus: {"CPU": float(cpus)})
        assert most_replicas(islands) == expected
