"""MLflow's web interface on a workspace."""

from __future__ import annotations

import json
import socket
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from gennape.errors import ServiceError
from gennape.platform.cluster import local_ray
from gennape.platform.tracking import track
from gennape.platform.tracking_ui import serve_ui

if TYPE_CHECKING:
    from pathlib import Path

# MLflow's own, of its tables.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def _get(url: str, body: dict[str, Any] | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})  # noqa: S310 (loopback)
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        content: bytes = answer.read()
        return content


def _runs(address: str) -> list[dict[str, Any]]:
    api = f"{address}/api/2.0/mlflow"
    experiment = json.loads(_get(f"{api}/experiments/get-by-name?experiment_name=gennape"))["experiment"]
    found = json.loads(_get(f"{api}/runs/search", {"experiment_ids": [experiment["experiment_id"]]}))
    runs: list[dict[str, Any]] = found.get("runs", [])
    return runs


@pytest.mark.cluster
def test_opened_before_any_run_it_shows_later_ones(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "front.csv").write_text("index,accuracy\n")
    with serve_ui(tmp_path, 0) as (address, process):
        assert b"<html" in _get(address)
        assert _runs(address) == []
        with local_ray(None, num_cpus=1), track(tmp_path, "later", {"space": "hiaml"}) as tracker:
            tracker.metrics(0, {"hypervolume": 2.5})
            tracker.artifacts(tmp_path / "files")
        (run,) = _runs(address)
        assert run["info"]["run_name"] == "later"
        assert run["data"]["metrics"][0]["value"] == 2.5
        artifact = _get(f"{address}/get-artifact?path=front.csv&run_uuid={run['info']['run_id']}")
        assert artifact == b"index,accuracy\n"
    assert process.poll() is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.lock", "artifacts", "files", "mlflow.db"]


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=f"port {port}: .*another port"), serve_ui(tmp_path, port):
            pass
    assert list(tmp_path.iterdir()) == []
