"""Fault drill of a search: ``python benchmarks/fault_drill_search.py --kills 25``.

A Ray cluster of a head and two nodes runs on this machine; a driver of its own process searches on it, its predictor (a
formula that takes a while) served by two replicas. At moments and in an order that ``--seed`` decides, an island, a
replica or the driver is killed by SIGKILL, or a node with all that is on it; nodes come back, the driver is started
again. Between kills the search may run on a little, so that it is at work at every one of them.

At the end: is every evaluation that was ever in the log still there, is any there twice, and are log and front those of
an undisturbed search in one process? With ``--asynchronous`` fronts are not compared, since they depend on timing.
"""

from __future__ import annotations

import argparse
import json
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
from gennape.platform.search.config import SearchConfig, search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.failures import FILE
from gennape.platform.search.log import SHARDS, read_shard
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.search_spaces.files.atomic import atomic_write_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray.cluster_utils import Cluster

    from gennape.platform.search.driver import GenerationRecord
    from gennape.predictors.predictor import Prediction
    from gennape.search_spaces.graphs.graph import PackedGraphs

KINDS = ("island", "replica", "node", "driver")
CLASSES = {"island": "Island", "replica": "ServeReplica"}
NODES, NODE_CPUS = 2, 2
PATIENCE_S = 180.0  # for anything that has to come back; on a busy machine that takes its time
AHEAD = 3  # rounds that the search may be ahead of the next kill
CONFIG, RESULT, LIMIT, OUTPUT = "drill.json", "front.csv", "limit", "driver.log"
QUICK = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}


class SlowPredictor(SyntheticPredictor):
    """The formula, a moment later."""

    def predict(self, graphs: PackedGraphs) -> Prediction:
        """The same answers."""
        time.sleep(0.1)
        return super().predict(graphs)


def load_slow(_: Path | None) -> SlowPredictor:
    """What replicas load in place of a checkpoint."""
    return SlowPredictor()


def drive(folder: Path, address: str) -> None:
    """The driver: as ``gennape search`` does it, but for tracking and the report."""
    import ray.cloudpickle  # noqa: PLC0415 (the environment comes first)
    from ray import serve  # noqa: PLC0415

    from gennape.platform.cluster.connection import local_ray  # noqa: PLC0415
    from gennape.platform.search.ray_islands import RayIslands  # noqa: PLC0415
    from gennape.platform.serving.deployment import ServingConfig, serve_ensemble  # noqa: PLC0415

    ray.cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    config = SearchConfig(**json.loads((folder / CONFIG).read_text()))
    with local_ray(address), ExitStack() as stack:
        for orphan in serve.status().applications:  # of a driver that was killed
            serve.delete(orphan)
        handle = stack.enter_context(serve_ensemble(ServingConfig(min_replicas=2, max_replicas=2), load_slow))
        islands = stack.enter_context(RayIslands(config, handle))

        def wait(record: GenerationRecord) -> None:
            while record.generation + 1 >= int((folder / LIMIT).read_text()):
                time.sleep(0.02)

        result = run_search(config, folder, islands, wait)
        result.front.to_csv(folder / RESULT, index=False)


def wait_for(what: str, condition: Callable[[], Any]) -> Any:
    """The first true value of a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"no {what} within {PATIENCE_S:g} s")
        time.sleep(0.02)
    return found


def say(line: str) -> None:
    """A line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class SearchDrill:
    """The cluster, the driver, and what is killed."""

    def __init__(self, folder: Path, cluster: Cluster, rng: np.random.Generator) -> None:
        self.folder = folder
        self.cluster = cluster
        self.rng = rng
        self.nodes = [cluster.add_node(num_cpus=NODE_CPUS) for _ in range(NODES)]
        self.seen: list[str] = []
        self.shards = 0
        self.allow(0)
        self.driver = self.start_driver()

    def start_driver(self) -> subprocess.Popen[bytes]:
        """What it and Ray say goes to a file: much is said of every loss."""
        command = [sys.executable, __file__, "--drive", str(self.folder), "--address", self.cluster.address]
        with (self.folder / OUTPUT).open("ab") as output:
            return subprocess.Popen(command, stdout=output, stderr=output)  # noqa: S603

    def allow(self, rounds: int) -> None:
        """Let the search go on to a round."""
        atomic_write_bytes(self.folder / LIMIT, str(rounds).encode())

    def rounds(self) -> int:
        """Shards in the log; fails when the driver has ended in any other way than by finishing."""
        if self.driver.poll() not in (None, 0):
            said = (self.folder / OUTPUT).read_text()[-4000:]
            raise SystemExit(f"{said}\nthe driver ended by itself with status {self.driver.returncode}")
        return len(list((self.folder / SHARDS).glob("*.parquet")))

    def read(self) -> None:
        """Note the hashes of shards not read yet: from here on they must not be lost."""
        for number in range(self.shards, self.rounds()):
            self.seen += read_shard(self.folder, number).hashes.tolist()
            self.shards += 1

    def processes(self, kind: str) -> list[int]:
        """Of living islands or replicas."""
        actors = sorted(self.cluster.global_state.actor_table(None).items())  # the state API needs the dashboard
        return [a["Pid"] for _, a in actors if a["State"] == "ALIVE" and a["ActorClassName"].startswith(CLASSES[kind])]

    def kill(self, kind: str) -> None:
        """Kill one of a kind, chosen at random, and start again what nobody else would."""
        if kind == "driver":
            self.driver.kill()
            self.driver.wait()
            self.driver = self.start_driver()
        elif kind == "node":
            node = self.nodes.pop(int(self.rng.integers(len(self.nodes))))
            self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=NODE_CPUS))
        else:
            while True:
                pid = int(self.rng.choice(wait_for(kind, lambda: self.processes(kind))))
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:  # it was on a node that is gone
                    continue
                return

    def close(self) -> None:
        """End the driver, however it stands."""
        self.driver.kill()
        self.driver.wait()


def run(config: SearchConfig, kills: int, seed: int, expected_rounds: int) -> tuple[list[str], list[str], str]:
    """Hashes seen in the log on the way, all in the end, and the front; prints each kill and what it cost."""
    from ray.cluster_utils import Cluster  # noqa: PLC0415

    rng = np.random.default_rng(seed)
    # Two rounds apart at least, and the search is not to end before the last of them.
    last = max(expected_rounds - 2 * AHEAD - kills, kills)
    moments = np.sort(rng.choice(np.arange(1, last + 1), kills, replace=False)) + np.arange(kills)
    kinds = rng.permutation(np.resize(rng.permutation(KINDS), kills))
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / CONFIG).write_text(config.model_dump_json())
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        stack.callback(cluster.shutdown)
        drill = SearchDrill(folder, cluster, rng)
        stack.callback(drill.close)
        for at, kind in zip(moments.tolist(), kinds.tolist(), strict=True):
            drill.allow(at + AHEAD)
            wait_for(f"round {at}", lambda at=at: drill.rounds() >= at)
            time.sleep(rng.uniform(0, 0.3))
            drill.read()
            before, began = drill.rounds(), time.monotonic()
            drill.kill(kind)
            drill.allow(before + AHEAD)
            wait_for(
                "round after a kill", lambda before=before: drill.rounds() > before + 1 or drill.driver.poll() == 0
            )
            waited = time.monotonic() - began
            say(f"round {before:3d}: {kind:7s} killed, two rounds later after {waited:4.1f} s")
        drill.allow(10**9)
        drill.read()
        wait_for("end of the search", lambda: (drill.rounds(), drill.driver.poll() == 0)[1])
        seen = drill.seen.copy()
        drill.read()
        if (folder / FILE).exists():
            events = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
            names = sorted({event["state"] for event in events})
            counts = ", ".join(f"{n} {sum(e['state'] == n for e in events)}" for n in names)
            say(f"in {FILE}: {counts}")
        return seen, drill.seen, (folder / RESULT).read_text()


def undisturbed(config: SearchConfig) -> tuple[list[str], str, int]:
    """Hashes in order, front and rounds of the search in one process."""
    from gennape.platform.search.islands import LocalIslands  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as name:
        result = run_search(config, Path(name), LocalIslands(config, SyntheticPredictor()))
        front = result.front.to_csv(index=False)
        return result.evaluations["hash"].tolist(), front, len(list((Path(name) / SHARDS).iterdir()))


def main() -> None:
    """Run the drill; the exit status tells whether it was passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--islands", type=int, default=3)
    parser.add_argument("--evaluations", type=int, help="default: enough for the kills")
    parser.add_argument("--asynchronous", action="store_true")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Before Ray starts; the cluster is this machine's alone, and tokens would be written to the user's home.
    os.environ.update(ENVIRONMENT | LOOPBACK | {"RAY_AUTH_MODE": "disabled"})
    if options.drive:
        drive(options.drive, options.address)
        return
    config = search_config(
        space="hiaml",
        evaluations=options.evaluations or 400 + 150 * options.kills,
        population=20,
        batch=20,
        islands=options.islands,
        migration_every=2,
        seed=options.seed,
        asynchronous=options.asynchronous,
    )
    began = time.monotonic()
    hashes, front, rounds = undisturbed(config)
    seen, final, got = run(config, options.kills, options.seed, rounds)
    lost, twice = len(set(seen) - set(final)), len(final) - len(set(final))
    identical = final == hashes and got == front
    say(
        f"{options.kills} kills, {len(final)} of {config.evaluations} evaluations in {time.monotonic() - began:.0f} s: "
        f"lost {lost}, duplicates {twice}, log in order {final[: len(seen)] == seen}"
        + ("" if options.asynchronous else f", log and front identical to undisturbed {identical}")
    )
    passed = not lost and not twice and len(final) == config.evaluations and final[: len(seen)] == seen
    if not (passed and (identical or options.asynchronous)):
        raise SystemExit("drill failed")


if __name__ == "__main__":
    main()
