"""Fault drill of a pretraining: ``python benchmarks/fault_drill_pretraining.py --kills 15``.

A Ray cluster of a head and two nodes runs on this machine, and ``gennape pretrain`` trains on it, on one worker a node.
At steps and in an order that ``--seed`` decides, a worker or the command itself is killed by SIGKILL, or a node with
all that is on it; nodes come back, the command is repeated.

At the end: has the encoder the bytes of an undisturbed pretraining, is there one run in MLflow, and is its learning
curve part of the undisturbed one?
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gennape.platform.cluster.connection import ENVIRONMENT, LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray.cluster_utils import Cluster

KINDS = ("worker", "node", "driver")
NODES = 2
PATIENCE_S = 240.0  # for anything that has to come back; on a busy machine that takes its time
QUICK = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
EVERY, BATCH, NETWORKS = 5, 32, 320
SIZES = ["--hidden", "8", "--layers", "1", "--embedding", "4"]


def say(line: str) -> None:
    """A line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def wait_for(what: str, condition: Callable[[], Any]) -> Any:
    """The first true value of a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"no {what} within {PATIENCE_S:g} s")
        time.sleep(0.02)
    return found


def start_cluster(stack: ExitStack) -> Cluster:
    """A head that drives and two nodes that work, until the stack is closed."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415 (the environment comes first)

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK}
    )
    stack.callback(cluster.shutdown)
    return cluster


class PretrainingDrill:
    """A command that works on a cluster, and what is killed on the way to its end.

    ``progress`` counts what is done, and must never fall; ``actor`` is the class of the workers.
    """

    def __init__(
        self, cluster: Cluster, command: list[str], progress: Callable[[], int], actor: str, output: Path
    ) -> None:
        self.cluster, self.command, self.progress, self.actor, self.output = cluster, command, progress, actor, output
        self.nodes = [cluster.add_node(num_cpus=1) for _ in range(NODES)]
        self.driver = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """What it and Ray say goes to a file: much is said of every loss."""
        with self.output.open("ab") as output:
            return subprocess.Popen(self.command, stdout=output, stderr=output)  # noqa: S603

    def ended(self) -> bool:
        """Whether the command has done its work; fails when it has ended in another way."""
        if self.driver.poll() not in (None, 0):
            said = self.output.read_text()[-4000:]
            raise SystemExit(f"{said}\nthe command ended by itself with status {self.driver.returncode}")
        return self.driver.poll() == 0

    def beyond(self, amount: int) -> bool:
        """Whether more than so much is done, and the command still at work."""
        if self.ended():
            raise SystemExit("the command was done before the last kill; give it more to do")
        return self.progress() > amount

    def run(self, moments: list[int], kinds: list[str], rng: np.random.Generator) -> None:
        """Kill at each moment, see that the work goes on, and wait for its end; prints each kill and what it cost."""
        done = 0
        for at, kind in zip(moments, kinds, strict=True):
            due = max(at, done)
            wait_for(f"progress beyond {due}", lambda due=due: self.beyond(due))
            before, began = self.progress(), time.monotonic()
            self.kill(kind, rng)
            done = self.progress()
            wait_for("progress after a kill", lambda done=done: self.beyond(done))
            say(f"{before:5d} done: {kind:6s} killed, goes on after {time.monotonic() - began:4.1f} s")
        wait_for("end", self.ended)

    def kill(self, kind: str, rng: np.random.Generator) -> None:
        """Kill one of a kind, chosen at random, and start again what nobody else would."""
        if kind == "driver":
            self.driver.kill()
            self.driver.wait()
            self.driver = self.start()
        elif kind == "node":
            self.cluster.remove_node(self.nodes.pop(int(rng.integers(len(self.nodes)))), allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=1))
        else:
            while True:
                pid = int(rng.choice(wait_for("worker", self.workers)))
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:  # it was on a node that is gone
                    continue
                return

    def workers(self) -> list[int]:
        """Processes of living workers."""
        actors = sorted(self.cluster.global_state.actor_table(None).items())  # the state API needs the dashboard
        return [a["Pid"] for _, a in actors if a["State"] == "ALIVE" and a["ActorClassName"].startswith(self.actor)]

    def close(self) -> None:
        """End the command, however it stands, and the nodes."""
        self.driver.kill()
        self.driver.wait()
        while self.nodes:
            self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)


def pretraining(epochs: int, address: str, folder: Path, name: str) -> list[str]:
    """The command."""
    return [
        sys.executable, "-m", "gennape", "pretrain", "--family", "hiaml", "--sample", str(NETWORKS), "--batch",
        str(BATCH), "--epochs", str(epochs), *SIZES, "--checkpoint-every", str(EVERY), "--workers",
        str(NODES), "--seed", "3", "--address", address, "--out", str(folder / name),
        "--workspace", str(folder / "workspace"),
    ]  # fmt: skip


def curve(folder: Path, name: str) -> tuple[int, list[tuple[int, float]]]:
    """Runs in MLflow that ended with this encoder, and the losses of the first by step."""
    from gennape.platform.tracking.tracker import open_store  # noqa: PLC0415

    client, experiment = open_store(folder / "workspace")
    runs = [run for run in client.search_runs([experiment]) if run.data.params["out"] == str(folder / name)]
    return len(runs), [(m.step, m.value) for m in client.get_metric_history(runs[0].info.run_id, "loss")]


def schedule(kills: int, last: int, rng: np.random.Generator) -> tuple[list[int], list[str]]:
    """Moments up to ``last``, and what is killed at each; all kinds equally often."""
    moments = np.sort(rng.choice(np.arange(1, last + 1), kills, replace=False))
    return moments.tolist(), rng.permutation(np.resize(rng.permutation(KINDS), kills)).tolist()


def main() -> None:
    """Run the drill; the exit status tells whether it was passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # Before Ray starts; on loopback, and tokens would be written to ~.
    os.environ.update(ENVIRONMENT | LOOPBACK | {"RAY_AUTH_MODE": "disabled"})
    from gennape.platform.training.pretraining import newest_state, training_folder  # noqa: PLC0415
    from gennape.platform.training.worker import step_of  # noqa: PLC0415

    rng, began, epochs = np.random.default_rng(options.seed), time.monotonic(), 4 * (options.kills + 2)
    with tempfile.TemporaryDirectory(prefix="gennape-") as name, ExitStack() as stack:
        folder, whole, broken = Path(name), "undisturbed", "disturbed"
        cluster = start_cluster(stack)

        def drill(out: str) -> PretrainingDrill:
            state = training_folder(folder / out, folder / "workspace")
            command = pretraining(epochs, cluster.address, folder, out)
            made = PretrainingDrill(
                cluster, command, lambda: step_of(newest_state(state)), "RayTrainWorker", folder / "log"
            )
            stack.callback(made.close)
            return made

        first = drill(whole)
        first.run([], [], rng)
        first.close()
        _, expected = curve(folder, whole)
        say(f"undisturbed: {expected[-1][0]} steps, {time.monotonic() - began:.0f} s")
        moments, kinds = schedule(options.kills, int(0.75 * expected[-1][0]), rng)
        drill(broken).run(moments, kinds, rng)
        runs, losses = curve(folder, broken)
        same = (folder / broken / "weights.safetensors").read_bytes() == (
            folder / whole / "weights.safetensors"
        ).read_bytes()
        part = set(losses) <= set(expected) and losses[-1] == expected[-1]
    say(
        f"{options.kills} kills in {time.monotonic() - began:.0f} s: same bytes {same}, runs in MLflow {runs}, "
        f"learning curve part of the undisturbed {part}"
    )
    if not (same and part and runs == 1):
        raise SystemExit("drill failed")


if __name__ == "__main__":
    main()
