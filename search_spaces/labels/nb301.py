"""Read the training results that NAS-Bench-301's surrogates were fitted on (Zela et al., 2022), one JSON file per run.

``nb_301_v13_lc_iclr_final.zip`` or its contents: ``<optimiser>/results_<n>.json`` with the architecture in
``optimized_hyperparamater_config`` (sic), ``info[0]`` with ``val_accuracy`` in percent, ``test_accuracy``,
``runtime`` in seconds and, in some releases, ``learning_curves`` (https://github.com/automl/nasbench301,
``surrogate_models/utils.py``).
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from gennape.errors import InvalidDataError
from gennape.search_spaces.families.nb301 import NasBench301
from gennape.search_spaces.files.bounded import BROKEN, bounded, open_bounded, require_regular
from gennape.search_spaces.labels.labelled import (
    LabelledArchitectures,
    LabelledRow,
    Reader,
    Request,
    gather_like_first,
    readable_rows,
)

_RUN = re.compile(r"results_[^/]*\.json")
_USUAL = ("val_accuracy", "test_accuracy")
#: Folders of architectures that an optimiser chose for their accuracy; others (``rs``) hold random ones.
OPTIMISERS = frozenset({"bananas", "combo", "darts", "de", "drnas", "gdas", "pc_darts", "random_ws", "re", "tpe"})
_CURVE = "Train/val_accuracy"
#: Largest file of one run.
_MAX_BYTES = 1 << 26


def run_row(text: bytes, where: str, folder: str) -> LabelledRow:
    """The row of one run; raises :class:`InvalidDataError` if it is invalid."""
    try:
        run = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidDataError(f"{where}: not JSON: {error}") from error
    config = run.get("optimized_hyperparamater_config") if isinstance(run, dict) else None
    if not isinstance(config, dict):
        raise InvalidDataError(f"{where}: lacks optimized_hyperparamater_config; not a run of NAS-Bench-301")
    picked = folder in OPTIMISERS
    return LabelledRow(where, config, _measured(run, config), sampled=not picked, picked=picked)


def _measured(run: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    information = run.get("info")
    first = information[0] if isinstance(information, list) and information else information
    info: Mapping[str, Any] = first if isinstance(first, dict) else {}
    curves = run.get("learning_curves")
    curve = curves.get(_CURVE) if isinstance(curves, dict) else None
    found = {
        "val_accuracy": info.get("val_accuracy", curve[-1] if isinstance(curve, list) and curve else None),
        "test_accuracy": run.get("test_accuracy"),
        "runtime": run.get("runtime"),
        "params": info.get("model_parameters"),
        "epochs": info.get("epochs"),
        "init_channels": config.get("NetworkSelectorDatasetInfo:darts:init_channels"),
        "layers": config.get("NetworkSelectorDatasetInfo:darts:layers"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _files(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """(position, folder, content) of the runs in a folder and its subfolders, or in a file."""
    for file in sorted(path.rglob("results_*.json")) if path.is_dir() else [path]:
        with open_bounded(file, _MAX_BYTES) as stream:
            data = stream.read()
        yield str(file), file.parent.name, data


def _members(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """The runs in an archive, read without unpacking it."""
    try:
        require_regular(path)
        with zipfile.ZipFile(path) as archive:
            if sum(member.compress_size for member in archive.infolist()) > path.stat().st_size:
                raise InvalidDataError(f"{path}: its files overlap; fetch it again")
            for member in archive.infolist():
                name = PurePath(member.filename)
                if not _RUN.fullmatch(name.name):
                    continue
                if member.file_size > _MAX_BYTES:
                    raise InvalidDataError(f"{path}/{name}: {member.file_size} bytes, too many for one run; not read")
                where = f"{path}/{name}"
                with archive.open(member) as content:
                    data = bounded(content, where, _MAX_BYTES).read()
                yield where, name.parent.name, data
    except BROKEN as error:
        raise InvalidDataError(f"{path}: the archive is incomplete: {error}; fetch it again") from error


def recognises(path: Path) -> bool:
    """Whether this is a folder with runs, an archive, or one run."""
    if path.is_dir():
        return next(path.rglob("results_*.json"), None) is not None
    return path.is_file() and (path.suffix == ".zip" or _RUN.fullmatch(path.name) is not None)


def blocks(path: Path, request: Request) -> Iterator[LabelledArchitectures]:
    """Blocks of runs; those without the label are left out, damaged ones rejected."""
    found = _members(path) if path.suffix == ".zip" else _files(path)
    loads = (partial(run_row, content, where, folder) for where, folder, content in found)
    yield from gather_like_first(path, readable_rows(loads, request), _USUAL, request)


READER = Reader(
    "NAS-Bench-301",
    "nb_301_v13_lc_iclr_final.zip, or a folder of its results_*.json",
    recognises,
    blocks,
    (NasBench301,),
)
