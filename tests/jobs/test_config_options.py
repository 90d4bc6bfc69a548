"""Options that are fields of a configuration: range, default and help stand there, once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel, Field

from gennape.errors import CheckpointError
from gennape.jobs.cli import app
from gennape.jobs.shared.config_options import field_option, help_of
from gennape.platform.search.settings import SearchConfig
from gennape.platform.serving.config import RequestLimits, ServingConfig
from gennape.platform.training.settings import Epochs, Settings, TuningStudy, WorkersConfig
from gennape.predictors.encoder.settings import ClusteringConfig, EncoderConfig, KGnnTraining, PretrainConfig
from gennape.predictors.ensemble.settings import HeadTraining, MembersConfig, PairTraining
from gennape.predictors.model.settings import FitConfig, RowsConfig
from gennape.predictors.restoring import parsed

#: Options by verb: the field that each sets, and the least and the largest value that it takes.
OPTIONS: dict[str, dict[str, tuple[type, str, float | None, float | None]]] = {
    "pretrain": {
        "config": (PretrainConfig, "contrast", None, None),
        "epochs": (PretrainConfig, "epochs", 1, None),
        "batch": (PretrainConfig, "batch", 2, None),
        "hidden": (EncoderConfig, "hidden", 4, None),
        "layers": (EncoderConfig, "layers", 1, None),
        "embedding": (EncoderConfig, "embedding", 2, None),
        "dropout": (EncoderConfig, "dropout", 0, 0.9),
        "learning_rate": (PretrainConfig, "learning_rate", 1e-6, 1),
        "workers": (WorkersConfig, "workers", 1, None),
        "min_workers": (WorkersConfig, "minimum", 1, None),
        "gpus_per_worker": (WorkersConfig, "gpus_per_worker", 0, 1),
        "checkpoint_every": (WorkersConfig, "checkpoint_every", 1, None),
    },
    "fit": {
        "minimum_accuracy": (RowsConfig, "minimum_accuracy", None, None),
        "epochs": (FitConfig, "epochs", 1, None),
        "head_epochs": (HeadTraining, "epochs", 1, None),
        "pair_epochs": (PairTraining, "epochs", 1, None),
        "k_gnn_epochs": (KGnnTraining, "epochs", 1, None),
        "batch": (FitConfig, "batch", 2, None),
        "clusters": (ClusteringConfig, "clusters", 1, None),
        "fuzzifier": (ClusteringConfig, "fuzzifier", None, None),
    },
    "tune": {
        "minimum_accuracy": (RowsConfig, "minimum_accuracy", None, None),
        "epochs": (Epochs, "fit", 1, None),
        "pretrain_epochs": (Epochs, "pretrain", 1, None),
        "rungs": (TuningStudy, "rungs", 1, 5),
        "batch": (TuningStudy, "batch", 2, None),
        "seed": (TuningStudy, "seed", 0, None),
    },
    "serve": {
        "checkpoint": (ServingConfig, "checkpoint", None, None),
        "host": (ServingConfig, "host", None, None),
        "port": (ServingConfig, "http_port", 0, 65535),
        "min_replicas": (ServingConfig, "min_replicas", 1, None),
        "max_replicas": (ServingConfig, "max_replicas", 1, None),
        "max_graphs": (RequestLimits, "max_graphs", 1, 1024),
        "max_nodes": (RequestLimits, "max_nodes", 1, None),
        "max_mib": (RequestLimits, "max_bytes", 1, None),
        "max_onnx_mib": (RequestLimits, "max_onnx_bytes", 1, None),
        "max_requests": (RequestLimits, "max_requests", 1, None),
        "timeout": (RequestLimits, "timeout_s", 0.1, None),
    },
}
#: Options whose values are not those of their fields: of another unit, by name, or given where a field has no default.
_OWN_VALUES = {"config", "workers", "min_workers", "checkpoint_every", "port", "max_mib", "max_onnx_mib"}


class SomeModel(BaseModel):
    """Fields of pydantic."""

    number: int = Field(3, ge=1, le=9, description="A number.")
    name: str = Field(description="A name.")


@dataclass(frozen=True, slots=True)
class SomeDataclass:
    """The same of a dataclass."""

    name: str = field(metadata={"description": "A name."})
    number: int = field(default=3, metadata={"ge": 1, "le": 9, "description": "A number."})


@pytest.mark.parametrize("config", [SomeModel, SomeDataclass])
def test_an_option_says_what_its_field_says(config: type) -> None:
    option = field_option(config, "number", more="Or more.", metavar="N")
    assert (option.min, option.max, option.help, option.show_default) == (1, 9, "A number. Or more.", "3")
    assert option.metavar == "N"
    assert field_option(config, "number", show_default="3 or 4").show_default == "3 or 4"
    assert (help_of(config, "name"), field_option(config, "name").min) == ("A name.", None)


def test_options_of_a_search_are_its_settings() -> None:
    verbs: Any = typer.main.get_command(app)
    options = {option.name: option for option in verbs.commands["search"].params}
    shared = set(options) & set(SearchConfig.model_fields) - {"checkpoint"}
    assert shared >= {"space", "objectives", "evaluations", "islands", "population", "seed", "searcher", "asynchronous"}
    assert options["asynchronous"].secondary_opts == ["--synchronous", "--in-step"]
    for name in shared:
        assert options[name].help.startswith(str(SearchConfig.model_fields[name].description))


@pytest.mark.parametrize("verb", sorted(OPTIONS))
def test_options_of_other_verbs_are_fields_too(verb: str) -> None:
    verbs: Any = typer.main.get_command(app)
    options = {option.name: option for option in verbs.commands[verb].params}
    for name, (config, field_name, low, high) in OPTIONS[verb].items():
        option = options[name]
        assert option.help == help_of(config, field_name), name
        assert (option.min, option.max) == (low, high), name
        if name not in _OWN_VALUES:
            (usual,) = (each.default for each in fields(config) if each.name == field_name)
            assert option.default == usual, name


def test_usual_values_of_options_that_are_not_those_of_a_field() -> None:
    verbs: Any = typer.main.get_command(app)
    usual = {
        (verb, option.name): option.default
        for verb in OPTIONS
        for option in verbs.commands[verb].params
        if option.name in _OWN_VALUES
    }
    assert usual == {
        ("pretrain", "config"): "gennape",
        ("pretrain", "workers"): 1,
        ("pretrain", "min_workers"): None,
        ("pretrain", "checkpoint_every"): None,
        ("serve", "port"): 8000,
        ("serve", "max_mib"): 4,
        ("serve", "max_onnx_mib"): 128,
    }


def test_a_tuning_begins_with_what_pretrain_and_fit_do_unasked() -> None:
    """Also for options that tuning does not have, such as the epochs of the members."""
    verbs: Any = typer.main.get_command(app)
    study = TuningStudy(Path(), ())
    for verb, values in study.options(Settings()).items():
        options = {option.name: option.default for option in verbs.commands[verb].params}
        assert values == {name: options[name] for name in values}, verb


def test_members_last_as_long_as_they_are_told() -> None:
    usual, made = MembersConfig(), MembersConfig().lasting(1, 2, 3)
    assert (made.regression.epochs, made.pairwise.epochs, made.end_to_end.epochs) == (1, 2, 3)
    assert made.lasting(usual.regression.epochs, usual.pairwise.epochs, usual.end_to_end.epochs) == usual
    assert isinstance(made.pairwise, PairTraining)


def test_a_checkpoint_may_be_smaller_than_an_option_makes_it() -> None:
    sizes = {"hidden": 1, "layers": 0, "embedding": 1, "dropout": 0.99}
    assert parsed(EncoderConfig, sizes, "", "") == EncoderConfig(**sizes)
    for name in ("hidden", "embedding"):
        with pytest.raises(CheckpointError, match=f"{name}: Input should be greater than or equal to 1, got 0"):
            parsed(EncoderConfig, {**sizes, name: 0}, "", "")


@pytest.mark.cluster
def test_configurations_that_options_come_from_are_light() -> None:
    """All verbs are read for the help of any."""
    program = (
        "import sys, typer, gennape.jobs.cli as cli; typer.main.get_command(cli.app); "
        "sys.exit(bool({'ray', 'torch', 'mlflow', 'pymoo', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
