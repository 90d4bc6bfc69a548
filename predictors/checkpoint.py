"""Checkpoints: weights as safetensors, everything else as one JSON beside them. Loading executes no code."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from gennape.errors import CheckpointError
from gennape.predictors.clustered_encoder import ClusteredEncoder, ClusteringConfig
from gennape.predictors.encoder import EncoderConfig, GraphEncoder
from gennape.predictors.features import N_FEATURES
from gennape.predictors.fuzzy_ensemble import Fitted, FuzzyEnsemble
from gennape.predictors.gaussian_process import restored
from gennape.predictors.members.ensemble import MemberEnsemble
from gennape.predictors.scaling import ScalingLaw

#: Version of the files. Raise it when their meaning changes; from the first release on, keep reading the old ones.
FORMAT = 3
WEIGHTS, DESCRIPTION = "weights.safetensors", "checkpoint.json"
#: The tensor, beside the weights, that tells which architectures were learnt from or chosen by.
_LEARNT = "learnt_architectures"
#: What the names of tensors begin with in a fitted ensemble: of the encoder as it was pretrained, and of the members.
_PRETRAINED, _MEMBERS = "pretrained.", "members."
#: And, where labels of another family were learnt from, of what they taught.
_TUNED = "tuned."


@dataclass(frozen=True, slots=True)
class _Description:
    """The JSON of a checkpoint."""

    format: int
    kind: str  # "encoder" or "ensemble"
    features: int
    config: dict[str, Any]
    provenance: dict[str, Any]
    weights_sha256: str
    members: dict[str, Any] | None = None  # these three of an ensemble only
    within: dict[str, Any] | None = None
    law: ScalingLaw | None = None


def shipped_checkpoint() -> Path:
    """The folder of the checkpoint that comes with the package, fitted on NAS-Bench-101."""
    return Path(str(files("gennape.predictors") / "checkpoints" / "nb101"))


def check_place(folder: Path) -> None:
    """Raise :class:`CheckpointError` where no checkpoint could be written: before training, not after it."""
    try:
        if folder.exists():
            _refuse_foreign(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-"):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def save_ensemble(folder: Path, fitted: Fitted, provenance: Mapping[str, Any], learnt: Collection[str] = ()) -> str:
    """Write a fitted ensemble; returns its hash. The folder appears whole or not at all.

    ``learnt`` are the identities of the architectures whose labels had a part in it, see :func:`learnt_numbers`.
    """
    pretrained = {_PRETRAINED + name: tensor for name, tensor in fitted.pretrained.state_dict().items()}
    members = {_MEMBERS + name: tensor for name, tensor in fitted.members.state().items()}
    numbers = torch.from_numpy(np.unique(identity_numbers(learnt)))
    tensors = fitted.network.state_dict() | pretrained | members | {_LEARNT: numbers}
    return _save(folder, "ensemble", tensors, asdict(fitted.network.config), provenance, fitted)


def save_encoder(folder: Path, encoder: GraphEncoder, provenance: Mapping[str, Any]) -> str:
    """Write a pretrained encoder; returns its hash."""
    return _save(folder, "encoder", encoder.state_dict(), asdict(encoder.config), provenance)


def save_tuned(
    folder: Path,
    predictor: FuzzyEnsemble,
    provenance: Mapping[str, Any],
    base: Path | None = None,
    learnt: Collection[str] = (),
) -> str:
    """Write a predictor that was fitted to labels of a family, ready to serve or to search with; returns its hash.

    ``base`` is the checkpoint that it was loaded from, by default the shipped one; ``provenance`` says what the labels
    are, and in ``families`` what families it knows labels of now; ``learnt`` are the identities of the labelled
    architectures. Raises :class:`CheckpointError` for a predictor that was not fitted, or not loaded from ``base``.
    """
    base = shipped_checkpoint() if base is None else base
    description, weights, sha256 = _load(base, "ensemble")
    if predictor.process is None:
        raise CheckpointError("the predictor has learnt from no labels; call fit(graphs, accuracy) first")
    if predictor.sha256.partition("+")[0] != sha256:
        raise CheckpointError(f"the predictor does not come from {base}; name the checkpoint that it was loaded from")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith(_TUNED)}
    taught = {_TUNED + name: torch.from_numpy(array.copy()) for name, array in predictor.process.state().items()}
    numbers = np.union1d(weights[_LEARNT].numpy(), identity_numbers(learnt))
    families = {name: value for name, value in provenance.items() if name == "families"}
    record = {**description.provenance, **families, "tuned": dict(provenance)}
    return _write(folder, replace(description, provenance=record), kept | taught | {_LEARNT: torch.from_numpy(numbers)})


def load_pretrained() -> FuzzyEnsemble:
    """The predictor that comes with the package, fitted on NAS-Bench-101: ready to predict, or to fit to a family."""
    return load_checkpoint(shipped_checkpoint())


def load_checkpoint(folder: Path | None = None) -> FuzzyEnsemble:
    """The fitted ensemble in ``folder``, or the shipped one.

    Raises :class:`CheckpointError` for a missing, unreadable, altered, older or newer checkpoint.
    """
    folder = shipped_checkpoint() if folder is None else folder
    description, weights, sha256 = _load(folder, "ensemble")
    if description.members is None or description.within is None or description.law is None:
        raise CheckpointError(f"{folder}: the description of an ensemble lacks its members; make it anew: gennape fit")
    law = description.law
    if not np.isfinite([*law.weights, law.level, law.decay]).all():
        raise CheckpointError(f"{folder / DESCRIPTION}: law must be of finite numbers, got {law}; copy it again")
    config = _parse(ClusteringConfig, description.config, folder)
    network, pretrained = ClusteredEncoder(config), GraphEncoder(config.encoder)
    _fill(network, _split(weights, ""), folder)
    _fill(pretrained, _split(weights, _PRETRAINED), folder)
    configs, tensors = (description.members, description.within), _split(weights, _MEMBERS)
    members, within = (MemberEnsemble.restore(config, tensors) for config in configs)
    taught = {name: tensor.numpy() for name, tensor in _split(weights, _TUNED).items()}
    process = restored(taught) if taught else None
    return FuzzyEnsemble(Fitted(network, members, within, law, pretrained), sha256, process)


def _split(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with ``prefix``, without it; with none, those of the clustered encoder."""
    others = (_PRETRAINED, _MEMBERS, _TUNED, _LEARNT)
    chosen = (name for name in weights if (name.startswith(prefix) if prefix else not name.startswith(others)))
    return {name.removeprefix(prefix): weights[name] for name in chosen}


def load_encoder(folder: Path) -> tuple[GraphEncoder, str]:
    """The pretrained encoder in ``folder`` and its hash; raises :class:`CheckpointError` as above."""
    description, weights, sha256 = _load(folder, "encoder")
    encoder = GraphEncoder(_parse(EncoderConfig, description.config, folder))
    _fill(encoder, weights, folder)
    return encoder.eval(), sha256


def learnt_numbers(folder: Path | None = None) -> Int64[np.ndarray, " n"]:
    """The architectures whose labels had a part in a checkpoint, as :func:`identity_numbers`, ascending."""
    folder = shipped_checkpoint() if folder is None else folder
    weights = _load(folder, "ensemble")[1]
    return weights[_LEARNT].numpy() if _LEARNT in weights else np.zeros(0, np.int64)


def identity_numbers(identities: Collection[str]) -> Int64[np.ndarray, " n"]:
    """64 bits of the SHA-256 of each identity: enough to tell a million architectures apart."""
    digests = b"".join(hashlib.sha256(identity.encode()).digest()[:8] for identity in identities)
    return np.frombuffer(digests, "<i8").astype(np.int64)


def provenance_of(folder: Path | None = None) -> dict[str, Any]:
    """How a checkpoint was made: data, split, seed, settings, version and commit, metrics."""
    folder = shipped_checkpoint() if folder is None else folder
    return _describe(folder)[0].provenance


def _save(
    folder: Path,
    kind: str,
    state: Mapping[str, torch.Tensor],
    config: dict[str, Any],
    provenance: Mapping[str, Any],
    fitted: Fitted | None = None,
) -> str:
    description = _Description(FORMAT, kind, N_FEATURES, config, dict(provenance), "")
    if fitted is not None:
        members, within = fitted.members.config(), fitted.within.config()
        description = replace(description, members=members, within=within, law=fitted.law)
    return _write(folder, description, {name: _portable(tensor) for name, tensor in state.items()})


def _write(folder: Path, description: _Description, tensors: Mapping[str, torch.Tensor]) -> str:
    weights = save(dict(tensors))
    description = replace(description, weights_sha256=hashlib.sha256(weights).hexdigest())
    text = (json.dumps(asdict(description), indent=2, sort_keys=True) + "\n").encode()
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
    return hashlib.sha256(text).hexdigest()


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


def _portable(tensor: torch.Tensor) -> torch.Tensor:
    """Single precision for what is computed with, whole numbers as they are."""
    return (tensor.detach().float() if tensor.is_floating_point() else tensor).cpu().contiguous()


def _refuse_foreign(folder: Path) -> None:
    """Only a checkpoint may be overwritten by a checkpoint."""
    foreign = {path.name for path in folder.iterdir()} - {WEIGHTS, DESCRIPTION} if folder.is_dir() else {folder.name}
    if foreign:
        raise CheckpointError(
            f"{folder} holds {sorted(foreign)[:3]}, not a checkpoint; choose another place for this one"
        )


def _describe(folder: Path) -> tuple[_Description, bytes]:
    try:
        text = (folder / DESCRIPTION).read_bytes()
        fields = json.loads(text)
    except FileNotFoundError:
        raise CheckpointError(
            f"no checkpoint at {folder}: {DESCRIPTION} is missing; make one with: gennape fit, of an encoder by: "
            "gennape pretrain"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {folder / DESCRIPTION}: {error}") from error
    version = fields.get("format") if isinstance(fields, dict) else None
    if version != FORMAT:
        raise CheckpointError(
            f"{folder}: checkpoint format {version!r}, this version of gennape reads {FORMAT}; "
            "make it anew with: gennape fit, or install the version that wrote it"
        )
    return _parse(_Description, fields, folder), text


def _load(folder: Path, kind: str) -> tuple[_Description, dict[str, torch.Tensor], str]:
    description, text = _describe(folder)
    if description.kind != kind:
        raise CheckpointError(f"{folder} holds an {description.kind}, but an {kind} is needed here")
    if description.features != N_FEATURES:
        raise CheckpointError(
            f"{folder}: made for {description.features} features per step, this version computes {N_FEATURES}; "
            "make it anew with: gennape fit"
        )
    try:
        weights = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {folder / WEIGHTS}: {error}") from error
    found = hashlib.sha256(weights).hexdigest()
    if found != description.weights_sha256:
        raise CheckpointError(
            f"{folder / WEIGHTS} is not what {DESCRIPTION} describes (SHA-256 {found[:12]}…, expected "
            f"{description.weights_sha256[:12]}…): it was altered or damaged; copy the checkpoint again"
        )
    try:
        return description, load(weights), hashlib.sha256(text).hexdigest()
    except SafetensorError as error:
        raise CheckpointError(f"cannot read {folder / WEIGHTS}: {error}") from error


def _parse(kind: type[Any], fields: Any, folder: Path) -> Any:
    try:
        return TypeAdapter(kind).validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{folder / DESCRIPTION}: {where}: {first['msg']}, got {first['input']!r}") from error


def _fill(module: torch.nn.Module, weights: dict[str, torch.Tensor], folder: Path) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{folder / WEIGHTS} does not fit the sizes in {DESCRIPTION}: {error}") from error
