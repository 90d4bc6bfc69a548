"""``gennape verify``: which networks it trains, and the whole way on images that are learnt at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from labelling_cases import coloured, write_parquet
from typer.testing import CliRunner

from gennape.errors import CheckpointError, ConfigError
from gennape.jobs.cli import app
from gennape.jobs.verify import _say
from gennape.platform.labelling.sources import sampled
from gennape.platform.labelling.verification import (
    FRONT_ROLE,
    KNOWN,
    MEDIAN,
    NAMED,
    Candidates,
    candidates,
    verify_front,
)
from gennape.platform.search.config import search_config
from gennape.platform.search.runs import REPORT, describe_run
from gennape.platform.tracking.tracker import open_store
from gennape.predictors.model.checkpoint import load_checkpoint
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.cost import flops

SPACE = family("two_path")
NAME = "two_path-20260101-120000-s0"


@pytest.fixture
def searched(tmp_path):
    """A finished search whose front has seven networks."""
    folder = tmp_path / "gennape-workspace" / "runs" / NAME
    (folder / REPORT).mkdir(parents=True)
    describe_run(folder, search_config(space="two_path", checkpoint_sha256=load_checkpoint().sha256))
    points = [{"index": i, "architecture": SPACE.encode(g)} for i, g in enumerate(sampled(SPACE, 7, 5))]
    (folder / REPORT / "front.json").write_text(json.dumps({"points": points}))
    return tmp_path / "gennape-workspace"


def test_the_front_is_taken_evenly_and_compared_with_what_was_asked_for(searched, tmp_path):
    known = sampled(SPACE, 3, 6)
    texts = [json.dumps(SPACE.encode(g)) for g in known]
    pd.DataFrame({"architecture": texts, "accuracy": [80.0, 95.0, 90.0]}).to_csv(tmp_path / "known.csv", index=False)
    front = sampled(SPACE, 7, 5)
    found = candidates(searched, "two_path", 3, np.stack([known[0], front[3]]), tmp_path / "known.csv", 0)
    assert found.roles == (FRONT_ROLE,) * 3 + (NAMED, KNOWN, MEDIAN)  # the second named one is of the front already
    assert (found.genomes[:5] == np.stack([front[0], front[3], front[6], known[0], known[1]])).all()
    middle = load_checkpoint().predict(SPACE.graphs(sampled(SPACE, 201, 0))).accuracy
    assert found.predicted[5] == pytest.approx(np.median(middle))
    with pytest.raises(ConfigError, match="--points 1"):
        candidates(searched, "two_path", 1, None, None, 0)


def test_a_front_too_small_to_order_is_refused_before_any_training(searched):
    report = searched / "runs" / NAME / REPORT / "front.json"
    point = {"index": 0, "architecture": SPACE.encode(sampled(SPACE, 1, 5)[0])}
    report.write_text(json.dumps({"points": [point, point]}))
    with pytest.raises(ConfigError, match="has 1 network, and an order needs two"):
        candidates(searched, "two_path", 3, None, None, 0)
    report.write_text(json.dumps({"points": []}))
    with pytest.raises(ConfigError, match="is empty; search with more evaluations"):
        candidates(searched, "two_path", 3, None, None, 0)


def test_another_predictor_than_the_search_had_is_refused(searched):
    describe_run(searched / "runs" / NAME, search_config(space="two_path", checkpoint_sha256="0" * 64))
    with pytest.raises(ConfigError, match="put the former back"):
        candidates(searched, "two_path", 3, None, None, 0)
    config = search_config(space="two_path", checkpoint="/absent", checkpoint_sha256="0" * 64)
    describe_run(searched / "runs" / NAME, config)
    with pytest.raises(CheckpointError):
        candidates(searched, "two_path", 3, None, None, 0)


def test_networks_whose_training_failed_are_left_out_of_the_verdict(capsys):
    genomes = sampled(SPACE, 4, 0)
    graphs = SPACE.graphs(genomes)
    hashes = tuple(canonical_hashes(graphs))
    roles = (FRONT_ROLE,) * 3 + (MEDIAN,)
    of = Candidates(SPACE, genomes, roles, hashes, np.array([4.0, 3.0, 2.0, 1.0]), flops(graphs))
    trained = pd.DataFrame({"network": [*hashes[1:], "of another call"], "accuracy": [70.0, 60.0, 50.0, 99.0]})
    rows, result = verify_front(of, trained)
    assert rows["network"].tolist() == list(hashes[1:])
    assert result["front"]["kendall_tau"] == result["all"]["kendall_tau"] == 1.0
    (baseline,) = result["baselines"]
    cheaper = [h for h, cost in zip(hashes[1:3], of.flops[1:3], strict=True) if cost <= of.flops[3]]
    assert baseline["dominated_by"] == cheaper
    assert baseline["best_of_front_minus_it"] == 20.0
    _say(rows, result, Path("verified"))
    printed = capsys.readouterr().out
    assert "regret 0.00 percent; noise unknown, no network was trained twice" in printed
    assert "nan" not in printed
    assert "beyond noise" not in printed
    with pytest.raises(ConfigError, match="an order needs 2"):
        verify_front(of, trained[1:])


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.usefixtures("searched")
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's own, of its tables
def test_guide_from_a_front_to_its_verdict(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENNAPE_WORKSPACE", raising=False)
    write_parquet(tmp_path / "cifar10_train.parquet", coloured(18, 3, size=(16, 16)))
    write_parquet(tmp_path / "cifar10_test.parquet", coloured(6, 3, seed=1, size=(16, 16)))
    guide = (Path(__file__).resolve().parents[2] / "docs" / "verify.md").read_text()
    (command,) = re.findall(r"^gennape (.*)$", guide, re.MULTILINE)
    words = f"{command.replace('hiaml', 'two_path')} --resize 32 --points 2 --trainings 2 --epochs 1 --batch 8".split()
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{done.output} {done.exception!r}"
    assert "the front's order: tau" in done.output
    result = json.loads((tmp_path / "verified" / "verify.json").read_text())
    assert [one["role"] for one in result["baselines"]] == [MEDIAN]
    assert pd.read_csv(tmp_path / "verified" / "verify.csv")["trainings"].tolist() == [2, 2, 2]
    assert len(pd.read_parquet(tmp_path / "verified" / "labels.parquet")) == 6
    client, experiment = open_store(tmp_path / "gennape-workspace", None)
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    logged = runs["verify-two_path"]
    assert logged.data.metrics["front/kendall_tau"] == result["front"]["kendall_tau"]
    assert {file.path for file in client.list_artifacts(logged.info.run_id)} == {
        "verify.csv", "verify.json", "verify.png",
    }  # fmt: skip
