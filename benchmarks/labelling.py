"""Labels of many architectures on one machine, and how fast networks are trained, alone and beside each other.

    python benchmarks/labelling.py --data DATA --families hiaml,two_path --count 50 --epochs 10 --out labels.jsonl

``--data`` holds cifar10_train.parquet and cifar10_test.parquet. Needs PyTorch, pyarrow, pillow and safetensors alone.
Rows are appended as trainings finish; what ``--out`` holds already is left out, so that the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing as mp
import os
import queue
import sys
import threading
import time
import traceback
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gennape.errors import GennapeError
from gennape.platform.labelling.training.captured import own_stream
from gennape.platform.labelling.training.device_images import put
from gennape.platform.labelling.training.images import ImageSet, read_image_set
from gennape.platform.labelling.training.network_training import NetworkTraining, train
from gennape.platform.labelling.training.recipe import Recipe, Seed
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import pack

SAMPLE = 20260101
WARM_UP_S = 240.0


def main() -> None:
    """Measure, choose how many trainings share the device, label until all is done or time is up."""
    began = time.monotonic()
    asked = arguments()
    out = Path(asked.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    cache = out.parent / ".images"
    load(asked, cache)
    say(f"images ready after {time.monotonic() - began:.1f} s")
    shares = {"1x1": 0.0}
    if asked.bench:
        shares = benchmark(asked, cache)
    share = asked.share if asked.share != "auto" else max(shares, key=lambda name: shares[name])
    say(f"share {share} (processes x threads)")
    if asked.count:
        label(asked, cache, out, share, began + asked.seconds)
    say(f"whole command {time.monotonic() - began:.1f} s")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--families", default="hiaml,inception,two_path")
    parser.add_argument("--count", type=int, default=50, help="architectures of each family; 0 measures speed alone")
    parser.add_argument("--first", type=int, default=0, help="number of the first architecture of each family's sample")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each architecture")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--peak-rate", type=float, default=0.4)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--seconds", type=float, default=86400.0, help="budget of the whole command")
    parser.add_argument("--share", default="auto", help="processes x threads, as 2x4; auto: the fastest measured")
    parser.add_argument("--bench", default="", help="1x1,1x2,1x4,1x8,2x1,4x1,8x1,2x2,...: shares to measure")
    parser.add_argument("--bench-seconds", type=float, default=4.0)
    parser.add_argument("--subset", type=int, default=0, help="so many images alone, for a trial")
    parser.add_argument("--device", default=None)
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    parser.add_argument("--out", required=True)
    return parser.parse_args()


def say(text: str) -> None:
    """At once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def load(asked: argparse.Namespace, cache: Path) -> Any:
    """The images on the device, framed by the recipe."""

    folder = Path(asked.data)
    cache.mkdir(parents=True, exist_ok=True)
    images = read_image_set(folder / "cifar10_train.parquet", folder / "cifar10_test.parquet", None, cache)
    if asked.subset:
        rows = np.arange(asked.subset)
        images = ImageSet(images.train.take(rows), images.test.take(rows))  # type: ignore[union-attr]
    device = asked.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return put(images, recipe_of(asked), torch.device(device))


def recipe_of(asked: argparse.Namespace) -> Any:
    """The one of all trainings."""

    return Recipe(epochs=asked.epochs, batch=asked.batch, peak_rate=asked.peak_rate, precision=asked.precision)


# Speed ---------------------------------------------------------------------------------------------------------------


def benchmark(asked: argparse.Namespace, cache: Path) -> dict[str, float]:
    """Images per second of one hiaml network: three ways to run a step, then the best beside its like."""
    context = mp.get_context("spawn")
    for name, precision, record in (("eager fp32", "fp32", False), ("eager bf16", "bf16", False)):
        try:
            own = speeds(asked, cache, precision, record, 1, lambda: None)
            say(f"  {name:<24}{sum(own):>12,.0f} images/s")
        except Exception:  # noqa: BLE001 (it is told, and the others go on)
            say(f"  {name}: failed\n{traceback.format_exc()}")
    found: dict[str, float] = {}
    for share in asked.bench.split(","):
        processes, threads = map(int, share.split("x"))
        try:
            if processes == 1:
                own = speeds(asked, cache, asked.precision, not asked.eager, threads, lambda: None)
            else:
                own = beside(context, asked, cache, processes, threads)
            found[share] = sum(own)
            say(f"  {share + ' ' + asked.precision:<24}{sum(own):>12,.0f} images/s")
        except Exception:  # noqa: BLE001 (it is told, and the others go on)
            say(f"  {share}: failed\n{traceback.format_exc()}")
    return found or {"1x1": 0.0}


def speeds(
    asked: argparse.Namespace, cache: Path, precision: str, record: bool, threads: int, ready: Any
) -> list[float]:
    """Of each of so many trainings in threads of this process."""

    data = load(asked, cache)
    recipe = replace(recipe_of(asked), epochs=2000, precision=precision)
    space = family("hiaml")
    graph = space.graph(space.sample(np.random.default_rng(0), 1)[0])
    barrier, found, errors = threading.Barrier(threads, action=ready), [], []
    record = record and data.device.type == "cuda"

    def one(i: int) -> None:
        try:
            on_gpu = data.device.type == "cuda"
            with own_stream() if on_gpu else nullcontext():
                training = NetworkTraining(graph, data, recipe, Seed(0, "speed", i), record)
                training.epoch()
                barrier.wait(WARM_UP_S)
                begun, images = time.perf_counter(), 0
                while time.perf_counter() - begun < asked.bench_seconds:
                    training.epoch()
                    images += training.steps * recipe.batch
                found.append(images / (time.perf_counter() - begun))
                training.release()
        except Exception as error:  # noqa: BLE001 (it is raised by the main thread)
            errors.append(error)
            barrier.abort()

    workers = [threading.Thread(target=one, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return found


def beside(context: Any, asked: argparse.Namespace, cache: Path, processes: int, threads: int) -> list[float]:
    """Of trainings in several processes, which begin together."""
    gate, answers = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=_speed_process, args=(asked, cache, threads, gate, answers)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    try:
        got = [answers.get(timeout=WARM_UP_S) for _ in workers]
    finally:
        for worker in workers:
            worker.join(20)
            worker.kill()
    failed = [answer for answer in got if isinstance(answer, str)]
    if failed:
        raise RuntimeError(failed[0])
    return [speed for answer in got for speed in answer]


def _speed_process(asked: argparse.Namespace, cache: Path, threads: int, gate: Any, answers: Any) -> None:
    torch.set_num_threads(1)
    try:
        ready = lambda: gate.wait(WARM_UP_S)  # noqa: E731
        answers.put(speeds(asked, cache, asked.precision, not asked.eager, threads, ready))
    except Exception:  # noqa: BLE001 (it is told, and the others go on)
        gate.abort()
        answers.put(traceback.format_exc())


# Labels --------------------------------------------------------------------------------------------------------------


def tasks_of(asked: argparse.Namespace) -> list[tuple[str, int, int, Any]]:
    """Family, number in its sample, training, architecture; families in turn, so that time up leaves all with some."""

    samples = {}
    for name in asked.families.split(","):
        space = family(name)
        # Distinct ones, the first n being the same for any count.
        drawn = space.sample(np.random.default_rng(SAMPLE), 4096)
        _, first = np.unique(drawn, axis=0, return_index=True)
        drawn = drawn[np.sort(first)][asked.first : asked.first + asked.count]
        samples[name] = [space.encode(genome) for genome in drawn]
    most = max(map(len, samples.values()))
    return [
        (name, asked.first + i, seed, sample[i])
        for seed in range(asked.seeds)
        for i in range(most)
        for name, sample in samples.items()
        if i < len(sample)
    ]


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells labels apart."""
    return row["family"], json.dumps(row["architecture"], sort_keys=True), row["seed"], row["recipe"], row["data"]


def label(asked: argparse.Namespace, cache: Path, out: Path, share: str, deadline: float) -> None:
    """Train all that is not labelled yet, in so many processes and threads."""
    processes, threads = map(int, share.split("x"))
    recipe, data = recipe_of(asked), load(asked, cache).sha256
    known = {key_of(row) for row in rows_of(out)}
    todo = [
        task for task in tasks_of(asked)
        if key_of({"family": task[0], "architecture": task[3], "seed": task[2], "recipe": recipe.sha256, "data": data})
        not in known
    ]  # fmt: skip
    say(f"{len(known)} rows known, {len(todo)} trainings to do; recipe {json.dumps(asdict(recipe))}")
    begun = time.monotonic()
    context = mp.get_context("spawn")
    waiting, lock = context.Queue(), context.Lock()
    for task in todo:
        waiting.put(task)
    for _ in range(processes * threads):
        waiting.put(None)
    left = deadline - time.monotonic()
    workers = [
        context.Process(target=_label_process, args=(asked, cache, out, threads, waiting, lock, left))
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(1.0, deadline + 20 - time.monotonic()))
    for worker in workers:
        if worker.is_alive():
            worker.kill()
    waiting.cancel_join_thread()
    made = [row for row in rows_of(out) if key_of(row) not in known]
    good = [row for row in made if "test" in row]
    say(f"{len(good)} labels in {time.monotonic() - begun:.1f} s, {len(made) - len(good)} failed")
    for name in asked.families.split(","):
        values = [row["test"] for row in rows_of(out) if row["family"] == name and "test" in row]
        if values:
            cuts = "  ".join(f"{value:.2f}" for value in np.percentile(values, [0, 25, 50, 75, 100]))
            say(f"  {name:<12}{len(values):>5} labels; test accuracy min, quartiles, max: {cuts}")


class OutOfTime(Exception):
    """The budget is spent."""


def _label_process(
    asked: argparse.Namespace, cache: Path, out: Path, threads: int, waiting: Any, lock: Any, left: float
) -> None:
    deadline = time.monotonic() + left
    torch.set_num_threads(1)
    data = load(asked, cache)
    workers = [
        threading.Thread(target=_label_thread, args=(asked, data, out, waiting, lock, deadline)) for _ in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    waiting.cancel_join_thread()


def _label_thread(asked: argparse.Namespace, data: Any, out: Path, waiting: Any, lock: Any, deadline: float) -> None:

    recipe, taken = recipe_of(asked), 0.0

    def on_epoch(_epoch: int, _accuracy: float) -> None:
        if time.monotonic() > deadline:
            raise OutOfTime

    while time.monotonic() + 0.9 * taken < deadline:  # one that cannot be finished is not begun
        try:
            task = waiting.get(timeout=5)
        except queue.Empty:
            return
        if task is None:
            return
        name, number, seed, architecture = task
        space, begun = family(name), time.monotonic()
        row = {"family": name, "number": number, "architecture": architecture, "seed": seed}
        row |= {"recipe": recipe.sha256, "data": data.sha256}
        try:
            graph = space.graph(space.decode(architecture))
            outcome = train(
                graph, data, recipe, Seed(0, canonical_hashes(pack([graph]))[0], seed),
                on_epoch=on_epoch, record=False if asked.eager else None,
            )  # fmt: skip
            row |= {
                name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(outcome).items()
            }
        except OutOfTime:
            return
        except GennapeError as error:
            row |= {"failed": f"{type(error).__name__}: {error}"}
        except Exception:  # noqa: BLE001 (it is told, and the others go on)
            row |= {"failed": traceback.format_exc()}
        taken = time.monotonic() - begun
        row["wall"] = round(taken, 3)
        with lock:
            append(out, row)
        say(f"  {name:<10}{number:>5}  {row.get('test', row.get('failed', ''))!s:.200}  {taken:.1f} s")


def append(out: Path, row: dict[str, Any]) -> None:
    """One line, at once and whole."""
    line = (json.dumps(row) + "\n").encode()
    handle = os.open(out, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """All whole lines."""
    rows = []
    for line in out.read_text().splitlines() if out.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            say(f"{out}: a line that was cut off is left out")
    return rows


if __name__ == "__main__":
    main()
