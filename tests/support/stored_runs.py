"""Runs in a workspace, searched in this process with a formula for a predictor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.front_page import About
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.run_report import RunReport
from gennape.platform.search.runs import describe_run, set_status
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.platform.workspace.files import RUNS

if TYPE_CHECKING:
    from pathlib import Path

    from gennape.platform.search.search_run import GenerationRecord


class _Stop(Exception):
    """Stands for whatever ends a process."""


def stored_run(workspace: Path, name: str, *, generations: int | None = None, **settings: object) -> Path:
    """A finished run of 120 networks of hiaml; after ``generations``, if given, one whose process was killed."""
    folder = workspace / RUNS / name
    folder.mkdir(parents=True)
    config = search_config(**{"space": "hiaml", "evaluations": 120, "population": 20, **settings})
    describe_run(folder, config)
    report = RunReport(folder, config, About(config.space, name))

    def follow(record: GenerationRecord) -> None:
        report.follow(record.front)
        if record.generation + 1 == generations:
            report.settle()
            raise _Stop

    try:
        report.complete(run_search(config, folder, LocalIslands(config, SyntheticPredictor()), follow).front)
        set_status(folder, status="finished", reason=f"all {config.evaluations} evaluations are done")
    except _Stop:
        set_status(folder, status="running", reason="")
    return folder
