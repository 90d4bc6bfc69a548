"""``gennape evaluate`` as a user calls it, on small labelled files made here."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from gennape.errors import ConfigError, InvalidDataError, WorkspaceError
from gennape.jobs.cli import app
from gennape.predictors.evaluation.methods import ENSEMBLE_METHODS
from gennape.predictors.evaluation.rows import BENCHMARKS
from gennape.predictors.model.checkpoint import load_checkpoint
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.cost import flops


def evaluate(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def write_resnets(folder: Path, n: int) -> Path:
    """Networks whose labels are their GFLOPs, so that FLOPs alone is perfect everywhere."""
    space = family("ofa_resnet")
    genomes = space.sample(np.random.default_rng(2), n)
    accuracy = flops(space.graphs(genomes)) / 1e9
    table = {"architecture": [json.dumps(space.encode(genome)) for genome in genomes], "acc": accuracy}
    folder.mkdir(exist_ok=True)
    pd.DataFrame(table).to_csv(folder / "ofa_resnet.csv.gz", index=False)
    return folder / "ofa_resnet.csv.gz"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


def by(report: dict[str, Any], **wanted: object) -> list[dict[str, Any]]:
    return [figure for figure in report["figures"] if all(figure[key] == value for key, value in wanted.items())]


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_every_subset_setting_method_and_seed_is_reported(tmp_path: Path, workspace: Path) -> None:
    file = write_resnets(tmp_path / "data", 30)
    (tmp_path / "data" / "other.csv").write_text("not known, so not read")
    settings = ("--labels", 5, "--seeds", 3, "--workspace", workspace)
    output = evaluate("--data", tmp_path / "data", "--out", tmp_path / "out", *settings)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    parts = [f"resolution {r}" for r in (192, 208, 224)]
    zero = {figure["subset"]: figure for figure in by(report, method="flops", setting="zero-shot")}
    assert set(zero) == {"all", *parts}
    assert zero["all"]["rows"] == 30 == sum(zero[part]["rows"] for part in parts)
    tuned = by(report, method="flops", setting="fine-tuned", subset="all")
    assert [(figure["seed"], figure["rows"], figure["labels"]) for figure in tuned] == [(s, 25, 5) for s in range(3)]
    assert {figure["srcc"] for figure in by(report, method="flops")} == {1.0}
    assert {figure["regret_1"] for figure in by(report, method="flops")} == {0.0}
    for name in ("gennape", *ENSEMBLE_METHODS):
        assert len(by(report, method=name, setting="zero-shot")) == 4
        assert [figure["seed"] for figure in by(report, method=name, setting="fine-tuned", subset="all")] == [0, 1, 2]
    assert {figure["family"] for figure in report["figures"]} == {"ofa_resnet"}
    assert report["checkpoint"] == load_checkpoint().sha256
    assert report["data"][0]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert report["absent"]["inception"] == "no labels are published"
    assert report["absent"]["nb201"] == "nb201.csv.gz is not there"
    assert "ofa_resnet" in output
    assert (workspace / "mlflow.db").is_file()


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_latencies_are_reported_beside_accuracies(tmp_path: Path, workspace: Path) -> None:
    write_resnets(tmp_path / "data", 20)
    space = family("ofa_mbv3")
    genomes = space.sample(np.random.default_rng(2), 30)
    architectures = [json.dumps(space.encode(genome)) for genome in genomes]
    milliseconds = flops(space.graphs(genomes)) / 1e8
    profile = {"architecture": architectures, "acc": np.linspace(70, 77, 30), "latency_npu_ms": milliseconds}
    pd.DataFrame(profile).to_csv(tmp_path / "data" / "ofa_mbv3_profile.csv.gz", index=False)
    measured = {"architecture": architectures, "2080ti_1": milliseconds, "v100_64": 2 * milliseconds}
    pd.DataFrame(measured).to_csv(tmp_path / "data" / "ofa_mbv3_latency.csv.gz", index=False)
    settings = ("--labels", 10, "--seeds", 2, "--no-members", "--workspace", workspace)
    output = evaluate("--data", tmp_path / "data", "--out", tmp_path / "out", *settings)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    columns = ("ofa_mbv3_profile:latency_npu_ms", "ofa_mbv3_latency:2080ti_1", "ofa_mbv3_latency:v100_64")
    for benchmark in (f"latency:{column}" for column in columns):
        found = by(report, benchmark=benchmark)
        assert [(one["method"], one["seed"], one["rows"]) for one in found] == [
            (method, seed, 20) for seed in (0, 1) for method in ("gennape_latency", "flops", "params")
        ]
        assert all({"srcc", "mape", "mae"} <= one.keys() and "regret_1" not in one for one in found)
        assert {one["mape"] for one in found if one["method"] == "flops"} == {0.0}
    assert {one["benchmark"] for one in report["figures"]} == {
        "ofa_resnet", "ofa_mbv3", *(f"latency:{column}" for column in columns)
    }  # fmt: skip
    assert set(ENSEMBLE_METHODS).isdisjoint(one["method"] for one in report["figures"])
    assert {one["file"] for one in report["data"]} >= {"ofa_mbv3_latency.csv.gz"}
    assert "Latency: rank correlation (SRCC), fine-tuned on 10 labels" in output
    for page in ("report.md", "report.html"):
        assert "ofa_mbv3_latency:v100_64" in (tmp_path / "out" / page).read_text()


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_learning_curves_follow_the_protocol(tmp_path: Path, workspace: Path) -> None:
    write_resnets(tmp_path / "data", 20)
    settings = ("--labels", 5, "--seeds", 2, "--no-members", "--curve", "9, 3,5,40", "--workspace", workspace)
    output = evaluate("--data", tmp_path / "data", "--out", tmp_path / "out", *settings)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    curve = [one for one in report["curves"] if one["subset"] == "all"]
    assert {(one["method"], one["setting"]) for one in curve} == {("gennape", "fine-tuned")}
    # There are too few rows for 40 labels.
    assert [(one["labels"], one["seed"], one["rows"]) for one in curve] == [
        (labels, seed, 20 - labels) for labels in (3, 5, 9) for seed in (0, 1)
    ]
    assert [one for one in curve if one["labels"] == 5] == by(
        report, method="gennape", setting="fine-tuned", subset="all"
    )
    assert {one["labels"] for one in report["figures"]} == {0, 5}
    assert "Learning curves: rank correlation (SRCC) of gennape" in output
    assert "Learning curves" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize("curve", ["10,", "0", "ten", "10,-5", "1.5"])
def test_curves_of_no_numbers_are_refused_at_once(tmp_path: Path, curve: str) -> None:
    with pytest.raises(ConfigError, match=r"--curve: .* are not numbers of labels"):
        evaluate("--data", tmp_path, "--out", tmp_path / "out", "--curve", curve)
    assert not (tmp_path / "out").exists()


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_few_rows_are_measured_zero_shot_only(tmp_path: Path, workspace: Path) -> None:
    write_resnets(tmp_path / "data", 4)
    evaluate("--data", tmp_path / "data", "--out", tmp_path / "out", "--workspace", workspace)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {figure["setting"] for figure in report["figures"]} == {"zero-shot"}


def test_folder_without_any_known_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match=r"holds none of \['nb101.csv.gz'"):
        evaluate("--data", tmp_path, "--out", tmp_path / "out", "--workspace", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("architecture,acc\n{,90\n", "row 1"),
        ("architecture,other\n{},90\n", "no column of numbers 'acc'"),
        ("", "cannot read"),
    ],
)
@pytest.mark.parametrize("name", ["nb301.csv.gz", "ofa_mbv3_profile.csv.gz"])
def test_unreadable_files_are_refused_before_anything_is_measured(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_bytes(gzip.compress(content.encode()))
    with pytest.raises(InvalidDataError, match=message):
        evaluate("--data", tmp_path / "data", "--out", tmp_path / "out", "--workspace", tmp_path)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "mlflow.db").exists()


def test_no_row_that_counts(tmp_path: Path) -> None:
    (tmp_path / "nb201.csv.gz").write_bytes(
        gzip.compress(b"arch,c10_test200\n" + b"|none~0|+|none~0|none~1|+|none~0|none~1|none~2|,10\n")
    )
    with pytest.raises(
        InvalidDataError, match=r"nothing to measure on.*fewer than two rows that count, of different arch"
    ):
        evaluate("--data", tmp_path, "--out", tmp_path / "out", "--workspace", tmp_path)


def test_report_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="give another folder with --out"):
        evaluate("--data", tmp_path, "--out", tmp_path / "file" / "out", "--workspace", tmp_path)


def test_files_of_the_guide_are_those_that_are_read() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluate.md").read_text()
    assert all(f"`{benchmark.file}`" in page and f"`{benchmark.family}`" in page for benchmark in BENCHMARKS)
