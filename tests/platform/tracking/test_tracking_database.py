"""The file of a workspace's store: made by one process at a time, whole or not there, never asked to be deleted."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gennape.errors import WorkspaceError
from gennape.platform.tracking.store import open_store, store_uri

# MLflow's own, of its tables.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

OPENERS = Path(__file__).parents[2] / "support" / "store_openers.py"
#: One of the first versions of MLflow's tables, and one of the middle.
VERSIONS = ("451aebb31d03", "0a8213491aaa")


def _openers(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, str(OPENERS), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _at_version(path: Path, version: str) -> None:
    """A database as MLflow leaves it where it is killed having come so far."""
    from alembic import command
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine(f"sqlite:///{path}")
    utils.InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(f"sqlite:///{path}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
    engine.dispose()


def _sql(path: Path, *statements: str) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
        connection.commit()
    return rows


@pytest.mark.cluster
@pytest.mark.parametrize("counts", [(4,), pytest.param((2, 4, 8), marks=pytest.mark.drill)], ids=str)
def test_processes_open_one_new_workspace_at_once(tmp_path: Path, counts: tuple[int, ...]) -> None:
    _openers("together", tmp_path, *counts)


@pytest.mark.cluster
@pytest.mark.parametrize(("times", "seed"), [(1, 1), pytest.param(4, 0, marks=pytest.mark.drill)])
def test_a_process_killed_while_it_makes_the_store_leaves_nothing_in_the_way(
    tmp_path: Path, times: int, seed: int
) -> None:
    """The first moment of seed 1 comes after an eighth of the time that the making takes."""
    said = _openers("killed", tmp_path, times, seed)
    assert int(re.match(rf"(\d) of {times} were killed", said)[1]) > 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_half_made_store_without_records_is_made_anew(tmp_path: Path, version: str) -> None:
    _at_version(tmp_path / "mlflow.db", version)
    _sql(tmp_path / "mlflow.db", "CREATE TABLE _alembic_tmp_experiments (name TEXT)")
    client, experiment = open_store(tmp_path)
    run = client.create_run(experiment)
    assert [found.info.run_id for found in open_store(tmp_path)[0].search_runs([experiment])] == [run.info.run_id]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.lock", "mlflow.db"]


@pytest.mark.parametrize("content", [b"", None])
def test_an_empty_file_is_no_store_yet(tmp_path: Path, content: bytes | None) -> None:
    if content is None:
        _sql(tmp_path / "mlflow.db", "CREATE TABLE experiments (name TEXT)")  # killed after its first statement
    else:
        (tmp_path / "mlflow.db").write_bytes(content)
    client, experiment = open_store(tmp_path)
    assert client.get_experiment(experiment).name == "gennape"


def test_an_unfinished_store_with_runs_is_completed_and_the_former_kept(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    _at_version(path, VERSIONS[1])
    _sql(
        path,
        "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'gennape', 'active')",
        "INSERT INTO runs (run_uuid, name, experiment_id, lifecycle_stage, status, artifact_uri, source_type, "
        "user_id, start_time) VALUES ('abc', 'old', 7, 'active', 'FINISHED', 'file:///x', 'LOCAL', 'me', 1)",
        "CREATE TABLE _alembic_tmp_runs AS SELECT * FROM runs",
    )
    client, experiment = open_store(tmp_path)
    assert experiment == "7"
    assert [run.info.run_id for run in client.search_runs([experiment])] == ["abc"]
    assert _sql(tmp_path / "mlflow-before-1.db", "SELECT run_uuid FROM runs") == [("abc",)]


def test_a_store_with_runs_that_cannot_be_completed_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    client, experiment = open_store(tmp_path)
    client.create_run(experiment)
    _sql(path, "UPDATE alembic_version SET version_num = 'fromthefuture'")
    before = path.read_bytes()
    with pytest.raises(WorkspaceError, match=r"of another version of MLflow.*fromthefuture.*left as it is") as refused:
        open_store(tmp_path)
    assert "move it away" not in str(refused.value)
    assert "delete" not in str(refused.value)
    assert path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.lock", "mlflow.db"]


def test_the_store_is_private_to_its_workspace(tmp_path: Path) -> None:
    """Also MLflow's own experiment keeps its files there, and nothing is made where the process happens to be."""
    client, _ = open_store(tmp_path)
    assert store_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert all(str(tmp_path) in found.artifact_location for found in client.search_experiments())
