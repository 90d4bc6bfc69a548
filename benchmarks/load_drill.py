"""Load drill of the service: ``python benchmarks/load_drill.py --seconds 60 --times 10``.

The predictor is served over HTTP on this machine. Eight clients that each wait for their answer measure what it can do;
then that many times as many requests arrive as it can answer, whether or not any is answered, from a process of their
own. Told are how long accepted requests took, how many were refused, what memory the service took meanwhile, what the
eight clients get afterwards, over HTTP and by a handle, and beside it the better of one thread and eight that build and
predict the same requests in a process without any service.

The drill fails where anything but an answer or a refusal comes back, or where the service does not recover.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gennape.platform.serving.deployment import EnsembleHandle
    from gennape.predictors.predictor import Predictor

CLIENTS, BODIES = 8, 16
PATIENCE_S = 60.0  # for answers that are under way when the time is over
RECOVERED = 0.7  # of what the eight clients got before
ANSWERED, REFUSED = 200, 503


@dataclass(frozen=True)
class ClientJob:
    """What a client process does: ``clients`` that wait for answers, or without any ``rate`` requests a second."""

    port: int
    bodies: list[str]
    seconds: float
    clients: int = 0
    rate: float = 0.0


@dataclass(frozen=True)
class Told:
    """What a client process found: how often which status, and seconds of each answered request.

    ``asking``: seconds in which requests were made; ``seconds``: until the last was answered.
    """

    statuses: dict[int, int]
    took: list[float]
    asking: float
    seconds: float

    @property
    def per_second(self) -> float:
        """Answered requests."""
        return len(self.took) / self.seconds

    def percentile(self, q: float) -> float:
        """Seconds of answered requests."""
        return float(np.percentile(self.took, q)) if self.took else float("nan")


# Clients, in a process that knows nothing of gennape ------------------------------------------------------------------


async def ask(port: int, body: str) -> int:
    """The status of one request on a connection of its own; 0 where the connection broke."""
    head = f"POST /predict HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"{head}content-type: application/json\r\n\r\n{body}".encode())
        answer = await reader.read()
        writer.close()
    except OSError:
        return 0
    return int(answer.split(maxsplit=2)[1]) if answer else 0


async def run_job(job: ClientJob) -> Told:
    """Ask as the job says."""
    bodies, statuses, took = cycle(job.bodies), Counter[int](), list[float]()
    begin = time.monotonic()

    async def one() -> None:
        before = time.monotonic()
        status = await ask(job.port, next(bodies))
        statuses[status] += 1
        if status == ANSWERED:
            took.append(time.monotonic() - before)

    async def patient() -> None:
        while time.monotonic() < begin + job.seconds:
            await one()

    if job.clients:
        await asyncio.gather(*(patient() for _ in range(job.clients)))
        return Told(dict(statuses), took, job.seconds, time.monotonic() - begin)
    tasks = []
    for i in range(int(job.rate * job.seconds)):
        await asyncio.sleep(max(0.0, begin + i / job.rate - time.monotonic()))
        tasks.append(asyncio.create_task(one()))
    asking = time.monotonic() - begin
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*tasks)
    return Told(dict(statuses), took, asking, time.monotonic() - begin)


def elsewhere(job: ClientJob) -> Told:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--client"]
    done = subprocess.run(command, input=json.dumps(asdict(job)), capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"a client failed: {done.stderr}")
    told = json.loads(done.stdout)
    return Told(**{**told, "statuses": {int(status): n for status, n in told["statuses"].items()}})


# The service ----------------------------------------------------------------------------------------------------------


def bodies_of(space: str, graphs: int, seed: int) -> list[str]:
    """Requests of so many networks of a family."""
    from gennape.search_spaces.families.registry import family  # noqa: PLC0415 (clients need nothing of it)

    known, rng = family(space), np.random.default_rng(seed)
    requests = [[known.encode(genome) for genome in known.sample(rng, graphs)] for _ in range(BODIES)]
    return [json.dumps({"space": space, "architectures": architectures}) for architectures in requests]


@contextmanager
def service(replicas: int) -> Iterator[EnsembleHandle]:
    """The shipped predictor, served on this machine."""
    from gennape.platform.cluster.connection import local_ray  # noqa: PLC0415
    from gennape.platform.serving.deployment import ServingConfig, serve_ensemble  # noqa: PLC0415

    config = ServingConfig(min_replicas=replicas, max_replicas=replicas, http_port=0)
    with local_ray(), serve_ensemble(config) as ensemble:
        yield ensemble


class Memory:
    """MiB that this process, which answers HTTP, and the replicas hold, every half second."""

    def __init__(self) -> None:
        import psutil  # noqa: PLC0415

        here = psutil.Process()
        replicas = [one for one in here.children(recursive=True) if "ServeReplica" in " ".join(one.cmdline())]
        self._processes = [here, *replicas]
        self._stop = threading.Event()
        self.held: list[float] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            self.held.append(sum(one.memory_info().rss for one in self._processes) / 2**20)

    def line(self) -> str:
        """How it went: the second quarter of the time, by when all buffers are there, and the last."""
        if len(self.held) < 4:
            return "memory: too short to tell"
        early, late = (np.mean(self.held[len(self.held) * i // 4 : len(self.held) * (i + 1) // 4]) for i in (1, 3))
        return (
            f"memory: {early:.0f} MiB in the second quarter, {late:.0f} MiB in the last ({late - early:+.0f}), "
            f"most {max(self.held):.0f}"
        )


# The drills -----------------------------------------------------------------------------------------------------------


def drill(given: argparse.Namespace) -> None:
    """Far more than can be answered, and what becomes of it."""
    bodies = bodies_of(given.space, given.graphs, given.seed)
    patient = ClientJob(0, bodies, given.measure, CLIENTS)
    with service(given.replicas) as ensemble:
        port = int(str(ensemble.url).rpartition(":")[2])
        elsewhere(replace(patient, port=port, seconds=min(3.0, given.measure)))  # to warm up
        before = elsewhere(replace(patient, port=port))
        say("before", before)
        rate = given.times * before.per_second
        with Memory() as memory:
            flood = elsewhere(ClientJob(port, bodies, given.seconds, rate=rate))
        tell(f"flood: {rate:.0f} requests a second asked for, {sum(flood.statuses.values()) / flood.asking:.0f} made")
        say("flood", flood)
        tell(memory.line())
        after = elsewhere(replace(patient, port=port))
        say("after", after)
        by_handle = by_threads(CLIENTS, asking(given.space, ensemble), bodies, given.measure)
    compare(given, bodies, {"by handle": by_handle, "over HTTP": after.per_second})
    others = {status for told in (before, flood, after) for status in told.statuses} - {ANSWERED, REFUSED}
    recovered = after.per_second / before.per_second
    tell(f"recovered: {recovered:.2f} of the throughput before; other statuses: {sorted(others) or 'none'}")
    if others or set(after.statuses) != {ANSWERED} or (recovered < RECOVERED and not given.short):
        raise SystemExit("the service did not stand it")


def compare(given: argparse.Namespace, bodies: list[str], served: dict[str, float]) -> None:
    """What was served, beside what a process without a service predicts."""
    from gennape.predictors.model.checkpoint import load_checkpoint  # noqa: PLC0415 (clients need nothing of it)

    one = asking(given.space, load_checkpoint())
    in_process = max(by_threads(threads, one, bodies, given.measure) for threads in (1, CLIENTS))
    for name, rate in {"in one process": in_process, **served}.items():
        tell(f"{name}: {rate:.1f} requests a second, {rate * given.graphs:,.0f} networks, {rate / in_process:.2f}")


def asking(space: str, predictor: EnsembleHandle | Predictor) -> Callable[[str], None]:
    """Doing what the service does with a request: read it, build its graphs, predict them."""
    from gennape.search_spaces.families.registry import family  # noqa: PLC0415

    known = family(space)

    def ask_one(body: str) -> None:
        architectures = json.loads(body)["architectures"]
        predictor.predict(known.graphs(np.stack([known.decode(architecture) for architecture in architectures])))

    return ask_one


def tell(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say(name: str, told: Told) -> None:
    """The figures of a measurement."""
    tell(
        f"{name}: {told.statuses.get(ANSWERED, 0)} answered ({told.per_second:.1f} a second), "
        f"{told.statuses.get(REFUSED, 0)} refused; answered within {told.percentile(50):.3f} s (median), "
        f"{told.percentile(99):.3f} s (p99)"
    )


def by_threads(threads: int, one: Callable[[str], None], bodies: list[str], seconds: float) -> float:
    """Requests a second of so many threads."""
    one(bodies[0])
    begin = time.monotonic()

    def run(first: int) -> int:
        done = 0
        while time.monotonic() < begin + seconds:
            one(bodies[(first + done) % len(bodies)])
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(run, range(threads)))
    return done / (time.monotonic() - begin)


def main(arguments: list[str] | None = None) -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description="Ask a service for more than it can do.")
    parser.add_argument("--seconds", type=float, default=60, help="of the flood")
    parser.add_argument("--measure", type=float, default=10, help="seconds of each measurement of eight clients")
    parser.add_argument("--times", type=float, default=10, help="requests, in what the service can answer")
    parser.add_argument("--graphs", type=int, default=64, help="networks of one request")
    parser.add_argument("--space", default="ofa_mbv3")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="expect nothing of speeds")
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.client:
        tell(json.dumps(asdict(asyncio.run(run_job(ClientJob(**json.load(sys.stdin)))))))
    else:
        drill(given)


if __name__ == "__main__":
    main()
