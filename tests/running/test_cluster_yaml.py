"""The cluster description, as Ray's cluster launcher reads it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

FILE = Path(__file__).parents[2] / "cluster.yaml"
CONFIG: dict[str, Any] = yaml.safe_load(FILE.read_text())


def _accept(config: dict[str, Any]) -> dict[str, Any]:
    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_the_launcher_accepts_it() -> None:
    prepared = _accept(CONFIG)
    assert set(prepared["available_node_types"]) == {"head", "cpu", "gpu"}
    assert prepared["idle_timeout_minutes"] > 0


@pytest.mark.parametrize(
    ("where", "key"), [((), "idle_timeout_minute"), (("available_node_types", "gpu"), "max_worker")]
)
def test_a_typo_is_rejected(where: tuple[str, ...], key: str) -> None:
    config = copy.deepcopy(CONFIG)
    place = config
    for step in where:
        place = place[step]
    place[key] = 1
    with pytest.raises(ValidationError, match=key):
        _accept(config)


def test_searches_run_on_demand_and_training_on_spot_from_none_to_some() -> None:
    cpu, gpu = CONFIG["available_node_types"]["cpu"], CONFIG["available_node_types"]["gpu"]
    assert "InstanceMarketOptions" not in cpu["node_config"]
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert (gpu["min_workers"], gpu["resources"]["GPU"]) == (0, 1)
    assert cpu["max_workers"] + gpu["max_workers"] <= CONFIG["max_workers"]


def test_nodes_run_the_ray_that_is_pinned_and_install_the_wheel() -> None:
    images = [CONFIG["docker"]["image"], CONFIG["available_node_types"]["gpu"]["docker"]["worker_image"]]
    assert all(image.startswith(f"rayproject/ray:{ray.__version__}-py311") for image in images)
    assert any("gennape-*.whl" in command for command in CONFIG["setup_commands"])


def test_the_cluster_is_locked() -> None:
    starts = CONFIG["head_start_ray_commands"] + CONFIG["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in command for command in starts if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in CONFIG["head_start_ray_commands"][-1]
