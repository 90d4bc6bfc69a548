"""Run folders of searches: their names, how to find them, and their configuration and status."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from gennape import __version__
from gennape.errors import WorkspaceError
from gennape.platform.search.config import SearchConfig, search_config
from gennape.platform.workspace.files import REMEDY, RUNS
from gennape.platform.workspace.run_files import DIGESTS, checked, digests_of, read_as, refuse_edited, warn_of_age
from gennape.platform.workspace.run_lock import at_work
from gennape.search_spaces.files.atomic import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Files of a run folder: its configuration, its status, and the folder of its results (``report/front.json`` etc.).
CONFIG, STATUS, REPORT = "config.json", "status.json", "report"
RUNNING, INTERRUPTED, FINISHED, FAILED = "running", "interrupted", "finished", "failed"
_RECENT = 8
#: The field of the status with the digests of the settings, which reveal a configuration of another run.
_CONFIG_DIGESTS = "config"
_GOES_ON = "remove the file, and the run goes on from its evaluations"
_PUT_BACK = "put the former values back, or start a new search"
#: Name of the newest run.
LATEST = "latest"


class _StoredConfig(BaseModel):
    """The content of config.json."""

    gennape: str
    search: dict[str, Any]
    digests: dict[str, str] | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """Every setting, and the version of gennape that wrote them."""
        return {**self.search, "gennape": self.gennape}


def create_run(workspace: Path, space: str, seed: int, now: datetime | None = None) -> Path:
    """Make a folder ``runs/<space>-<date>-<time>-s<seed>``, with ``-2`` and so on if that name is taken."""
    stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
    base = f"{space}-{stamp}-s{seed}"
    root = workspace / RUNS
    try:
        root.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            folder = root / (base if number == 1 else f"{base}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise WorkspaceError(f"cannot make a run folder in {root} ({error.strerror or error})") from error
    raise WorkspaceError(f"{root} already holds 999 runs called {base}; remove some")


def find_run(workspace: Path, name: str, *, to_resume: bool = False) -> Path:
    """The run folder called ``name``, or the only one whose name starts with it; ``latest`` is the newest. A path to a
    run folder is accepted, too. ``to_resume``: ``latest`` prefers the newest that is neither finished nor at work.

    Raises :class:`WorkspaceError`, which lists recent runs if none matches, or the candidates if several do.
    """
    runs = list_runs(workspace)
    exact = [run for run in runs if run.name == name or run == Path(name).absolute()]
    cut_off = (run for run in runs if to_resume and _can_go_on(run))
    latest = [next(cut_off, runs[0])] if name == LATEST and runs else []
    matches = exact or latest or [run for run in runs if name and run.name.startswith(name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(run.name for run in matches[:_RECENT])
        raise WorkspaceError(f"{name!r} names {len(matches)} runs ({listed}); write more of the name, or {LATEST}")
    if not os.path.lexists(workspace):
        raise WorkspaceError(f"no run {name!r}: there is no workspace {workspace}; {REMEDY}")
    recent = ", ".join(run.name for run in runs[:_RECENT]) or "none yet"
    raise WorkspaceError(f"no run {name!r} in {workspace}; recent runs: {recent}")


def _can_go_on(run: Path) -> bool:
    """Whether a run can be resumed: it is neither finished nor at work."""
    return not at_work(run) and status_of(run).get("status") != FINISHED


def list_runs(workspace: Path) -> list[Path]:
    """Run folders, newest first."""
    root = workspace / RUNS
    try:
        folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
        return sorted(folders, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    except OSError as error:
        raise WorkspaceError(f"cannot read the runs in {root}: {error.strerror or error}") from error


def describe_run(folder: Path, config: SearchConfig) -> None:
    """Write the configuration of a run, with the digest of every setting."""
    stored = _StoredConfig(gennape=__version__, search=config.model_dump())
    if (status := _stored_status(folder)).pop(_CONFIG_DIGESTS, None) is not None:
        _write_status(folder, status)  # first: it would contradict the new settings
    write_json(folder / CONFIG, stored.model_dump() | {DIGESTS: digests_of(stored.fields)})


def config_of(folder: Path) -> SearchConfig:
    """The configuration of a run.

    Raises :class:`WorkspaceError`, which names settings that were edited since the run began, or says what is wrong
    with the file, and :class:`ConfigError` for names that this version does not know. A run of an older version, which
    wrote no digests, is read with a warning.
    """
    return search_config(**_stored_config(folder, _stored_status(folder).get(_CONFIG_DIGESTS)).search)


def _stored_config(folder: Path, known: Mapping[str, str] | None) -> _StoredConfig:
    """The content of config.json, verified by its own digests and by those from the status (``known``)."""
    path = folder / CONFIG
    stored: _StoredConfig = read_as(path, _StoredConfig, "the settings of a run")
    for digests in (stored.digests, known):
        if digests is not None:
            refuse_edited(path, stored.fields, digests, _PUT_BACK)
    if stored.digests is None and known is None:
        warn_of_age(path)
    return stored


def status_of(folder: Path) -> dict[str, str]:
    """``status`` (running, interrupted, failed or finished), ``reason``, and ``tracking_run`` where it has one.

    A run whose process was killed still says "running"; its free lock shows that it is interrupted. Raises
    :class:`WorkspaceError`, which names the field that was edited or says what is wrong with the file.
    """
    status = {name: value for name, value in _stored_status(folder).items() if isinstance(value, str)}
    if status.get("status") == RUNNING and not at_work(folder):
        status |= {"status": INTERRUPTED, "reason": "its process was killed, or its machine stopped"}
    return status


def _stored_status(folder: Path) -> dict[str, Any]:
    path = folder / STATUS
    if not os.path.lexists(path):
        return {}
    status: dict[str, Any] = read_as(path, dict[str, str | dict[str, str]], "the status of a run", _GOES_ON)
    if (digests := status.pop(DIGESTS, None)) is not None:
        digests = checked(path, digests, dict[str, str], "digests", _GOES_ON)
        refuse_edited(path, status, digests, _GOES_ON)
    if isinstance(status.get(_CONFIG_DIGESTS), str):
        raise WorkspaceError(f"{path} was edited or damaged: {_CONFIG_DIGESTS} holds no digests; remove the file")
    return status


def set_status(folder: Path, **changes: str) -> None:
    """Update fields of the status."""
    status = _stored_status(folder) | changes
    if _CONFIG_DIGESTS not in status and (folder / CONFIG).exists():
        status[_CONFIG_DIGESTS] = digests_of(_stored_config(folder, None).fields)
    _write_status(folder, status)


def _write_status(folder: Path, status: Mapping[str, Any]) -> None:
    write_json(folder / STATUS, {**status, DIGESTS: digests_of(status)})
