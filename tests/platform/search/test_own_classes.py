"""Own search spaces and searchers on the command line, in other processes, and in runs that are opened again."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from gennape.errors import ConfigError, ConformanceError, GennapeError
from gennape.jobs.cli import app
from gennape.jobs.shared import own_code
from gennape.jobs.submit import refuse_unparsable
from gennape.platform.cluster.connection import local_ray
from gennape.platform.conversion.convert import ConversionConfig, convert
from gennape.platform.conversion.inputs import FamilySample
from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.ray_islands import RayIslands
from gennape.platform.search.runs import list_runs
from gennape.platform.search.searchers.registry import REGISTRY as SEARCHERS
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.search_spaces.families.registry import REGISTRY as SPACES
from gennape.search_spaces.graphs.parquet import read_graphs

TINY = """
import numpy as np
from beside import SIZE
from gennape.search_spaces.families.space import Gene, SearchSpace, index_of, require_keys
from gennape.search_spaces.graphs.blocks import conv_bn_relu, fragment


@fragment
def block(b, x, width, kernel, stride):
    return conv_bn_relu(b, x, width, kernel, stride)


class Tiny(SearchSpace):
    name = "tiny"
    genes = (*(Gene(f"kernel {stage}", (3, 5, 7)) for stage in range(4)), Gene("width", (16, 32, 64)))

    def encode(self, genome):
        return {gene.name: gene.values[i] for gene, i in zip(self.genes, genome, strict=True)}

    def decode(self, architecture):
        fields = require_keys(architecture, [gene.name for gene in self.genes], self.name)
        return np.array([index_of(gene, fields[gene.name], self.name) for gene in self.genes], np.int64)

    def emit(self, b, genome):
        *kernels, width = self.encode(genome).values()
        x = b.input(3, SIZE, SIZE)
        for stage, kernel in enumerate(kernels):
            x = block(b, x, width << stage, kernel, 2 if stage else 1)
        return b.linear(b.mean(x), 10)
"""
SEARCHER = """
from gennape.platform.search.searchers.nsga2 import NSGA2


class Mine(NSGA2):
    name = "tiny"  # as the space is called
"""
ARCHITECTURE = json.dumps({**{f"kernel {i}": 3 for i in range(4)}, "width": 16})


@pytest.fixture(autouse=True)
def folder(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files; nothing is registered yet."""
    monkeypatch.delenv("GENNAPE_WORKSPACE", raising=False)
    forget(monkeypatch)
    (own_folder / "tiny.py").write_text(TINY)
    (own_folder / "beside.py").write_text("SIZE = 32\n")
    (own_folder / "mine.py").write_text(SEARCHER)
    return own_folder


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another process would not know."""
    for registry in (SPACES, SEARCHERS):
        monkeypatch.setattr(registry, "_own", {})
    for kept in ("_SPACES", "_SEARCHERS"):
        getattr(own_code, kept).clear()
    for name in [name for name in sys.modules if name.startswith("gennape_own_")]:
        monkeypatch.delitem(sys.modules, name)


def call(*arguments: object) -> str:
    """Run a verb in this process; errors of ours come out as themselves."""
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(result.exception, GennapeError):
        raise result.exception
    assert result.exit_code == 0, f"{result.output}{result.exception!r}"
    return result.output


@pytest.fixture
def no_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches without Ray, Serve and MLflow."""
    script = Path(__file__).parents[2] / "support" / "search_without_services.py"
    spec = importlib.util.spec_from_file_location("search_without_services", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.replace(monkeypatch.setattr, "inline", 0, module._Tracker())


SEARCH = ("search", "--evaluations", 60, "--population", 10)


@pytest.mark.usefixtures("no_services")
def test_a_search_of_an_own_space_by_an_own_searcher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = call(*SEARCH, "--space", "tiny.py:Tiny", "--searcher", "mine.py:Mine")
    (run,) = list_runs(folder / "gennape-workspace")
    assert f"gennape export --run {run.name} --index" in said
    assert "--space tiny.py:Tiny" in said
    stored = json.loads((run / "config.json").read_text())["search"]
    named = {"space": "tiny", "space_from": "tiny.py:Tiny", "searcher": "tiny", "searcher_from": "mine.py:Mine"}
    assert stored.items() >= named.items()
    assert call(*SEARCH, "--space", "tiny.py", "--seed", 0).count("the front") >= 1

    # Somebody else, or the same person tomorrow: the run names its class, and nothing is run unasked.
    forget(monkeypatch)
    for verb in (("search", "--resume", run.name), ("show", "--run", run.name, "--index", 0)):
        again = r"--space tiny\.py:Tiny --searcher mine\.py:Mine"
        with pytest.raises(ConfigError, match=f"space 'tiny' .* is your own; give what is your own again: {again}"):
            call(*verb)
    with pytest.raises(ConfigError, match=r"searcher 'tiny' .* again: --space tiny\.py:Tiny --searcher mine\.py:Mine"):
        call("search", "--resume", run.name, "--space", "tiny.py:Tiny")
    own = ("--space", "tiny.py:Tiny", "--searcher", "mine.py:Mine")
    assert "is finished" in call("search", "--resume", run.name, *own)
    forget(monkeypatch)
    call("search", "--resume", run.name, "--searcher", "mine.py:Mine", "--space", "tiny.py", "--evaluations", 80)
    assert len(pd.read_parquet(run / "report" / "evaluations.parquet")) == 80
    with pytest.raises(ConfigError, match=r"is a search of tiny, got --space hiaml; leave --space out"):
        call("show", "--run", run.name, "--index", 0, "--space", "hiaml")

    # The class has changed since: its genes, or its graphs.
    for before, after in (("(3, 5, 7)", "(1, 3, 5)"), ("b.mean(x), 10", "b.mean(x), 100")):
        forget(monkeypatch)
        (folder / "tiny.py").write_text(TINY.replace(before, after))
        with pytest.raises(ConfigError, match="'tiny' is not what the search began with: its genes or its graphs"):
            call("search", "--resume", run.name, *own, "--evaluations", 100)


@pytest.mark.cluster
@pytest.mark.usefixtures("no_services")
def test_verbs_that_take_a_space(folder: Path) -> None:
    call(*SEARCH, "--space", "tiny.py:Tiny", "--searcher", "mine.py:Mine")
    (run,) = list_runs(folder / "gennape-workspace")
    own = ("--space", "tiny.py:Tiny")
    shown = call("show", "--run", "tiny", "--index", 0, *own)  # the run by a beginning that is the space's name
    assert "gennape show --run tiny --index 0 --space tiny.py:Tiny --to graph.svg" in shown
    assert "tiny:" in call("export", "--run", run.name, "--index", 0, *own, "--to", "front.onnx")
    call("export", *own, "--architecture", ARCHITECTURE, "--to", "network.py")
    assert (folder / "network.py").stat().st_size > 0
    assert "--space tiny.py:Tiny --sample 20" in call("show", *own, "--sample", 20)
    predicted = [line for line in call("predict", *own, "--json", ARCHITECTURE).splitlines() if line.startswith("{")]
    assert [row["space"] for row in json.loads(*predicted)["networks"]] == ["tiny"]
    space = SPACES.find("tiny")
    genomes = space.sample(np.random.default_rng(0), 60)
    labels = {"architecture": [json.dumps(space.encode(genome)) for genome in genomes], "acc": genomes.sum(1) + 80.0}
    pd.DataFrame(labels).to_csv("labels.csv.gz", index=False)
    assert "60 rows" in call("data", "check", "labels.csv.gz", *own)
    call("evaluate", *own, "--data", "labels.csv.gz", "--out", "report", "--labels", 0, "--seeds", 1, "--no-members")
    assert "labels.csv.gz" in (folder / "report" / "report.md").read_text()
    (folder / "folder").mkdir()
    (folder / "labels.csv.gz").rename(folder / "folder" / "tiny.csv.gz")
    call("evaluate", "--data", "folder", "--out", "report", "--labels", 0, "--seeds", 1, "--no-members", *own)


def test_an_ill_made_class_is_refused_before_anything_is_made(folder: Path) -> None:
    (folder / "tiny.py").write_text(TINY.replace("return np.array", "return 1 / 0, np.array"))
    with pytest.raises(ConformanceError, match=r"Tiny is not a search space yet: ZeroDivisionError.*tiny\.py, line 22"):
        call(*SEARCH, "--space", "tiny.py:Tiny")
    assert not (folder / "gennape-workspace").exists()


def test_own_classes_travel_with_a_job(folder: Path) -> None:
    (folder / "spaces").mkdir()
    for name in ("tiny.py", "beside.py"):
        (folder / name).rename(folder / "spaces" / name)
    words = ["search", "--space=spaces/tiny.py:Tiny", "--searcher", "mine:Mine"]
    refuse_unparsable(words, typer.main.get_command(app).commands)  # which reads the options, as submit does
    assert own_code.there(words) == ["search", "--space=tiny.py:Tiny", "--searcher", "mine:Mine"]
    spaces = folder / "spaces"
    assert set(own_code.own_sources(words)) == {spaces / "beside.py", spaces / "tiny.py", folder / "mine.py"}


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_other_processes_are_given_own_classes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors find what this process finds, though they have neither the files nor the folder that these lie in."""
    call("show", "--space", "tiny.py", "--sample", 2)
    config = search_config(space="tiny", evaluations=60, population=10, islands=2)
    found: list[Any] = []
    monkeypatch.chdir("/")
    with local_ray():
        with RayIslands(config, SyntheticPredictor()) as actors:
            for name, islands in (("actors", actors), ("here", LocalIslands(config, SyntheticPredictor()))):
                (folder / name).mkdir()
                found.append(run_search(config, folder / name, islands).front)
        for name, workers in (("one", 1), ("two", 2)):
            convert(FamilySample("tiny", 40, 0), folder / name, ConversionConfig(shard_size=20), workers)
    pd.testing.assert_frame_equal(*found)
    graphs, columns = read_graphs(folder / "two")
    assert columns["family"].to_pylist() == ["tiny"] * 40
    assert len(graphs) == 40
