"""Registering a checkpoint by hand or after training: a short run in MLflow that holds it, without Ray."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gennape.errors import GennapeError
from gennape.platform.tracking.journal import (
    Journal,
    JournalRecord,
    clear,
    journal_folder,
    lock_journal,
    new_name,
    new_token,
    write_record,
)
from gennape.platform.tracking.model import ENCODERS, PREDICTORS
from gennape.platform.tracking.sender import Sender
from gennape.platform.tracking.store import brief, provenance, server_address, store_uri
from gennape.predictors.model.checkpoint import checkpoint_name, is_encoder, provenance_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MAX_LENGTH = 500  # of a tag or parameter, so that any store of MLflow takes it


@dataclass(frozen=True, slots=True)
class Registered:
    """Under which ``name``; ``version`` is empty where MLflow did not answer or take it, with why in ``problem``."""

    name: str
    version: str
    problem: str = ""


def register_checkpoint(checkpoint: Path, workspace: Path, verb: str, server: str | None = None) -> Registered:
    """Register a checkpoint as a version of the model ``gennape``, or of ``gennape-encoder``.

    Into MLflow goes a run called after ``verb``, with the settings and metrics of the checkpoint's provenance, and the
    checkpoint as a model. The version is tagged with its SHA-256, the commit and the data. Where MLflow does not
    answer, all stays in a journal of the workspace, for :func:`resend_pending`; the checkpoint has to stay where it is
    until then. Raises :class:`CheckpointError` where there is no checkpoint, and :class:`ConfigError` for an address of
    no server.
    """
    address, sha256 = server_address(server), checkpoint_name(checkpoint)
    if address is None:
        store_uri(workspace)
    source = provenance_of(checkpoint)
    name = ENCODERS if is_encoder(checkpoint) else PREDICTORS
    run = new_name(workspace, verb, f"-{sha256[:8]}")
    folder = journal_folder(workspace, run)
    with lock_journal(folder):
        write_record(folder, JournalRecord(address, new_token()))
        journal = Journal(folder)
        for entry in _entries(run, checkpoint.absolute(), name, sha256, source):
            journal.append({**entry, "time": int(time.time() * 1000)})
        journal.close()
        try:
            sender = Sender(folder, workspace)
            sender.send()
        except GennapeError as error:
            return Registered(name, "", str(error))
        except Exception as error:  # noqa: BLE001 (whatever MLflow raises: it is told, and the journal stays)
            return Registered(name, "", brief(error))
        clear(folder, finished=True)
    if not sender.versions:
        return Registered(name, "", sender.unregistered)
    return Registered(name, sender.versions[-1])


def _entries(run: str, checkpoint: Path, name: str, sha256: str, source: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    source = {**source, **source.get("tuned", {})}  # of a fine-tuned one, its own data and metrics
    described = {key: value for key, value in source.items() if key not in ("metrics", "tuned")}
    data = source.get("data") or {key: value.get("data") for key, value in source.get("families", {}).items()}
    tags = {"sha256": sha256, "commit": str(source.get("commit")), "data": _text(data)}
    metrics = {key: value for key, value in _flat(source.get("metrics", {})).items() if isinstance(value, int | float)}
    return [
        {"start": run, "parameters": {k: _text(v) for k, v in _flat(described).items()}, "tags": provenance()},
        {"metrics": metrics, "step": 0},
        {"model": str(checkpoint), "name": name, "tags": tags},
        {"end": "FINISHED"},
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= _MAX_LENGTH else text[: _MAX_LENGTH - 2] + " …"
