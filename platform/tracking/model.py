"""Checkpoints as versions of registered models in MLflow, and the model that MLflow loads from them.

No code and no pickle is stored: MLflow is told to ask this module of an installed gennape, which reads the checkpoint.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

import gennape
from gennape.errors import CheckpointError, InvalidDataError
from gennape.predictors.encoder.features import batches_of_nodes, featurize
from gennape.predictors.model.checkpoint import checkpoint_name, is_encoder, load_checkpoint, load_encoder
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.graph import PackedGraphs, concatenate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlflow import MlflowClient

#: The registered models: predictors, which are served, and the encoders they are fitted on.
PREDICTORS, ENCODERS = "gennape", "gennape-encoder"
_ARTIFACT = "model"
_NODES_AT_ONCE = 20_000

#: What is asked of a data frame of networks.
Answer = dict[str, Any]


def add_version(client: MlflowClient, run: str, checkpoint: Path, name: str, tags: Mapping[str, str]) -> str:
    """Upload a checkpoint as a model into a run, and register it as a version of ``name``; returns its number.

    Called again, after an outage, it finds the version that it made. Raises :class:`CheckpointError` where the
    checkpoint is not the one whose ``sha256`` is among the tags.
    """
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 (MLflow takes 2 s to import)

    if (found := checkpoint_name(checkpoint)) != tags["sha256"]:
        raise CheckpointError(f"{checkpoint} is {found[:12]}… by now, {tags['sha256'][:12]}… was to be registered")
    for version in client.search_model_versions(f"run_id = '{run}'"):
        if version.name == name:
            return str(version.version)
    with tempfile.TemporaryDirectory(prefix="gennape-model-") as folder:
        save_model(checkpoint, Path(folder) / _ARTIFACT)
        client.log_artifacts(run, str(Path(folder) / _ARTIFACT), _ARTIFACT)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"{client.get_run(run).info.artifact_uri}/{_ARTIFACT}"
    made = client.create_model_version(name, source, run, dict(tags), await_creation_for=0)
    return str(made.version)


def save_model(checkpoint: Path, into: Path) -> None:
    """Write the folder that ``mlflow models serve`` takes: the checkpoint, and how it is loaded and asked."""
    with warnings.catch_warnings():
        # MLflow's own: of what it imports, and that no example is given, where the signature is written out.
        warnings.simplefilter("ignore")
        import mlflow.pyfunc  # noqa: PLC0415 (3 s)
        from mlflow.models import ModelSignature  # noqa: PLC0415
        from mlflow.types import ColSpec, DataType, Schema  # noqa: PLC0415

        asked = Schema([ColSpec(DataType.string, "space"), ColSpec(DataType.string, "architecture")])
        told = Schema([ColSpec(DataType.double, "accuracy"), ColSpec(DataType.double, "deviation", required=False)])
        mlflow.pyfunc.save_model(
            str(into),
            loader_module=__name__,
            data_path=str(checkpoint),
            signature=ModelSignature(asked, None if is_encoder(checkpoint) else told),
            pip_requirements=[f"gennape=={gennape.__version__}", f"mlflow=={installed('mlflow')}"],
            metadata={"sha256": checkpoint_name(checkpoint)},
        )


class CheckpointModel:
    """What MLflow asks: networks as a data frame in, one row each out."""

    def __init__(self, answer: Callable[[PackedGraphs], Answer]) -> None:
        self._answer = answer

    def predict(self, frame: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """Accuracies in percent, with deviations in percent where they are known; of an encoder the embeddings.

        ``frame`` has the columns ``space`` and ``architecture``, the latter as JSON text. Raises
        :class:`gennape.errors.GennapeError` for an unknown space and for an architecture outside it.
        """
        spaces = frame["space"].to_numpy()
        order, parts = [], []
        for name in dict.fromkeys(spaces):
            rows = np.flatnonzero(spaces == name)
            order.append(rows)
            parts.append(_graphs(name, rows, frame["architecture"].iloc[rows]))
        if not parts:
            raise InvalidDataError("no networks to predict; give rows of space and architecture")
        answer = pd.DataFrame(self._answer(concatenate(parts)))
        return answer.iloc[np.argsort(np.concatenate(order), kind="stable")].reset_index(drop=True)


def _graphs(name: str, rows: np.ndarray, architectures: pd.Series[str]) -> PackedGraphs:
    space = family(name)
    genomes = []
    for row, text in zip(rows, architectures, strict=True):
        try:
            genomes.append(space.decode(json.loads(text)))
        except ValueError as error:
            raise InvalidDataError(f"row {row}: the architecture is not JSON: {error}") from None
    stacked = np.stack(genomes)
    space.validate(stacked)
    return space.graphs(stacked)


def _load_pyfunc(path: str) -> CheckpointModel:
    """What MLflow calls by this name to load the checkpoint in ``path``."""
    folder = Path(path)
    if is_encoder(folder):
        encoder = load_encoder(folder)[0]

        def embed(graphs: PackedGraphs) -> Answer:
            embeddings = np.zeros((len(graphs), encoder.config.embedding))
            with torch.inference_mode():
                for rows in batches_of_nodes(graphs, _NODES_AT_ONCE):
                    embeddings[rows] = encoder(featurize(graphs.take(rows))).numpy()
            return {f"embedding_{i}": column for i, column in enumerate(embeddings.T)}

        return CheckpointModel(embed)
    predictor = load_checkpoint(folder)

    def accuracies(graphs: PackedGraphs) -> Answer:
        prediction = predictor.predict(graphs)
        deviation = {} if prediction.deviation is None else {"deviation": prediction.deviation}
        return {"accuracy": prediction.accuracy, **deviation}

    return CheckpointModel(accuracies)
