"""Checkpoints: weights as safetensors, everything else as one JSON beside them. Loading executes no code."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from gennape.errors import CheckpointError
from gennape.predictors.calibration.calibration import Calibration, CalibrationRecord
from gennape.predictors.calibration.calibration import restored as restored_calibration
from gennape.predictors.encoder.clustered import ClusteredEncoder
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.encoder.features import N_FEATURES
from gennape.predictors.encoder.settings import ClusteringConfig, EncoderConfig
from gennape.predictors.ensemble.ensemble import MemberEnsemble
from gennape.predictors.few_shot.gaussian_process import GaussianProcess, restored
from gennape.predictors.model.checkpoint_files import (
    DESCRIPTION,
    WEIGHTS,
    Description,
    Stored,
    check_place,
    parse,
    read,
    read_description,
    write,
)
from gennape.predictors.model.fuzzy_ensemble import Fitted, FuzzyEnsemble, input_widths
from gennape.predictors.restoring import made_of

__all__ = [
    "DESCRIPTION",
    "WEIGHTS",
    "check_place",
    "checkpoint_name",
    "identity_numbers",
    "is_encoder",
    "learnt_numbers",
    "load_checkpoint",
    "load_encoder",
    "load_pretrained",
    "provenance_of",
    "save_encoder",
    "save_ensemble",
    "save_tuned",
    "shipped_checkpoint",
]

#: The tensor, beside the weights, that tells which architectures were learnt from or chosen by.
_LEARNT = "learnt_architectures"
#: What the names of tensors begin with in a fitted ensemble: of the encoder as it was pretrained, and of the members.
_PRETRAINED, _MEMBERS = "pretrained.", "members."
#: And, where labels of another family were learnt from, of what they taught.
_TUNED = "tuned."
#: And of the calibrations, each followed by its search space.
_CALIBRATED = "calibrated."
#: Where the provenance has their records.
_CALIBRATIONS = "calibrations"


def shipped_checkpoint() -> Path:
    """The folder of the checkpoint that comes with the package, fitted on NAS-Bench-101."""
    return Path(str(files("gennape.predictors") / "checkpoints" / "nb101"))


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
    stored = read(base, "ensemble")
    if predictor.process is None:
        raise CheckpointError("the predictor has learnt from no labels; call fit(graphs, accuracy) first")
    if predictor.sha256.partition("+")[0] != stored.sha256:
        raise CheckpointError(f"the predictor does not come from {base}; name the checkpoint that it was loaded from")
    kept = {name: tensor for name, tensor in stored.tensors.items() if not name.startswith(_TUNED)}
    taught = {_TUNED + name: torch.from_numpy(array.copy()) for name, array in predictor.process.state().items()}
    numbers = np.union1d(_learnt(stored, base), identity_numbers(learnt))
    families = {name: value for name, value in provenance.items() if name == "families"}
    record = {**stored.description.provenance, **families, "tuned": dict(provenance)}
    tensors = kept | taught | {_LEARNT: torch.from_numpy(numbers)}
    return write(folder, replace(stored.description, provenance=record), tensors)


def save_calibrated(folder: Path, calibrations: Collection[Calibration], base: Path | None = None) -> str:
    """Write a checkpoint with these calibrations in place of any it has; returns its hash.

    ``base`` is the checkpoint that they are added to, by default the shipped one.
    """
    stored = read(shipped_checkpoint() if base is None else base, "ensemble")
    kept = {name: tensor for name, tensor in stored.tensors.items() if not name.startswith(_CALIBRATED)}
    added = {
        f"{_CALIBRATED}{one.space}.{name}": torch.from_numpy(array)
        for one in calibrations
        for name, array in one.state().items()
    }
    records = {one.space: asdict(one.record) for one in calibrations}
    provenance = {**stored.description.provenance, _CALIBRATIONS: records}
    return write(folder, replace(stored.description, provenance=provenance), kept | added)


def load_pretrained(zero_shot: bool = False) -> FuzzyEnsemble:
    """Load the predictor that ships with the package.

    It was fitted on NAS-Bench-101. Networks of search spaces that it has a calibration of are predicted on the scale of
    their public labels. It ranks networks of other search spaces from their graphs, and ``fit`` teaches it one of them
    by some 50 labels.

    Args:
        zero_shot: Leave the calibrations out, so that all networks are predicted without labels of their space.

    Returns:
        A predictor with the methods ``predict``, ``rank``, ``choose``, ``fit`` and ``embed``.

    Raises:
        CheckpointError: The installed files are damaged.

    Example:
        >>> import gennape as gp
        >>> space = gp.family("ofa_mbv3")
        >>> graphs = space.graphs(space.sample(np.random.default_rng(0), 20))
        >>> predictor = gp.load_pretrained()
        >>> predictor.predict(graphs).accuracy.shape  # percent, ImageNet top-1 of the subnets
        (20,)
        >>> best = graphs[predictor.rank(graphs)[0]]
    """
    return load_checkpoint(shipped_checkpoint(), zero_shot)


def load_checkpoint(folder: Path | None = None, zero_shot: bool = False) -> FuzzyEnsemble:
    """Load a predictor from a checkpoint.

    Loading executes no code: a checkpoint is a file of weights (safetensors) and a JSON file.

    Args:
        folder: The folder that ``gennape fit`` or ``gennape finetune`` wrote; None is the predictor that ships.
        zero_shot: Leave its calibrations out.

    Returns:
        The predictor.

    Raises:
        CheckpointError: The checkpoint is missing, unreadable or altered, or of a version that is not read.

    Example:
        >>> import gennape as gp
        >>> gp.load_checkpoint().sha256 == gp.load_pretrained().sha256
        True
    """
    folder = shipped_checkpoint() if folder is None else folder
    stored = read(folder, "ensemble")
    description, tensors = stored.description, stored.tensors
    if description.members is None or description.within is None or description.law is None:
        raise CheckpointError(f"{folder}: the description of an ensemble lacks its members; make it anew: gennape fit")
    config = parse(ClusteringConfig, description.config, folder / DESCRIPTION, "config")
    _check_members(description, config, folder)
    where = str(folder / WEIGHTS)
    network = made_of(lambda: ClusteredEncoder(config), _split(tensors, ""), where)
    pretrained = made_of(lambda: GraphEncoder(config.encoder), _split(tensors, _PRETRAINED), where)
    configs = (description.members, description.within)
    members, within = (MemberEnsemble.restore(config, _split(tensors, _MEMBERS)) for config in configs)
    known = members.state().keys() | within.state().keys()
    if unknown := sorted(_split(tensors, _MEMBERS).keys() - known):
        raise CheckpointError(f"{where}: {_MEMBERS}{unknown[0]} belongs to no member; copy the checkpoint again")
    _learnt(stored, folder)
    fitted = Fitted(network, members, within, description.law, pretrained)
    calibrations = _calibrations(stored, folder)
    taught = _taught(tensors, config.encoder.hidden)
    return FuzzyEnsemble(fitted, stored.sha256, taught, () if zero_shot else calibrations)


def _calibrations(stored: Stored, folder: Path) -> list[Calibration]:
    """The calibrations of a checkpoint, none of one that was made before there were any."""
    records = stored.description.provenance.get(_CALIBRATIONS) or {}
    states: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in _split(stored.tensors, _CALIBRATED).items():
        space, _, array = name.rpartition(".")
        states.setdefault(space, {})[array] = tensor.numpy()
    if different := sorted(states.keys() ^ records.keys()):
        raise CheckpointError(
            f"{folder}: the calibration of {different[0]} lacks its weights or its record; copy the checkpoint again"
        )
    return [
        restored_calibration(space, CalibrationRecord(**records[space]), state)
        for space, state in sorted(states.items())
    ]


def _check_members(description: Description, config: ClusteringConfig, folder: Path) -> None:
    """Refuse members that do not read what this encoder makes."""
    allowed = {"embedding": [config.encoder.embedding], "clusters": [1, config.clusters]}
    listed = ((ensemble or {}).get("members") for ensemble in (description.members, description.within))
    for member in chain.from_iterable(one for one in listed if isinstance(one, list)):
        for name, sizes in allowed.items():
            got = member.get(name) if isinstance(member, dict) else None
            if got is not None and got not in sizes:
                raise CheckpointError(
                    f"{folder / DESCRIPTION}: a member's {name} is {got!r}, the encoder's sizes give {sizes}; "
                    "copy the checkpoint again"
                )


def _taught(tensors: Mapping[str, torch.Tensor], hidden: int) -> GaussianProcess | None:
    """What labels taught an encoder of so many hidden features, if any did."""
    arrays = {name: tensor.numpy() for name, tensor in _split(tensors, _TUNED).items()}
    return restored(arrays, input_widths(hidden)) if arrays else None


def _learnt(stored: Stored, folder: Path) -> Int64[np.ndarray, " n"]:
    """The numbers of the architectures that a checkpoint learnt from."""
    numbers = stored.tensors.get(_LEARNT)
    if numbers is None:
        return np.zeros(0, np.int64)
    if numbers.dtype != torch.int64 or numbers.ndim != 1 or not bool((numbers[1:] > numbers[:-1]).all()):
        raise CheckpointError(
            f"{folder / WEIGHTS}: {_LEARNT} must be ascending whole numbers of 64 bits; copy the checkpoint again"
        )
    return numbers.numpy()


def _split(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with ``prefix``, without it; with none, those of the clustered encoder."""
    others = (_PRETRAINED, _MEMBERS, _TUNED, _CALIBRATED, _LEARNT)
    chosen = (name for name in weights if (name.startswith(prefix) if prefix else not name.startswith(others)))
    return {name.removeprefix(prefix): weights[name] for name in chosen}


def load_encoder(folder: Path) -> tuple[GraphEncoder, str]:
    """The pretrained encoder in ``folder`` and its hash; raises :class:`CheckpointError` as above."""
    stored = read(folder, "encoder")
    config = parse(EncoderConfig, stored.description.config, folder / DESCRIPTION, "config")
    encoder = made_of(lambda: GraphEncoder(config), stored.tensors, str(folder / WEIGHTS))
    return encoder.eval(), stored.sha256


def learnt_numbers(folder: Path | None = None) -> Int64[np.ndarray, " n"]:
    """The architectures whose labels had a part in a checkpoint, as :func:`identity_numbers`, ascending."""
    folder = shipped_checkpoint() if folder is None else folder
    return _learnt(read(folder, "ensemble"), folder)


def identity_numbers(identities: Collection[str]) -> Int64[np.ndarray, " n"]:
    """64 bits of the SHA-256 of each identity: enough to tell a million architectures apart."""
    digests = b"".join(hashlib.sha256(identity.encode()).digest()[:8] for identity in identities)
    return np.frombuffer(digests, "<i8").astype(np.int64)


def provenance_of(folder: Path | None = None) -> dict[str, Any]:
    """How a checkpoint was made: data, split, seed, settings, version and commit, metrics."""
    folder = shipped_checkpoint() if folder is None else folder
    return read_description(folder)[0].provenance


def checkpoint_name(folder: Path) -> str:
    """The hash that names a checkpoint; raises :class:`CheckpointError` where there is none, or an altered one."""
    return read_description(folder)[1]


def is_encoder(folder: Path) -> bool:
    """Whether it is a pretrained encoder, rather than what predicts; raises :class:`CheckpointError` as above."""
    return read_description(folder)[0].kind == "encoder"


def _save(
    folder: Path,
    kind: str,
    state: Mapping[str, torch.Tensor],
    config: dict[str, Any],
    provenance: Mapping[str, Any],
    fitted: Fitted | None = None,
) -> str:
    description = Description(kind, N_FEATURES, config, dict(provenance), "")
    if fitted is not None:
        members, within = fitted.members.config(), fitted.within.config()
        description = replace(description, members=members, within=within, law=fitted.law)
    return write(folder, description, {name: _portable(tensor) for name, tensor in state.items()})


def _portable(tensor: torch.Tensor) -> torch.Tensor:
    """Single precision for what is computed with, whole numbers as they are."""
    return (tensor.detach().float() if tensor.is_floating_point() else tensor).cpu().contiguous()
