"""Where a search runs: in this process or on Ray, with the same result, whichever is chosen."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import gennape as gp
from gennape.errors import ConfigError
from gennape.platform.search import placement
from gennape.platform.search.config import search_config
from gennape.platform.search.placement import placement_of
from gennape.platform.search.runs import status_of
from gennape.platform.tracking.store import open_store

if TYPE_CHECKING:
    from pathlib import Path

# MLflow's own, of its tables.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


@pytest.mark.parametrize(
    ("evaluations", "islands", "cores", "local", "why"),
    [
        (5_000_000, 8, 2, True, "8 islands on 2 cores would gain nothing from Ray"),
        (5_000_000, 1, 64, True, "1 island on 64 cores would gain nothing from Ray"),
        (24_000, 2, 4, True, "24,000 evaluations by 2 islands take no longer than starting Ray"),
        (24_001, 2, 4, False, "24,001 evaluations by 2 islands take longer than starting Ray, on 4 cores"),
        (16_001, 8, 8, False, "16,001 evaluations by 8 islands take longer than starting Ray, on 8 cores"),
        (24_000, 2, 64, True, "24,000 evaluations by 2 islands take no longer than starting Ray"),
    ],
)
def test_a_search_runs_where_it_ends_sooner(
    monkeypatch: pytest.MonkeyPatch, evaluations: int, islands: int, cores: int, local: bool, why: str
) -> None:
    """Two islands abreast save half the time of one process, of four three quarters, and starting Ray costs 12,000."""
    monkeypatch.setattr(placement, "connected", lambda: False)
    config = search_config(space="hiaml", evaluations=evaluations, islands=islands)
    found = placement_of(config, cores=cores)
    assert (found.local, found.why) == (local, why)


def test_what_the_user_said_and_a_ray_in_use_count_first(monkeypatch: pytest.MonkeyPatch) -> None:
    config = search_config(space="hiaml")
    assert placement_of(config, local=False) == placement.Placement(False)
    assert placement_of(config.model_copy(update={"evaluations": 10**9}), local=True, cores=64).local
    assert placement_of(config, address="auto") == placement.Placement(False)
    monkeypatch.setattr(placement, "connected", lambda: True)
    assert placement_of(config) == placement.Placement(False)
    assert placement_of(config, local=True) == placement.Placement(True)


def test_this_process_is_on_no_cluster_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got the address 'auto'; leave out one of the two"):
        gp.search("hiaml", address="auto", local=True, workspace=tmp_path)
    assert list(tmp_path.iterdir()) == []


def tracked(workspace: Path, result: gp.SearchResult) -> dict[str, Any]:
    """What MLflow holds of a run and its islands: status, parameters, values of metrics by step, and files."""
    client, experiment = open_store(workspace)
    run = client.get_run(status_of(result.folder)["tracking_run"])
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    metrics = {
        (one.info.run_name if one is not run else "", name): [
            (value.step, value.value) for value in client.get_metric_history(one.info.run_id, name)
        ]
        for one in (run, *children)
        for name in one.data.metrics
        if name != "evaluations_per_second"
    }
    files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
    return {
        "status": {one.info.status for one in (run, *children)},
        "params": run.data.params,
        "metrics": metrics,
        "files": files,
    }


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("space", ["hiaml", "ofa_mbv3"])
def test_both_ways_leave_the_same_bytes_and_the_same_in_mlflow(tmp_path: Path, space: str) -> None:
    results = {
        local: gp.search(space, evaluations=150, population=20, migration_every=2, local=local, workspace=tmp_path)
        for local in (True, False)
    }
    here, there = results[True].folder, results[False].folder
    shards = sorted(path.name for path in (here / "evaluations").iterdir())
    assert len(shards) > 3
    for name in (
        "report/front.csv",
        "report/front.json",
        "report/evaluations.parquet",
        *(f"evaluations/{s}" for s in shards),
    ):
        assert (here / name).read_bytes() == (there / name).read_bytes(), name
    assert shards == sorted(path.name for path in (there / "evaluations").iterdir())
    recorded = tracked(tmp_path, results[True])
    assert recorded == tracked(tmp_path, results[False])
    assert recorded["status"] == {"FINISHED"}
    assert len(recorded["metrics"]["", "hypervolume"]) == len(shards)
    assert {name for name, _ in recorded["metrics"]} == {"", "island-0", "island-1"}
    assert {"front.csv", "front.html", "front.png"} <= set(recorded["files"])


@pytest.mark.cluster
def test_a_search_in_this_process_imports_no_ray_and_says_why_it_runs_there(tmp_path: Path) -> None:
    program = (
        "import sys, gennape as gp, torch; threads = torch.get_num_threads(); "
        f"gp.search('hiaml', evaluations=60, population=10, workspace={str(tmp_path)!r}); "
        "assert torch.get_num_threads() == threads; sys.exit('ray' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "searching in this process: " in ended.stderr
