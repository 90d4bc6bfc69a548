"""Run folders: readable unique names, finding them again, what they say about themselves, and who works in them."""

from __future__ import annotations

import fcntl
import hashlib
import json
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gennape import __version__
from gennape.errors import WorkspaceError
from gennape.platform.config import SearchConfig, search_config
from gennape.platform.workspace import atomic_write_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

RUNS = "runs"
#: Files of a run folder: what it does, how it stands, and the folder of its results (``report/front.json`` etc.).
CONFIG, STATUS, REPORT = "config.json", "status.json", "report"
_RECENT = 8
#: Names the newest run.
LATEST = "latest"


def create_run(workspace: Path, space: str, seed: int, now: datetime | None = None) -> Path:
    """A new folder ``runs/<space>-<date>-<time>-s<seed>``; a second one of the same second gets ``-2``, and so on."""
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


def find_run(workspace: Path, name: str) -> Path:
    """The run folder called ``name``, or the only one whose name starts so; ``latest`` is the newest; a path to a run
    folder is taken too.

    Raises :class:`WorkspaceError` that lists the recent runs when there is none, or the candidates when several.
    """
    runs = list_runs(workspace)
    exact = [run for run in runs if run.name == name or run == Path(name).absolute()]
    matches = (
        exact or (runs[:1] if name == LATEST else []) or [run for run in runs if name and run.name.startswith(name)]
    )
    if len(matches) == 1:
        return matches[0]
    if matches:
        listed = ", ".join(run.name for run in matches[:_RECENT])
        raise WorkspaceError(f"{name!r} names {len(matches)} runs ({listed}); write more of the name, or {LATEST}")
    recent = ", ".join(run.name for run in runs[:_RECENT]) or "none yet"
    raise WorkspaceError(f"no run {name!r} in {workspace}; recent runs: {recent}")


def list_runs(workspace: Path) -> list[Path]:
    """Run folders, newest first."""
    root = workspace / RUNS
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return sorted(folders, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def work_folder(parent: Path, out: Path, name: str) -> Path:
    """Where under ``parent`` is kept what is under way for the output ``out``: ``name``, and what tells it from others
    of that name. One for all ways to write the path."""
    return parent.absolute() / f"{name}-{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:8]}"


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, readable and stable."""
    atomic_write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON; raises :class:`WorkspaceError` when the file is absent or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise WorkspaceError(f"{path} does not exist; is {path.parent} a run folder of gennape?") from None
    except (OSError, ValueError) as error:
        raise WorkspaceError(f"cannot read {path}: {error}") from error


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Be the only one working in a run folder; freed when the process ends, however it ends.

    Raises :class:`WorkspaceError` when another process works there.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkspaceError(f"run {folder.name} is at work in another process; wait for it or stop it") from None
        yield


def describe_run(folder: Path, config: SearchConfig) -> None:
    """Write what a new run will do."""
    write_json(folder / CONFIG, {"gennape": __version__, "search": config.model_dump()})


def config_of(folder: Path) -> SearchConfig:
    """The configuration of a run; raises :class:`ConfigError` when it names what this gennape does not know."""
    return search_config(**read_json(folder / CONFIG)["search"])


def status_of(folder: Path) -> dict[str, str]:
    """``status`` (running, interrupted, failed or finished), ``reason``, and ``tracking_run`` where it has one."""
    status: dict[str, str] = read_json(folder / STATUS) if (folder / STATUS).exists() else {}
    return status


def set_status(folder: Path, **changes: str) -> None:
    """Change parts of the status."""
    write_json(folder / STATUS, status_of(folder) | changes)
