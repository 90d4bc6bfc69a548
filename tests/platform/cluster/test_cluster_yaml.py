"""The cluster description, as Ray's cluster launcher reads it."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from jsonschema import ValidationError
from packaging.requirements import Requirement
from ray.autoscaler._private.util import prepare_config, validate_config

import gennape

FILE = Path(__file__).parents[3] / "cluster.yaml"
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


# KubeRay: the same cluster, described for Kubernetes ------------------------------------------------------------------

DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((FILE.parent / "kuberay.yaml").read_text()))
KUBERAY: dict[str, Any] = next(document["spec"] for document in DOCUMENTS if document["kind"] == "RayCluster")
GROUPS: dict[str, dict[str, Any]] = {group["groupName"]: group for group in KUBERAY["workerGroupSpecs"]}


def _container(group: dict[str, Any]) -> dict[str, Any]:
    (container,) = group["template"]["spec"]["containers"]
    return dict(container)


def test_kubernetes_gets_the_same_groups_with_the_same_bounds_and_resources() -> None:
    types = CONFIG["available_node_types"]
    assert set(GROUPS) == set(types) - {CONFIG["head_node_type"]}
    for name, group in GROUPS.items():
        assert (group["minReplicas"], group["maxReplicas"]) == (types[name]["min_workers"], types[name]["max_workers"])
        limits = _container(group)["resources"]["limits"]
        assert int(limits["cpu"]) == types[name]["resources"]["CPU"]
        assert int(limits.get("nvidia.com/gpu", 0)) == types[name]["resources"].get("GPU", 0)
        selector = group["template"]["spec"]["nodeSelector"]["eks.amazonaws.com/capacityType"]
        assert selector == ("SPOT" if "InstanceMarketOptions" in types[name]["node_config"] else "ON_DEMAND")
    head = _container(KUBERAY["headGroupSpec"])["resources"]["limits"]
    assert int(head["cpu"]) == types[CONFIG["head_node_type"]]["resources"]["CPU"]
    assert KUBERAY["autoscalerOptions"]["idleTimeoutSeconds"] == 60 * CONFIG["idle_timeout_minutes"]
    assert KUBERAY["enableInTreeAutoscaling"] is True


def test_kubernetes_runs_the_ray_and_the_gennape_that_are_pinned_and_shares_the_workspace() -> None:
    text = (FILE.parent / "kuberay.yaml").read_text()
    assert str(KUBERAY["rayVersion"]) == ray.__version__
    assert f"FROM rayproject/ray:{ray.__version__}-py311-%s" in text
    assert KUBERAY["authOptions"]["mode"] == "token"
    (claim,) = [document for document in DOCUMENTS if document["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in (KUBERAY["headGroupSpec"], *GROUPS.values()):
        container = _container(group)
        kind = "gpu" if "nvidia.com/gpu" in container["resources"]["limits"] else "cpu"
        assert container["image"] == f"gennape:{gennape.__version__}-{kind}"
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/home/ray/gennape-workspace"]
        (volume,) = group["template"]["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_constraints_pin_the_same_ray() -> None:
    project = tomllib.loads((FILE.parent / "pyproject.toml").read_text())["project"]
    (ranged,) = [Requirement(one) for one in project["dependencies"] if one.startswith("ray[")]
    assert ray.__version__ in ranged.specifier
    assert f"ray=={ray.__version__}" in (FILE.parent / "constraints.txt").read_text().splitlines()
    assert project["requires-python"] == ">=3.11,<3.13"  # the images' Python is 3.11


def test_workers_share_the_workspace_of_the_head() -> None:
    """A pretraining's checkpoints are on the head's disk; its workers mount it."""
    workspace = "-v /srv/gennape-workspace:/home/ray/gennape-workspace"
    assert workspace in CONFIG["docker"]["run_options"]
    for name in ("cpu", "gpu"):
        commands = CONFIG["available_node_types"][name]["initialization_commands"]
        assert any("mount" in command and "$RAY_HEAD_IP:/srv/gennape-workspace" in command for command in commands)
    assert any("exportfs" in command for command in CONFIG["initialization_commands"])  # of the head, and only there
