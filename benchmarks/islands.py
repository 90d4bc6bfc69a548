"""How a search scales with its islands: ``python benchmarks/islands.py``.

Islands, driver, messages, log and state are those of a real search; only time is simulated. Each island has a core of
its own: a step takes the processor time that it took here, alone, plus the latency of its predictor, drawn by a seeded
generator. What the driver does (packing tasks, unpacking steps, taking them in, writing log and state with fsync) takes
the time that it took here, one thing after another, and ``--call-ms`` more per message that it sends: what a call of an
actor takes there and back, which is more than it costs its caller. Efficiency is evaluations per second over islands
times those of one island with a steady predictor of the same mean.

Latencies of a population: ``steady`` varies by a tenth; ``exponential`` varies by all of its mean; ``straggler`` is
steady, but one island's is five times as long. ``--threads`` measures with a clock on the wall instead: islands are
threads of this process that sleep, so it means something as long as most of them are asleep. ``--memory N`` takes in N
evaluations from islands that cost nothing and prints how the driver's memory grows.
"""

from __future__ import annotations

import argparse
import heapq
import json
import pickle
import queue
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gennape.platform.search.config import SearchConfig, search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.evaluations import Evaluations, as_objects
from gennape.platform.search.islands import Island, Step, Task
from gennape.platform.search.objectives import NAMES
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.platform.search.seen import Measurements, SeenNetworks
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gennape.platform.search.driver import GenerationRecord
    from gennape.platform.search.failures import Loss
    from gennape.platform.search.searchers.base import State

    #: Latency of a population, in units of its mean, of an island.
    Draw = Callable[[np.random.Generator, int], float]

SLOWER = 5.0
LATENCIES: dict[str, Draw] = {
    "steady": lambda rng, _: float(rng.gamma(100, 0.01)),
    "exponential": lambda rng, _: float(rng.exponential()),
    "straggler": lambda rng, island: float(rng.gamma(100, 0.01)) * (SLOWER if island == 0 else 1),
}


@dataclass
class Traffic:
    """Messages and bytes from and to the driver."""

    messages: int = 0
    down: int = 0
    up: int = 0


@dataclass
class Simulated:
    """Islands in simulated time, one after another in this process."""

    config: SearchConfig
    latency_s: float
    draw: Draw
    call_s: float
    traffic: Traffic = field(default_factory=Traffic)
    now: float = 0.0
    driver_s: float = 0.0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.config.seed)
        self.islands: dict[int, Island] = {}
        self.ends: list[tuple[float, int, bytes]] = []
        self.clock = time.perf_counter()

    def driver_works(self) -> None:
        """Since the driver was last given control."""
        spent = time.perf_counter() - self.clock
        self.now += spent
        self.driver_s += spent

    def message(self, size: int, down: bool) -> None:
        """One more, of so many bytes; the call costs the driver its time as it is made."""
        self.traffic.messages += 1
        self.traffic.down += size * down
        self.traffic.up += size * (not down)
        self.now += self.call_s * down
        self.driver_s += self.call_s * down

    def start(self, states: Mapping[int, State | None], measurements: Measurements) -> None:
        """Before the clock."""
        for i, state in states.items():
            self.islands[i] = Island(self.config, i, SyntheticPredictor())
            self.islands[i].restore(state, measurements)
        self.clock = time.perf_counter()

    def send(self, tasks: Mapping[int, Task], news: Measurements) -> None:
        """The driver packs; then every island works at its own time."""
        shared = pickle.dumps(news, protocol=5)
        packed = {i: pickle.dumps(task, protocol=5) for i, task in tasks.items()}
        self.driver_works()
        for i, blob in packed.items():
            self.message(len(blob) + len(shared), down=True)
            began = time.thread_time()
            task, heard = pickle.loads(blob), pickle.loads(shared)  # noqa: S301 (our own bytes)
            step = pickle.dumps(self.islands[i].advance(task, heard), protocol=5)
            spent = time.thread_time() - began + self.latency_s * self.draw(self.rng, i)
            heapq.heappush(self.ends, (self.now + spent, i, step))
        self.clock = time.perf_counter()

    def receive(self) -> list[tuple[int, Step | Loss]]:
        """Wait for the earliest end; take what has ended by then."""
        self.driver_works()
        self.now = max(self.now, self.ends[0][0])
        ended = []
        while self.ends and self.ends[0][0] <= self.now:
            ended.append(heapq.heappop(self.ends))
        for _, _, blob in ended:
            self.message(len(blob), down=False)
        self.clock = time.perf_counter()
        return [(i, pickle.loads(blob)) for _, i, blob in sorted(ended, key=lambda end: end[1])]  # noqa: S301


class Threads:
    """Islands that are threads and sleep, by the clock on the wall."""

    def __init__(self, config: SearchConfig, latency_s: float, draw: Draw) -> None:
        self.config, self.latency_s, self.draw = config, latency_s, draw
        self.tasks: list[queue.SimpleQueue[tuple[Task, Measurements] | None]] = []
        self.steps: queue.SimpleQueue[tuple[int, Step]] = queue.SimpleQueue()

    def start(self, states: Mapping[int, State | None], measurements: Measurements) -> None:
        """One thread each."""
        for i in states:
            self.tasks.append(queue.SimpleQueue())
            island = Island(self.config, i, SyntheticPredictor())
            island.restore(None, measurements)
            threading.Thread(
                target=self.work, args=(island, np.random.default_rng([self.config.seed, i])), daemon=True
            ).start()

    def work(self, island: Island, rng: np.random.Generator) -> None:
        """What an island does until there are no more tasks."""
        while (work := self.tasks[island.index].get()) is not None:
            step = island.advance(*work)
            time.sleep(self.latency_s * self.draw(rng, island.index))
            self.steps.put((island.index, step))

    def send(self, tasks: Mapping[int, Task], news: Measurements) -> None:
        """Into each island's queue."""
        for i, task in tasks.items():
            self.tasks[i].put((task, news))

    def receive(self) -> list[tuple[int, Step | Loss]]:
        """The first step that is done."""
        return [self.steps.get()]

    def stop(self) -> None:
        """End the threads that are waiting; those asleep end with the process."""
        for tasks in self.tasks:
            tasks.put(None)


class Free:
    """Islands that cost nothing and find nothing but new networks, whose numbers are made up."""

    def __init__(self, config: SearchConfig) -> None:
        self.config = config
        self.rng = np.random.default_rng(config.seed)
        self.space = family(config.space)
        self.text = json.dumps(self.space.encode(self.space.sample(self.rng, 1)[0]))
        self.waiting: list[tuple[int, Task]] = []

    def start(self, states: Mapping[int, State | None], measurements: Measurements) -> None:
        """Nothing to do."""

    def send(self, tasks: Mapping[int, Task], _: Measurements) -> None:
        """Into the queue."""
        self.waiting += tasks.items()

    def receive(self) -> list[tuple[int, Step | Loss]]:
        """A population of new networks, as large as the quota allows."""
        i, task = self.waiting.pop(0)
        n = min(self.config.population, task.quota)
        genomes = self.space.sample(self.rng, n)
        values = self.rng.uniform(1, 100, (n, len(NAMES)))
        values[:, 1:] = np.floor(values[:, 1:] * 1e7)
        hashes = np.array([self.rng.bytes(16).hex() for _ in range(n)], "U32")
        born, states = np.full(n, task.generation), np.full(n, "DONE", "U10")
        texts = as_objects([self.text] * n)
        rows = Evaluations(hashes, genomes, values, np.full((n, 5), 0.2), np.full(n, i), born, states, texts)
        return [(i, pickle.loads(pickle.dumps(Step(rows, n, {}))))]  # noqa: S301


WAYS = {False: "synchronous", True: "asynchronous"}


def config_of(options: argparse.Namespace, islands: int, asynchronous: bool) -> SearchConfig:
    """The same work for every island."""
    return search_config(
        space="ofa_mbv3",
        islands=islands,
        population=options.population,
        batch=options.population,
        evaluations=islands * options.population * options.rounds,
        asynchronous=asynchronous,
        seed=options.seed,
    )


def simulated(options: argparse.Namespace, config: SearchConfig, kind: str) -> tuple[float, str]:
    """Evaluations per simulated second, and what else is known."""
    islands = Simulated(config, options.latency, LATENCIES[kind], options.call_ms / 1000)
    with tempfile.TemporaryDirectory() as folder:
        run_search(config, Path(folder), islands)
    islands.driver_works()
    traffic, n = islands.traffic, config.evaluations
    return n / islands.now, (
        f"{islands.driver_s / islands.now:12.3f} {1e6 * islands.driver_s / n:10.0f} {traffic.messages / n:9.3f} "
        f"{traffic.down / n:11.0f} {traffic.up / n:4.0f}"
    )


def slept(options: argparse.Namespace, config: SearchConfig, kind: str) -> tuple[float, str]:
    """Evaluations per second by the clock on the wall."""
    islands = Threads(config, options.latency, LATENCIES[kind])
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run_search(config, Path(folder), islands)
        spent = time.perf_counter() - began
    islands.stop()
    return config.evaluations / spent, ""


def scaling(options: argparse.Namespace) -> None:
    """The table, of one kind of time or the other."""
    measure = slept if options.threads else simulated
    more = "" if options.threads else "  driver busy  us/evalu.  messages  bytes down   up"
    say(f"latency      islands  way           evals/s  efficiency{more}")
    for _ in range(2):  # the first to warm up
        alone, _ = measure(options, config_of(options, 1, True), "steady")
    for kind in options.kinds:
        for n in options.islands:
            for asynchronous, way in WAYS.items():
                rate, rest = measure(options, config_of(options, n, asynchronous), kind)
                say(f"{kind:12s} {n:7d}  {way:12s} {rate:8.0f} {rate / n / alone:11.2f} {rest}")


def resident() -> int:
    """Bytes of memory of this process."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


def memory(options: argparse.Namespace) -> None:
    """Memory of the driver against evaluations, then of what each island remembers."""
    options.rounds = options.memory // (16 * options.population)
    for asynchronous, way in WAYS.items():
        config = config_of(options, 16, asynchronous)
        seen: list[tuple[int, int]] = []

        def note(record: GenerationRecord, seen: list[tuple[int, int]] = seen) -> None:
            if not seen or record.evaluations - seen[-1][0] >= options.memory // 10:
                seen.append((record.evaluations, resident()))

        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            run_search(config, Path(folder), Free(config), note)
            spent = time.perf_counter() - began
            disk = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
        done, bytes_ = np.array(seen[1:]).T
        slope = np.polyfit(done, bytes_, 1)[0]
        say(
            f"{way}: {config.evaluations:,} evaluations in {spent:.0f} s, driver from {bytes_[0] / 2**20:.0f} to "
            f"{bytes_[-1] / 2**20:.0f} MiB, {slope:.1f} bytes an evaluation; "
            f"log {disk / config.evaluations:.0f} bytes an evaluation"
        )
    networks, rng, before = SeenNetworks(), np.random.default_rng(0), resident()
    for _ in range(options.memory // 1000):
        digests = np.frombuffer(rng.bytes(16_000), "S16")
        networks.add(Measurements(digests, rng.uniform(size=(1000, len(NAMES)))))
    say(f"an island remembers: {(resident() - before) / options.memory:.1f} bytes an evaluation")


def say(line: str) -> None:
    """A line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--islands", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--kinds", nargs="+", choices=LATENCIES, default=list(LATENCIES))
    parser.add_argument("--rounds", type=int, default=16, help="populations per island")
    parser.add_argument("--population", type=int, default=100)
    parser.add_argument(
        "--latency", type=float, default=0.3, help="mean seconds that the predictor takes for a population"
    )
    parser.add_argument("--call-ms", type=float, default=0.7, help="milliseconds of the driver per message")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", action="store_true")
    parser.add_argument("--memory", type=int, metavar="EVALUATIONS")
    options = parser.parse_args(arguments)
    if options.memory:
        memory(options)
    else:
        scaling(options)


if __name__ == "__main__":
    main()
