"""The runs of a workspace as a page shows them. Only files of the workspace are read, whatever links lie in it."""

from __future__ import annotations

import json
from collections import OrderedDict
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

from gennape.errors import GennapeError, WorkspaceError
from gennape.notebook import drawing
from gennape.platform.search.front_page import about_run, label, readable
from gennape.platform.search.log import SHARDS, count_rows
from gennape.platform.search.objectives import Objective
from gennape.platform.search.run_report import FRONT, read_front
from gennape.platform.search.runs import CONFIG, REPORT, STATUS, config_of, list_runs, status_of
from gennape.platform.ui.history import FrontHistory, FrontNetwork
from gennape.platform.workspace.hints import command
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gennape.platform.search.config import SearchConfig

#: Runs that are listed, the newest; and those whose history is held in memory.
MAX_RUNS, MAX_HISTORIES = 500, 24
_MAX_DRAWINGS = 256


class Catalogue:
    """Runs of one workspace. ``own_space``: the addresses of own search spaces by name, for commands to be copied."""

    def __init__(self, workspace: Path, own_space: Mapping[str, str] | None = None) -> None:
        self.workspace = workspace.absolute()
        self._own = dict(own_space or {})
        self._root = workspace.resolve()
        self._histories: OrderedDict[str, FrontHistory] = OrderedDict()
        self._lock = Lock()
        self._counts: dict[str, tuple[int, int]] = {}  # when a run's evaluations changed last, and how many there are
        self._configs: dict[str, tuple[tuple[int, ...], SearchConfig]] = {}
        self._drawing = lru_cache(_MAX_DRAWINGS)(_drawing)

    def runs(self) -> list[dict[str, Any]]:
        """A summary of each run, the newest first; where a run cannot be read, it says why."""
        return [self._summary(folder) for folder in list_runs(self.workspace)[:MAX_RUNS]]

    def front(self, name: str, known: str = "") -> dict[str, Any]:
        """The fronts of a run by generation; ``unchanged`` if its version is the ``known`` one.

        Raises :class:`WorkspaceError` for no run of the workspace and for files that cannot be read.
        """
        folder = self._folder(name)
        config, status = self._config(folder), status_of(folder)
        history = self._history(folder, config)
        history.update()
        version = f"{config.evaluations}-{len(history.evaluations)}-{status.get('status')}"
        if version == known:
            return {"version": version, "unchanged": True}
        about = about_run(folder, config)
        size = sum(network.until is None for network in history.networks)
        done = history.evaluations[-1] if history.evaluations else 0
        title, subtitle = about.lines(size, done)
        return {
            "version": version,
            "name": name,
            "title": title,
            "subtitle": subtitle,
            "objectives": [{"name": o.name, "direction": o.direction} for o in config.directed],
            "measures": [{"name": each, "label": _label(each)} for each in history.measures],
            "evaluations": list(history.evaluations),
            "networks": [_point(network) for network in history.networks],
            "cloud_step": history.cloud_step,
            "cloud": {each: list(values) for each, values in history.cloud.items()},
        }

    def network(self, name: str, key: str) -> dict[str, Any]:
        """What is known of one network that was on the front of a run: by the hash of its graph."""
        folder = self._folder(name)
        config, found = self._config(folder), self._network(folder, key)
        index = next((point["index"] for point in self._report(folder) if point.get("hash") == key), None)
        space = self._own.get(config.space, config.space)
        which: dict[str, Any] = {"space": space, "architecture": found.architecture}
        if index is not None:
            which = {"run": name, "index": index, "space": self._own.get(config.space)}
        return {
            "run": name,
            "index": index,
            "architecture": found.architecture,
            "measures": [[_word(each), readable(each, value)] for each, value in found.values.items()],
            "deviation": None if found.deviation is None else readable("deviation", found.deviation),
            "island": found.island,
            "since": found.since + 1,
            "until": found.until,
            "export": command("export", **which, workspace=self.workspace, to="model.onnx"),
        }

    def drawing(self, name: str, key: str) -> str:
        """The network as a picture (SVG)."""
        folder = self._folder(name)
        return self._drawing(self._config(folder).space, self._network(folder, key).architecture)

    def _report(self, folder: Path) -> list[dict[str, Any]]:
        self._confined(folder / REPORT / FRONT)
        return read_front(folder)

    def _network(self, folder: Path, key: str) -> FrontNetwork:
        history = self._history(folder, self._config(folder))
        history.update()
        for network in reversed(history.networks):
            if network.key == key:
                return network
        raise WorkspaceError(f"no network {key[:40]!r} was on a front of {folder.name}; reload the page")

    def _history(self, folder: Path, config: SearchConfig) -> FrontHistory:
        self._confined(folder / SHARDS)
        with self._lock:
            found = self._histories.pop(folder.name, None)
            if found is None:
                found = FrontHistory(folder, config.directed, self._confined)
            self._histories[folder.name] = found
            if len(self._histories) > MAX_HISTORIES:
                self._histories.popitem(last=False)
            return found

    def _folder(self, name: str) -> Path:
        for folder in list_runs(self.workspace):
            if folder.name == name:
                return self._check(folder)
        raise WorkspaceError(f"no run {name[:200]!r} in this workspace; reload the page")

    def _check(self, folder: Path) -> Path:
        for path in (folder, folder / CONFIG, folder / STATUS):
            self._confined(path)
        return folder

    def _confined(self, path: Path) -> Path:
        """A path of the workspace; raises :class:`WorkspaceError` where links lead out of it."""
        if not path.resolve().is_relative_to(self._root):
            raise WorkspaceError(f"{path} leads out of the workspace, and is not shown")
        return path

    def _config(self, folder: Path) -> SearchConfig:
        """The configuration of a run, read again only where its files changed: pages ask every two seconds."""
        changed = tuple(_changed(folder / name) for name in (CONFIG, STATUS))
        known = self._configs.get(folder.name)
        if known is None or known[0] != changed:
            known = self._configs[folder.name] = (changed, config_of(folder))
        return known[1]

    def _count(self, folder: Path) -> int:
        """The number of evaluations of a run, counted again only where a file was added."""
        changed = _changed(self._confined(folder / SHARDS))
        known = self._counts.get(folder.name)
        if known is None or known[0] != changed:
            known = self._counts[folder.name] = (changed, count_rows(folder))
        return known[1]

    def _summary(self, folder: Path) -> dict[str, Any]:
        summary: dict[str, Any] = {"name": folder.name}
        try:
            self._check(folder)
            config, status = self._config(folder), status_of(folder)
            done = self._count(folder)
        except (GennapeError, OSError) as error:
            return summary | {"problem": str(error)}
        return summary | {
            "space": config.space,
            "objectives": config.objectives,
            "searcher": config.searcher,
            "seed": config.seed,
            "status": status.get("status", "new"),
            "reason": status.get("reason", ""),
            "evaluations": done,
            "target": config.evaluations,
            "began": folder.stat().st_ctime,
        }


def _changed(path: Path) -> int:
    """When a file or folder changed last, in nanoseconds; 0 for none."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _drawing(space: str, architecture: str) -> str:
    found = family(space)
    return drawing(found.graph(found.decode(json.loads(architecture))))


def _point(network: FrontNetwork) -> dict[str, Any]:
    """A network as plots need it; texts for people are made here, so that there is one way to write a measure."""
    return {
        "key": network.key,
        "values": network.values,
        "texts": {name: readable(name, value) for name, value in network.values.items()},
        "deviation": network.deviation,
        "since": network.since,
        "until": network.until,
    }


def _label(name: str) -> str:
    """The label of an axis, without the direction that is better."""
    return label(Objective(name, "min")).partition(",")[0]


def _word(name: str) -> str:
    return _label(name).partition(" [")[0]
