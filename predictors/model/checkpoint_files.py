"""The two files of a checkpoint: written whole or not at all, and believed only where their digests agree."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from gennape.errors import CheckpointError
from gennape.predictors.calibration.calibration import CalibrationRecord
from gennape.predictors.encoder.features import N_FEATURES
from gennape.predictors.few_shot.scaling_law import ScalingLaw
from gennape.predictors.restoring import parsed
from gennape.search_spaces.files.bounded import read_regular

log = logging.getLogger(__name__)
#: Version of the files. Raise it when their meaning changes, and keep reading the old ones.
FORMAT = 4
#: The version before, whose description has no digest but is the same otherwise.
_WITHOUT_DIGEST = 3
WEIGHTS, DESCRIPTION = "weights.safetensors", "checkpoint.json"
_MAX_DESCRIPTION, _MAX_WEIGHTS = 1 << 24, 1 << 34
_AGAIN = "it was altered or damaged; copy the checkpoint again"


@dataclass(frozen=True, slots=True)
class Description:
    """The JSON of a checkpoint, but for its format and digest."""

    kind: str  # "encoder" or "ensemble"
    features: int
    config: dict[str, Any]
    provenance: dict[str, Any]
    weights_sha256: str
    members: dict[str, Any] | None = None  # these three of an ensemble only
    within: dict[str, Any] | None = None
    law: ScalingLaw | None = None


@dataclass(frozen=True, slots=True)
class _Provenance:
    """What others read of a provenance, which may hold anything else."""

    families: dict[str, dict[str, Any]] | list[str] | None = None
    family: str | None = None
    data: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    tuned: dict[str, Any] | None = None
    calibrations: dict[str, CalibrationRecord] | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint as it was read: ``sha256`` is its name, ``tensors`` its weights by name."""

    description: Description
    tensors: dict[str, torch.Tensor]
    sha256: str


def digest(fields: Mapping[str, Any]) -> str:
    """The name of a checkpoint: the SHA-256 of its description as format 3 wrote it, which had no digest within.

    So a checkpoint of format 3 keeps its name when it is given its digest. The description holds that of the weights.
    """
    named = {name: value for name, value in fields.items() if name != "sha256"} | {"format": _WITHOUT_DIGEST}
    return hashlib.sha256((json.dumps(named, indent=2, sort_keys=True) + "\n").encode()).hexdigest()


# Reading ------------------------------------------------------------------------------------------------------------


def read_description(folder: Path) -> tuple[Description, str]:
    """What a checkpoint says of itself, and its name; raises :class:`CheckpointError` for one that was altered."""
    description, name, version = _described(folder)
    if version == _WITHOUT_DIGEST:
        _warn_of_age(folder)
    return description, name


@cache  # once for each folder
def _warn_of_age(folder: Path) -> None:
    log.warning(
        "%s was written by an older gennape, without a digest of its description: sizes and limits were checked, but "
        "a number altered within them would not be noticed", folder,
    )  # fmt: skip


def _described(folder: Path) -> tuple[Description, str, int]:
    path = folder / DESCRIPTION
    fields = _read_json(path)
    version = fields.pop("format", None)
    if isinstance(version, bool) or version not in (FORMAT, _WITHOUT_DIGEST):
        raise CheckpointError(
            f"{folder}: checkpoint format {version!r}, this version of gennape reads {FORMAT} and {_WITHOUT_DIGEST}; "
            "make it anew with: gennape fit, or install the version that wrote it"
        )
    found = digest(fields)
    if version == FORMAT and (recorded := fields.pop("sha256", None)) != found:
        raise CheckpointError(
            f"{path} is not what its digest says (SHA-256 {found[:12]}…, recorded {str(recorded)[:12]}…): {_AGAIN}"
        )
    description = parse(Description, fields, path)
    parse(_Provenance, {name: fields["provenance"].get(name) for name in _Provenance.__slots__}, path, "provenance")
    return description, found, version


def read(folder: Path, kind: str) -> Stored:
    """A checkpoint of this kind; raises :class:`CheckpointError` for another kind, or files that are not its own."""
    description, sha256 = read_description(folder)
    if description.kind != kind:
        raise CheckpointError(f"{folder} holds an {description.kind}, but an {kind} is needed here")
    if description.features != N_FEATURES:
        raise CheckpointError(
            f"{folder}: made for {description.features} features per step, this version computes {N_FEATURES}; "
            "make it anew with: gennape fit"
        )
    try:
        weights = read_regular(folder / WEIGHTS, _MAX_WEIGHTS)
    except OSError as error:
        raise CheckpointError(f"cannot read {folder / WEIGHTS}: {error.strerror or error}") from error
    found = hashlib.sha256(weights).hexdigest()
    if found != description.weights_sha256:
        raise CheckpointError(
            f"{folder / WEIGHTS} is not what {DESCRIPTION} describes (SHA-256 {found[:12]}…, expected "
            f"{description.weights_sha256[:12]}…): {_AGAIN}"
        )
    try:
        tensors = load(weights)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"cannot read {folder / WEIGHTS}: {error}") from error
    return Stored(description, tensors, sha256)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(read_regular(path, _MAX_DESCRIPTION), object_pairs_hook=_once)
    except FileNotFoundError:
        raise CheckpointError(
            f"no checkpoint at {path.parent}: {path.name} is missing; make one with: gennape fit, of an encoder by: "
            "gennape pretrain"
        ) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; {_AGAIN}") from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path} holds {type(fields).__name__}, not the description of a checkpoint; {_AGAIN}")
    return fields


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different, or :class:`ValueError`: readers differ in which of two they take."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return fields


def parse(kind: type[Any], fields: Any, path: Path, within: str = "") -> Any:
    """A dataclass from JSON; raises :class:`CheckpointError` that names the field that is missing, unknown or wrong."""
    return parsed(kind, fields, f"{path}: {within}." if within else f"{path}: ", "copy the checkpoint again")


# Writing ------------------------------------------------------------------------------------------------------------


def check_place(folder: Path, read: Path | None = None) -> None:
    """Raise :class:`CheckpointError` where no checkpoint could be written: before training, not after it.

    Nor where it would take the place of the one that is ``read``, which would be lost.
    """
    if read is not None and folder.resolve() == read.resolve():
        raise CheckpointError(f"{folder} is what is read, and would be lost; choose another place to write to")
    try:
        if folder.exists():
            _refuse_foreign(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-"):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def write(folder: Path, description: Description, tensors: Mapping[str, torch.Tensor]) -> str:
    """Write a checkpoint, whole or not at all, with the digests of both files; returns its name."""
    weights = save(dict(tensors))
    fields = asdict(replace(description, weights_sha256=hashlib.sha256(weights).hexdigest()))
    name = digest(fields)
    text = (json.dumps({**fields, "format": FORMAT, "sha256": name}, indent=2, sort_keys=True) + "\n").encode()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as parent:
            fresh = Path(parent) / "new"
            fresh.mkdir()
            (fresh / WEIGHTS).write_bytes(weights)
            (fresh / DESCRIPTION).write_bytes(text)
            while not _put(fresh, folder):
                pass  # another writer was faster; that one's is replaced next
    except OSError as error:
        raise _unwritable(folder, error) from error
    return name


def _unwritable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"cannot write {folder}: {error.strerror or error}; choose a place that can be written")


def _put(fresh: Path, folder: Path) -> bool:
    """Move ``fresh`` to ``folder``, in place of the checkpoint there; whether it is there now.

    Whatever ends this between the two moves, the old checkpoint is put back.
    """
    old = folder.with_name(f".{folder.name}-old-{secrets.token_hex(4)}")
    if folder.exists():
        _refuse_foreign(folder)
        try:
            os.replace(folder, old)
        except FileNotFoundError:
            return False
    try:
        os.replace(fresh, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    finally:
        if old.exists() and folder.exists():
            shutil.rmtree(old)
        elif old.exists():
            os.replace(old, folder)
    return True


def _refuse_foreign(folder: Path) -> None:
    """Only a checkpoint may be overwritten by a checkpoint."""
    foreign = {path.name for path in folder.iterdir()} - {WEIGHTS, DESCRIPTION} if folder.is_dir() else {folder.name}
    if foreign:
        raise CheckpointError(
            f"{folder} holds {sorted(foreign)[:3]}, not a checkpoint; choose another place for this one"
        )
