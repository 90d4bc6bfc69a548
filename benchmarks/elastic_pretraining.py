"""A cluster that grows and shrinks: ``python benchmarks/elastic_pretraining.py``.

Ray's own autoscaler runs the groups of ``cluster.yaml`` on this machine, on the provider of Ray that starts a process
in place of a rented machine: a head without workers, and a ``gpu`` group that declares GPUs, which PyTorch does not
find, so that workers fall back to processors. A small pretraining asks for them; nodes come, train, and go when idle.

At the end: did GPU nodes come for all workers, did the encoder get finished on them, are all gone?
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from gennape.platform.cluster.connection import ENVIRONMENT, LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DESCRIPTION = Path(__file__).resolve().parents[1] / "cluster.yaml"
PATIENCE_S = 240.0
HEAD = "ray.head.default"  # as the provider calls it
STORE_BYTES = 100 * 2**20  # of each node, in the place of 30 % of the memory
#: Keys that the launcher fills in and the autoscaler expects.
UNUSED: dict[str, Any] = {
    "auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": [], "rsync_exclude": [], "rsync_filter": [],
    "file_mounts_sync_continuously": False, "initialization_commands": [], "setup_commands": [],
    "head_setup_commands": [], "worker_setup_commands": [], "head_start_ray_commands": [],
    "worker_start_ray_commands": [], "head_node": {}, "worker_nodes": {}, "no_restart": False,
}  # fmt: skip


def autoscaling(description: dict[str, Any], gcs: str, idle_s: float) -> dict[str, Any]:
    """The cluster of a description on the provider that only starts processes, with a CPU to a node."""
    groups = {
        name: {
            "min_workers": group.get("min_workers", 0),
            "max_workers": group["max_workers"],
            "resources": {**group["resources"], "CPU": 1, "object_store_memory": STORE_BYTES},
            "node_config": {},
        }
        for name, group in description["available_node_types"].items()
        if name != description["head_node_type"]
    }
    head = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0}
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "gcs_address": gcs,
    }
    return {
        "cluster_name": description["cluster_name"],
        "max_workers": description["max_workers"],
        "upscaling_speed": description["upscaling_speed"],
        "idle_timeout_minutes": idle_s / 60,
        "provider": provider,
        "available_node_types": {HEAD: head, **groups},
        "head_node_type": HEAD,
        **UNUSED,
    }


@contextmanager
def cluster(folder: Path, idle_s: float) -> Iterator[str]:
    """A head with its autoscaler; yields its address, and ends all that it has started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    file = folder / "autoscaling.json"  # which is YAML, too
    file.write_text(json.dumps(autoscaling(yaml.safe_load(DESCRIPTION.read_text()), f"127.0.0.1:{port}", idle_s)))
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=1",
        f"--object-store-memory={STORE_BYTES}", "--include-dashboard=false", f"--autoscaling-config={file}",
        "--node-ip-address=127.0.0.1", f"--temp-dir={folder / 'r'}",
    ]  # fmt: skip
    environment = os.environ | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with (folder / "head.log").open("wb") as output:
        head = subprocess.Popen(command, env=environment, stdout=output, stderr=output)  # noqa: S603
    try:
        yield f"127.0.0.1:{port}"
    finally:
        below = descendants(head.pid)
        head.kill()
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        head.wait()


def descendants(pid: int) -> set[int]:
    """Processes that a process has started, and theirs."""
    import psutil  # noqa: PLC0415

    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


class Timeline:
    """What happened when; lines are printed as they come."""

    def __init__(self) -> None:
        self.start, self.before = time.monotonic(), 0

    def say(self, line: str) -> None:
        """A line, at once."""
        sys.stdout.write(f"{time.monotonic() - self.start:6.1f} s  {line}\n")
        sys.stdout.flush()

    def gpu_nodes(self) -> int:
        """How many are up now; says so when it changes."""
        import ray  # noqa: PLC0415 (the environment comes first)

        up = sum(bool(node["Alive"] and node["Resources"].get("GPU")) for node in ray.nodes())
        if up != self.before:
            self.say(f"GPU nodes: {up}")
        self.before = up
        return up


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Until a condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"no {what} within {PATIENCE_S:g} s")
        time.sleep(0.1)


def join(address: str) -> None:
    """Connect, once the head is up."""
    import ray  # noqa: PLC0415

    def connected() -> bool:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError):
            return False
        return True

    wait_for("head", connected)


def run(workers: int, idle_s: float, epochs: int) -> None:
    """The pretraining, and the nodes that come and go with it."""
    import ray  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="gennape-") as name, ExitStack() as stack:
        folder = Path(name)
        address = stack.enter_context(cluster(folder, idle_s))
        join(address)
        stack.callback(ray.shutdown)
        timeline = Timeline()
        if timeline.gpu_nodes():
            raise SystemExit("a GPU node before anything asked for it")
        timeline.say(f"head alone; a pretraining asks for {workers} GPUs")
        command = [
            sys.executable, "-m", "gennape", "pretrain", "--family", "hiaml", "--sample", "256", "--batch", "32",
            "--epochs", str(epochs), "--hidden", "8", "--layers", "1", "--embedding", "4", "--workers", str(workers),
            "--gpus-per-worker", "1", "--address", address, "--out", str(folder / "encoder"),
            "--workspace", str(folder / "workspace"),
        ]  # fmt: skip
        most = 0
        with (folder / "pretrain.log").open("wb") as output:
            driver = subprocess.Popen(command, stdout=output, stderr=output)  # noqa: S603
        stack.callback(driver.wait)
        stack.callback(driver.kill)

        def ended() -> bool:
            nonlocal most
            most = max(most, timeline.gpu_nodes())
            return driver.poll() is not None

        wait_for("end of the pretraining", ended)
        if driver.returncode:
            raise SystemExit((folder / "pretrain.log").read_text()[-4000:])
        checkpoint = json.loads((folder / "encoder" / "checkpoint.json").read_text())
        timeline.say(f"encoder written, by groups of {checkpoint['provenance']['workers']} workers")
        wait_for("end of the idle nodes", lambda: timeline.gpu_nodes() == 0)
        timeline.say(f"{most} GPU nodes for {workers} workers came, worked and went")
        if most < workers:
            raise SystemExit("drill failed")


def main() -> None:
    """Run it; the exit status tells whether nodes came and went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="GPUs that are asked for, at most the group's")
    parser.add_argument("--idle", type=float, default=6, help="seconds after which an idle node goes")
    parser.add_argument("--epochs", type=int, default=36)
    options = parser.parse_args()
    # Before Ray starts; on loopback, and tokens would be written to ~.
    os.environ.update(ENVIRONMENT | LOOPBACK | {"RAY_AUTH_MODE": "disabled"})
    run(options.workers, options.idle, options.epochs)


if __name__ == "__main__":
    main()
