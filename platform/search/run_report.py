"""The report of a search, available from its first generation on and however it ends."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from threading import Lock
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from gennape.errors import WorkspaceError
from gennape.platform.search.front import front_frame, front_of
from gennape.platform.search.limits import nearest
from gennape.platform.search.log import copy_log, count_rows, read_log, read_measure_table
from gennape.platform.search.report import PICTURE, fields_of_front, write_front, write_report
from gennape.platform.search.runs import FINISHED, REPORT, RUNNING, config_of, status_of
from gennape.platform.workspace.files import make_writable
from gennape.platform.workspace.hints import command, workspace_option
from gennape.platform.workspace.run_files import read_as, refuse_edited
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    import pandas as pd

    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.evaluations import Evaluations
    from gennape.platform.search.front_page import About

#: Pictures and the table of all evaluations are redrawn after EVERY_S seconds or TIMES as long as drawing took,
#: whichever is longer: at most 2 % of the time.
EVERY_S, TIMES = 30.0, 50
FRONT, EVALUATIONS = "front.json", "evaluations.parquet"
_MADE_AGAIN = "remove it, and the front is read from the run's evaluations"


class _Point(BaseModel):
    """A point of a stored front; its measures are extra fields."""

    model_config = ConfigDict(extra="allow")

    index: int
    architecture: Any


class _Front(BaseModel):
    objectives: Any = None
    points: list[_Point]
    digests: dict[str, str] | None = None


class RunReport:
    """The folder ``report`` of a run at work. Every file in it is complete at any moment.

    A thread writes and draws, so that the search does not wait: at any moment it writes the front of the last
    generation but those that came while it wrote. Use as a context manager: however the block ends, what lags behind is
    then written and drawn.
    """

    def __init__(self, folder: Path, config: SearchConfig, about: About | None = None) -> None:
        self._folder = folder
        self._about = about
        self._objectives = config.directed
        self._due = 0.0
        self._written: list[str] = []
        self._undrawn: pd.DataFrame | None = None  # the front of the last generation, if pictures lag behind it
        self._lock = Lock()
        self._next: tuple[Evaluations, int] | None = None
        self._drawn: int | None = None
        self._generation = 0  # the last one that was followed
        self._writing: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, "gennape-report")

    def __enter__(self) -> RunReport:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # What stopped the search, a full disk maybe, may stop this too, and is what is told.
        with nullcontext() if kind is None else suppress(WorkspaceError, OSError):
            self.settle()
            if self._undrawn is not None:
                self.complete(self._undrawn)
        self._pool.shutdown()

    def follow(self, front: Evaluations, generation: int = 0) -> None:
        """Have the front after a generation written, and from time to time also the pictures and all evaluations.

        Raises :class:`WorkspaceError` if a file before could not be written.
        """
        with self._lock:
            if self._writing is not None and self._writing.done():
                self._writing.result()
                self._writing = None
            self._next, self._generation = (front, generation), generation
            if self._writing is None:
                self._writing = self._pool.submit(self._write_next)

    def settle(self) -> None:
        """Wait until all that was given to :meth:`follow` is written; raises what that raised."""
        with self._lock:
            writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def picture(self) -> tuple[Path, int] | None:
        """The picture of the front, and the generation that it was drawn after, once for each drawing; else None."""
        with self._lock:
            generation, self._drawn = self._drawn, None
        return None if generation is None else (self._folder / REPORT / PICTURE, generation)

    def complete(self, front: pd.DataFrame) -> Path:
        """Write every file; returns their folder."""
        self.settle()
        written = self._complete(front)
        with self._lock:
            self._drawn = self._generation
        return written

    def _write_next(self) -> None:
        while True:
            with self._lock:
                following, self._next = self._next, None
                if following is None:
                    self._writing = None
                    return
            self._write(*following)

    def _write(self, front: Evaluations, generation: int) -> None:
        if not len(front):
            return
        due, hashes = (began := time.monotonic()) >= self._due, front.hashes.tolist()
        if not due and hashes == self._written:
            return
        frame, self._written = front_frame(front, self._objectives), hashes
        if not due:
            write_front(self._folder / REPORT, frame, self._objectives)
            self._undrawn = frame
            return
        self._complete(frame)
        with self._lock:
            self._drawn = generation
        ended = time.monotonic()
        self._due = ended + max(EVERY_S, TIMES * (ended - began))

    def _complete(self, front: pd.DataFrame) -> Path:
        report = self._folder / REPORT
        if not self._folder.is_dir():  # deleted while the search was at work; it must not come back
            raise WorkspaceError(f"the folder of the run is gone: {self._folder}; start a new search")
        make_writable(report, "move away what is there")
        # Only what is drawn of the evaluations is held in memory; full rows are copied from file to file.
        write_report(report, front, read_measure_table(self._folder), self._objectives, self._about)
        copy_log(self._folder, report / EVALUATIONS)
        self._undrawn = None
        return report


def read_front(folder: Path) -> list[dict[str, Any]]:
    """The points of a run's front, as in ``front.json``; computed from the evaluations so far if there is no report.

    Raises :class:`WorkspaceError` if there is no front yet.
    """
    if os.path.lexists(folder / REPORT / FRONT):
        return _stored_points(folder / REPORT / FRONT)
    config = config_of(folder)
    log = read_log(folder, len(family(config.space).genes))
    front = front_of(log, config.directed)
    if not len(front) and len(log):
        raise WorkspaceError(
            f"{folder.name} has no front: {nearest(log, config.limits)}; change the limits in a new search"
        )
    if not len(front):
        resume = command("search", resume=folder.name, workspace=workspace_option(folder.parent.parent))
        raise WorkspaceError(
            f"{folder.name} has no front yet: it {_how_it_stands(folder)}, and none of its generations is evaluated; "
            f"once one is, or after `{resume}`, repeat the command"
        )
    return [
        {str(name): json.loads(value) if name == "architecture" else value for name, value in point.items()}
        for point in front_frame(front, config.directed).to_dict("records")
    ]


def _stored_points(path: Path) -> list[dict[str, Any]]:
    """The points of front.json, verified by their digests. Runs of older versions have no digests."""
    written: _Front = read_as(path, _Front, "the front of a run", _MADE_AGAIN)
    front = written.model_dump()
    if written.digests is not None:
        refuse_edited(path, fields_of_front(front), written.digests, _MADE_AGAIN)
    points: list[dict[str, Any]] = front["points"]
    return points


def caution(folder: Path) -> str:
    """A one-sentence warning that a front is not final; empty for a finished run."""
    if status_of(folder).get("status") == FINISHED:
        return ""
    done, target = count_rows(folder), config_of(folder).evaluations
    return f"{folder.name} {_how_it_stands(folder)}: this is its front after {done:,} of {target:,} evaluations"


def _how_it_stands(folder: Path) -> str:
    status = status_of(folder)
    if status.get("status") == RUNNING:
        return "is still running"
    reason = f" ({status['reason']})" if status.get("reason") else ""
    return f"{'failed' if status.get('status') == 'failed' else 'was interrupted'}{reason}"
