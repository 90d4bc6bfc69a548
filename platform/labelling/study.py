"""Label architectures by training them on Ray. What was begun is continued, and nothing is trained twice."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import ray

from gennape.errors import ConfigError
from gennape.platform.cluster.connection import local_ray
from gennape.platform.labelling.pool import LabellingStudy, Pool, WorkerAllocation, epochs_path
from gennape.platform.labelling.rows import DONE, beside, check_suffix, draw_labels, read_row, row_path, write_labels
from gennape.platform.labelling.training.device_images import parts
from gennape.platform.labelling.training.images import cache_file, read_image_set
from gennape.platform.labelling.training.network_training import check_network
from gennape.platform.tracking.journal import new_name
from gennape.platform.tracking.tracker import track
from gennape.platform.workspace.files import make_writable, work_folder
from gennape.platform.workspace.run_files import read_json
from gennape.platform.workspace.run_lock import lock_run
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.files.atomic import remove_partial_files, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gennape.platform.labelling.rows import LabellingTask
    from gennape.platform.labelling.training.recipe import Recipe
    from gennape.platform.tracking.tracker import Tracker

#: Within a workspace: decoded images, and a folder for each study; what a study's holds.
IMAGES, FOLDER = "images", "labelling"
CONFIG, STATUS, REPORT = "study.json", "status.json", "report"
_PARTS = ("rows", "checkpoints", REPORT)
#: At most so often are the labels so far written to the file, and drawn.
_WRITE_S = 5.0


@dataclass(frozen=True, slots=True)
class ImageSources:
    """Where images come from, as :func:`read_images` takes them: to train on, to test on, and the size they get."""

    train: Path
    test: Path | None = None
    resize: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Workers:
    """Who trains: on ``device``; so many (by default all that the cluster has room for); so many beside each other on
    a GPU. A checkpoint is written when the last is ``save_after`` seconds old."""

    device: str
    number: int | None = None
    per_gpu: int = 4
    save_after: float = 30.0


@dataclass(frozen=True, slots=True)
class StudyProgress:
    """How far a study is: trainings that ended in a label or ``failed``, of how many; epochs done, of how many."""

    labels: int
    failed: int
    trainings: int
    epochs: int
    total_epochs: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class StudyResult:
    """Finished tasks: labels, failures, how many of both were there before, and what was told on the way; ``others``:
    labels of the study that earlier calls asked for and this one did not."""

    labels: int
    failed: int
    before: int
    notes: tuple[str, ...]
    others: int = 0


def label(
    out: Path,
    workspace: Path,
    tasks: Sequence[LabellingTask],
    sources: ImageSources,
    recipe: Recipe,
    seed: int,
    workers: Workers,
    address: str | None = None,
    follow: Callable[[StudyProgress], None] = lambda progress: None,  # noqa: ARG005
    server: str | None = None,
    *,
    retry_failed: bool = False,
) -> StudyResult:
    """Train all ``tasks`` by one recipe and write their labels to ``out``, or go on where an earlier call was cut off.

    A study is what has one ``out``: images, recipe and seed have to stay the same, tasks may be others. Finished labels
    of all calls are in ``out`` at any time, and stay there whatever ends the call. What failed before is trained again
    only with ``retry_failed``. Progress and a plot go to MLflow, to ``server`` as :func:`track` says.

    Raises :class:`ConfigError` where ``out`` belongs to another study or to none in ``workspace``,
    :class:`InvalidDataError` for images that cannot be read, :class:`UnsuitableImagesError` where a network does not
    take them, :class:`WorkspaceError` where a file cannot be written, and :class:`ServiceError` where no worker starts.
    """
    out = out.resolve()
    check_suffix(out)
    make_writable(out.parent, "give another --out")
    folder = study_folder(out, workspace)
    if out.exists() and not (folder / CONFIG).exists():
        raise ConfigError(
            f"{out} is there, and the study that wrote it is not in {workspace}; give the --workspace that it was "
            "begun with, or another --out"
        )
    for part in (workspace / IMAGES, *(folder / name for name in _PARTS)):
        make_writable(part, "give another folder with --workspace")
    with lock_run(folder):
        study, described = _study(folder, workspace, tasks, sources, recipe, seed, workers)
        for part in (folder, *(folder / name for name in _PARTS)):
            remove_partial_files(part)
        if retry_failed:
            _forget_failures(folder, tasks)
        work = _Work(out, study, described, tasks, follow)
        todo = [task for task in tasks if task.key not in work.rows]
        before = len(work.rows)
        work.tell([])
        if todo:
            _train(workspace, work, todo, workers, address, server)
        work.write()
        failed = sum(row["state"] != DONE for row in work.rows.values())
        others = sum(row["state"] == DONE for row in work.others)
        return StudyResult(len(work.rows) - failed, failed, before, tuple(work.notes), others)


def study_folder(out: Path, workspace: Path) -> Path:
    """Where a study keeps its rows and checkpoints."""
    return work_folder(workspace / FOLDER, out, out.name)


def _study(
    folder: Path,
    workspace: Path,
    tasks: Sequence[LabellingTask],
    sources: ImageSources,
    recipe: Recipe,
    seed: int,
    workers: Workers,
) -> tuple[LabellingStudy, dict[str, Any]]:
    """What trainings share, and how it is described; refuses what would fail in each of them."""
    cache = workspace.absolute() / IMAGES
    images = read_image_set(sources.train, sources.test, sources.resize, cache)
    parts(len(images.train.labels), recipe)
    for task in tasks:
        space = family(task.family)
        check_network(
            space.graph(space.decode(json.loads(task.architecture))), images.train.size, len(images.train.classes)
        )
    kept = cache_file(sources.train, sources.resize, cache)
    tested = None if sources.test is None else cache_file(sources.test, sources.resize, cache)
    described = {
        "images": {
            "sha256": images.sha256, "train": str(sources.train), "size": list(images.train.size),
            "test": None if sources.test is None else str(sources.test), "classes": list(images.train.classes),
        },
        "recipe": asdict(recipe), "recipe_sha256": recipe.sha256, "seed": seed,
    }  # fmt: skip
    if not (folder / CONFIG).exists():
        write_json(folder / CONFIG, described)
    _refuse_another(folder, described)
    return LabellingStudy(recipe, seed, kept, tested, images.sha256, folder, workers.save_after), described


def _refuse_another(folder: Path, described: dict[str, Any]) -> None:
    begun = read_json(folder / CONFIG)
    if begun["images"]["sha256"] != described["images"]["sha256"]:
        raise ConfigError(f"--out was begun with other images ({begun['images']['train']}); give another --out")
    old, new = ({**each["recipe"], "seed": each["seed"]} for each in (begun, described))
    differing = [
        f"{name} was {old.get(name)}, now {new.get(name)}" for name in {**old, **new} if old.get(name) != new.get(name)
    ]
    if differing or begun["recipe_sha256"] != described["recipe_sha256"]:
        raise ConfigError(
            f"--out was begun otherwise ({'; '.join(differing) or 'by another version'}); labels of one file have one "
            "recipe: give the same, or another --out"
        )


def _forget_failures(folder: Path, tasks: Sequence[LabellingTask]) -> None:
    for task in tasks:
        row = read_row(folder, task)
        if row is not None and row["state"] != DONE:
            row_path(folder, task).unlink()


class _Work:
    """The rows so far, and who is told of them."""

    def __init__(
        self,
        out: Path,
        study: LabellingStudy,
        described: dict[str, Any],
        tasks: Sequence[LabellingTask],
        follow: Callable[[StudyProgress], None],
    ) -> None:
        self.out, self.study, self.described, self.tasks, self._follow = out, study, described, tasks, follow
        found = {task.key: read_row(study.folder, task) for task in tasks}
        self.rows: dict[str, dict[str, Any]] = {key: row for key, row in found.items() if row is not None}
        written = sorted((study.folder / "rows").glob("[!.]*.json"))
        #: What earlier calls asked for and this one does not.
        self.others: list[dict[str, Any]] = [read_json(path) for path in written if path.stem not in found]
        self.notes: list[str] = []
        self._written = 0.0

    def write(self) -> None:
        """Labels so far to the file, in the order of the tasks, then those of earlier calls; and the plot."""
        ordered = [*(self.rows[task.key] for task in self.tasks if task.key in self.rows), *self.others]
        write_labels(self.out, ordered, self.described)
        pictures = [beside(self.out, ".png"), self.study.folder / REPORT / "labels.png"]
        draw_labels(pictures, ordered, self.out.stem)
        self._written = time.monotonic()

    def finished(self, task: LabellingTask, tracker: Tracker) -> None:
        """Take in a row."""
        row = self.rows[task.key] = read_json(row_path(self.study.folder, task))
        failed = sum(each["state"] != DONE for each in self.rows.values())
        values = {"labels": float(len(self.rows) - failed), "failed": float(failed)}
        if row["state"] == DONE:
            best = max(each["accuracy"] for each in self.rows.values() if each["state"] == DONE)
            values |= {"best_accuracy": best}
            values |= {name: row[name] for name in ("accuracy", "validation_accuracy", "seconds", "images_per_second")}
        tracker.metrics(len(self.rows), values)
        if time.monotonic() - self._written > _WRITE_S:
            self.write()

    def note(self, text: str) -> None:
        """Something that the user should know."""
        self.notes.append(text)

    def tell(self, under_way: Sequence[LabellingTask]) -> None:
        """Say how far it is."""
        epochs = self.study.recipe.epochs
        failed = sum(row["state"] != DONE for row in self.rows.values())
        done = epochs * len(self.rows) + sum(self._epochs(task) for task in under_way)
        note = self.notes[-1] if self.notes else ""
        count = len(self.tasks)
        self._follow(StudyProgress(len(self.rows) - failed, failed, count, done, epochs * count, note))

    def _epochs(self, task: LabellingTask) -> int:
        try:
            return int(epochs_path(self.study.folder, task).read_bytes())
        except FileNotFoundError:
            return 0


def _train(
    workspace: Path,
    work: _Work,
    todo: Sequence[LabellingTask],
    workers: Workers,
    address: str | None,
    server: str | None,
) -> None:
    folder = work.study.folder
    known = read_json(folder / STATUS) if (folder / STATUS).exists() else {}
    parameters = {"out": str(work.out), "trainings": str(len(work.tasks)), "device": workers.device}
    parameters |= {f"recipe.{key}": str(value) for key, value in work.described["recipe"].items()}
    parameters |= {f"images.{key}": str(value) for key, value in work.described["images"].items()}
    with local_ray(address, max(workers.number or 1, os.cpu_count() or 1)):
        allocation = _allocation(workers, len(todo))
        name = known.get("run") or new_name(workspace, "label")
        with track(workspace, name, parameters, known.get("tracking_run"), server) as tracker:
            write_json(folder / STATUS, {"run": name, "tracking_run": tracker.run_id})
            pool = Pool(work.study, allocation, work.note)
            try:
                for task in pool.run(todo, lambda: work.tell(pool.under_way)):
                    work.finished(task, tracker)
                    work.tell(pool.under_way)
            finally:  # whatever ends it, finished labels are kept
                work.write()
                tracker.artifacts(folder / REPORT)
    (folder / STATUS).unlink()  # more tasks are another run


def _allocation(workers: Workers, trainings: int) -> WorkerAllocation:
    """As many workers as the cluster has room for, unless it is told how many."""
    present: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if workers.device == "cpu":
        return WorkerAllocation(min(workers.number or int(present.get("CPU", 1)), trainings), "cpu")
    gpus = int(present.get("GPU", 0))
    if gpus == 0 and workers.number is None:
        raise ConfigError(
            "the cluster has no GPU at present; take --device cpu, or say how many workers it is to grow to"
        )
    return WorkerAllocation(min(workers.number or gpus * workers.per_gpu, trainings), workers.device, workers.per_gpu)
