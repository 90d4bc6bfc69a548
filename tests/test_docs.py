"""Every command and every program in the documentation works.

All commands of ``gennape`` are parsed by the real command line: verbs, options and values. What is cheap is run as
written. What is heavy is run on little data, here (the main job with an export, ``@pytest.mark.cluster``; pretrain, fit
and evaluate) or elsewhere: serving in tests/platform/serving/test_serving.py, MLflow's pages in
tests/platform/tracking/test_tracking_ui.py, labelling in tests/jobs/test_label_verb.py (all but its search) and
tests/jobs/test_verify_verb.py, submission to a head in tests/platform/cluster/test_submit.py, the cluster's description
in tests/platform/cluster/test_cluster_yaml.py.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

import gennape as gp
from gennape.jobs.cli import PANELS, app
from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.measures import REGISTRY as MEASURES
from gennape.platform.search.report import write_report
from gennape.platform.search.runs import REPORT, describe_run, set_status
from gennape.platform.search.searchers.registry import REGISTRY as SEARCHERS
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.search_spaces.families.nb101 import NasBench101
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.families.registry import REGISTRY as SPACES
from gennape.search_spaces.families.testing import check_search_space

if TYPE_CHECKING:
    from types import ModuleType

    from gennape.search_spaces.families.space import SearchSpace

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sys.executable).parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
CLI: Any = typer.main.get_command(app)
#: Programs other than gennape, and what runs them in a test or in every use of the repository.
OTHERS = {
    "python3.11 -m venv": ".ci/run",
    "pip install": ".ci/run",
    "pytest": ".ci/run",
    "ruff": ".ci/run",
    "mypy": ".ci/run",
    "lint-imports": ".ci/run",
    "mkdocs": ".ci/run",
    "deptry": ".ci/run",
    "source .venv/bin/activate": ".ci/run",
    "git clone": ".ci/run",
    "python benchmarks/graph_building.py": "tests/test_docs.py",
    "python -m build --wheel": "tests/test_layout.py",
    "curl": "tests/platform/serving/test_serving_http.py",
    "ray start --head": "tests/platform/cluster/test_submit.py",
    "ray get-auth-token": "tests/platform/cluster/test_cluster_yaml.py",
    "ray up": "tests/platform/cluster/test_cluster_yaml.py",
    "ray dashboard": "tests/platform/cluster/test_cluster_yaml.py",
    "ray down": "tests/platform/cluster/test_cluster_yaml.py",
}


#: Pages whose Python blocks are programs.
PROGRAMS = (
    "docs/getting-started.md",
    "docs/tutorials/own-family.md",
    "docs/tutorials/own-onnx-model.md",
    "docs/concepts/computation-graph.md",
    "docs/concepts/fuzzy-ensemble.md",
    "docs/limits.md",
    "docs/search.md",
    "docs/export.md",
    "docs/import.md",
    "docs/convert.md",
    "docs/predict.md",
    "docs/proxies.md",
)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The single commands of a page's shell blocks."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [part.strip() for line in text.splitlines() for part in line.split("&&") if part.strip()]


COMMANDS = [(page.relative_to(ROOT), command) for page in PAGES for command in commands(page)]


def parse(arguments: list[str]) -> dict[str, Any]:
    """What the command line makes of a verb and its arguments, without running it; fails where it refuses them."""
    verb, *rest = arguments
    assert verb in CLI.commands, f"no verb {verb!r}"
    parameters: dict[str, Any] = CLI.commands[verb].make_context(verb, rest).params
    return parameters


def load(code: str, folder: Path) -> ModuleType:
    """Run a program of the documentation."""
    path = folder / f"page_{hashlib.sha256(code.encode()).hexdigest()[:8]}.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Every command -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that pages tell to save, whose classes commands name."""
    folder = tmp_path_factory.mktemp("own")
    files = {
        "docs/families.md": "blocks.py",
        "docs/limits.md": "energy.py",
        "docs/search.md": "climber.py",
        "docs/tutorials/own-family.md": "plain.py",
        "README.md": "tinynet.py",
    }
    for page, name in files.items():
        assert f"`{name}`" in (ROOT / page).read_text()
        (code,) = [block for block in blocks(ROOT / page, "python") if "class " in block]
        (folder / name).write_text(code.partition("\n\nspace = ")[0])  # the class alone
    return folder


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}: {command}" for page, command in COMMANDS])
def test_command_is_understood(page: Path, command: str, own_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own_files)
    for registry in (SPACES, SEARCHERS, MEASURES):
        monkeypatch.setattr(registry, "_own", {})
    program, *arguments = shlex.split(command.replace(".venv/bin/activate", "\\.venv/bin/activate"))
    if Path(program).name == "gennape":
        nested = parse(arguments).get("verb")
        if nested:
            parse(nested)
    else:
        plain = command.removeprefix(".venv/bin/")
        known = [covered for start, covered in OTHERS.items() if plain.startswith(start)]
        assert known, f"{page}: nothing tests {command!r}"
        assert (ROOT / known[0]).is_file()


def test_pages_hold_commands() -> None:
    """Guards this file itself: were the blocks not found, nothing would be tested."""
    assert {arguments.split()[1] for _, arguments in COMMANDS if arguments.startswith("gennape ")} == set(CLI.commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_running_text_exist(page: Path) -> None:
    for code in re.findall(r"`gennape ([^`\n]+)`", page.read_text()):
        verb, *arguments = shlex.split(code)
        assert verb in CLI.commands, code
        known = {name for one in CLI.commands[verb].params for name in (*one.opts, *one.secondary_opts)}
        assert {a for a in arguments if a.startswith("--")} <= known, code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), f"{target}: no such file"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}, f"{target}: no such heading"


@pytest.mark.parametrize("verb", sorted(CLI.commands))
def test_every_verb_has_help_and_a_place_in_the_readme(verb: str) -> None:
    assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0
    assert f"`{verb}`" in (ROOT / "README.md").read_text()


def test_groups_of_the_readme_are_the_panels_of_the_help() -> None:
    rows = re.findall(r"^\| (?:\*\*(\w+)\*\*)? \| \[`(\w+)`\]", (ROOT / "README.md").read_text(), re.MULTILINE)
    groups: dict[str, list[str]] = {}
    for group, verb in rows:
        groups.setdefault(group or next(reversed(groups)), []).append(verb)
    assert groups == {panel: [verb.__name__ for verb in verbs] for panel, verbs in PANELS.items()}
    shown = CliRunner().invoke(app, ["--help"]).stdout
    panels = re.findall(r"^╭─ (\w+) ", shown, re.MULTILINE)
    assert panels == ["Options", *groups]


def test_continuous_integration_runs_what_the_pages_say() -> None:
    """Line by line: of a chain with ``&&`` a shell would not notice a failure in the middle."""
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert set(blocks(ROOT / "README.md", "bash")[1].strip().split(" && ")) <= set(lines)
    assert set(commands(ROOT / "CONTRIBUTING.md")) <= set(lines)
    assert "set -euo pipefail" in lines
    assert not [line for line in lines if "&&" in line]


# Programs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("page", "name"), [("README.md", "TinyNet"), ("docs/families.md", "Blocks")])
def test_example_family_passes_the_conformance_suite(page: str, name: str, tmp_path: Path) -> None:
    (code,) = [code for code in blocks(ROOT / page, "python") if f"class {name}(" in code]
    space: SearchSpace = getattr(load(code, tmp_path), name)()
    check_search_space(space, n=32)


@pytest.mark.parametrize("page", PROGRAMS)
def test_programs_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SEARCHERS, "_own", {})
    monkeypatch.setattr(MEASURES, "_own", {})
    monkeypatch.chdir(tmp_path)
    for code in blocks(ROOT / page, "python"):
        load(code, tmp_path)


#: Modules behind the public face that guides and examples name. Take a name away when the face offers what is used.
BEHIND_THE_FACE = {
    "gennape.errors",
    "gennape.platform.cluster.connection",
    "gennape.platform.search.config",
    "gennape.platform.search.driver",
    "gennape.platform.search.islands",
    "gennape.platform.search.searchers.testing",
    "gennape.platform.serving.deployment",
    "gennape.platform.serving.http.schemas",
    "gennape.platform.tracking.registration",
    "gennape.predictors.model.checkpoint",
    "gennape.predictors.proxies.proxies",
    "gennape.search_spaces.drawing.files",
    "gennape.search_spaces.drawing.folding",
    "gennape.search_spaces.families.space",
    "gennape.search_spaces.graphs.builder",
    "gennape.search_spaces.graphs.parquet",
    "gennape.search_spaces.labels.labels",
}


def test_guides_and_examples_use_the_public_face() -> None:
    texts = [code for page in PAGES for kind in ("python", "text") for code in blocks(page, kind)]
    texts += [path.read_text() for path in sorted((ROOT / "examples").glob("*.py"))]
    found = {name for text in texts for name in re.findall(r"^(?:from|import) (gennape\.[\w.]+)", text, re.MULTILINE)}
    assert found == BEHIND_THE_FACE


@pytest.mark.cluster
def test_benchmark_runs() -> None:
    command = [sys.executable, "benchmarks/graph_building.py", "--graphs", "5", "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "family",
        *(space.name for space in FAMILIES),
    ]


# Cheap commands, as they are written ---------------------------------------------------------------------------------


@pytest.fixture
def finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run that the guides speak of, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENNAPE_WORKSPACE", raising=False)
    folder = tmp_path / "gennape-workspace" / "runs" / "ofa_mbv3-20260101-120000-s0"
    (folder / REPORT).mkdir(parents=True)
    config = search_config(space="ofa_mbv3", evaluations=120, population=30)
    describe_run(folder, config)
    result = run_search(config, folder, LocalIslands(config, SyntheticPredictor()))
    write_report(folder / REPORT, result.front, result.evaluations, config.directed)
    set_status(folder, status="finished", reason=result.reason)
    return folder


def test_commands_of_the_export_guide(finished_run: Path) -> None:
    for command in commands(ROOT / "docs" / "export.md"):
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code == 0, f"{command}: {result.output} {result.exception}"
    here = finished_run.parents[2]
    onnx.checker.check_model(here / "model.onnx")
    assert (here / "model.pt2").stat().st_size > 0
    load((here / "model.py").read_text(), here)


def test_resume_of_the_search_guide(finished_run: Path) -> None:
    command, _ = [c for c in commands(ROOT / "docs" / "search.md") if "--resume" in c]  # the other: in the main job's
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0
    assert str(finished_run / REPORT) in result.output


def test_conform_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixtures = ROOT.parent / "shared" / "fixtures" / "hiaml.jsonl"
    if not fixtures.is_file():
        pytest.skip("needs measured networks, which are not part of this repository")
    monkeypatch.chdir(tmp_path)
    (command,) = commands(ROOT / "docs" / "conform.md")
    folder = tmp_path / shlex.split(command)[-1]
    folder.mkdir()
    (folder / fixtures.name).write_text(fixtures.read_text().partition("\n")[0] + "\n")
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert "1 passed, 0 failed" in result.output


# Heavy commands, on little data --------------------------------------------------------------------------------------


def write_nb101(path: Path, n: int) -> None:
    """Sampled cells in the form of the guide, with made-up accuracies between 85 and 95 %."""
    rng = np.random.default_rng(0)
    genomes = np.unique(NasBench101().sample(rng, n), axis=0)
    architectures = [NasBench101().encode(genome) for genome in genomes]
    vertices = [len(architecture["ops"]) for architecture in architectures]
    table = {
        "hash": [hashlib.sha256(genome.tobytes()).hexdigest() for genome in genomes],
        "n_vertices": vertices,
        "adj_bits": genomes[:, :21] @ (1 << np.arange(21)),
        "ops": ["".join(map(str, genome[21 : 21 + v - 2])) for genome, v in zip(genomes, vertices, strict=True)],
        "val108": rng.uniform(0.85, 0.95, len(genomes)),
    }
    pd.DataFrame(table).to_csv(path, index=False)


def write_labels(path: Path, name: str, n: int) -> None:
    """Sampled networks of a family with made-up accuracies between 75 and 78 %."""
    space, rng = family(name), np.random.default_rng(0)
    architectures = [json.dumps(space.encode(genome)) for genome in space.sample(rng, n)]
    pd.DataFrame({"architecture": architectures, "acc": rng.uniform(75, 78, n)}).to_csv(path, index=False)


@pytest.mark.drill
@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_pretrain_fit_and_evaluate_guides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels").mkdir()
    write_nb101(tmp_path / "nb101.csv.gz", 120)
    shutil.copy("nb101.csv.gz", "labels")
    write_labels(tmp_path / "my-labels.csv.gz", "hiaml", 80)
    smaller = {
        "pretrain": "--sample 64 --epochs 1 --batch 16 --hidden 8 --layers 1 --embedding 4",
        "fit": "--epochs 1 --head-epochs 1 --pair-epochs 1 --k-gnn-epochs 1 --batch 16 --clusters 2",
        "evaluate": "--checkpoint checkpoint --seeds 1",
    }
    for page in ("pretrain-and-fit.md", "evaluate.md"):
        for _, verb, *arguments in map(shlex.split, commands(ROOT / "docs" / page)):
            if verb in smaller:
                result = CliRunner().invoke(app, [verb, *arguments, *smaller[verb].split()])
                assert result.exit_code == 0, f"{verb} {arguments}: {result.output} {result.exception!r}"
    assert "nb101" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.cluster
def test_finetune_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that teaches; what its checkpoint does in a search is that of any other."""
    monkeypatch.chdir(tmp_path)
    write_labels(tmp_path / "ofa_mbv3.csv.gz", "ofa_mbv3", 60)
    (command,) = [c for c in commands(ROOT / "docs" / "finetune.md") if c.startswith("gennape finetune")]
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert "fine-tuned on 50 networks" in result.output
    following = [c for c in commands(ROOT / "docs" / "finetune.md") if c.startswith("gennape search")]
    assert following == [result.output.strip().splitlines()[-1].removeprefix("next: ")]


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_python_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On fewer evaluations, and a network of the space in place of the one that was exported before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENNAPE_WORKSPACE", raising=False)
    (code,) = [code for code in blocks(ROOT / "README.md", "python") if "class " not in code]
    space = family("ofa_mbv3")
    gp.to_onnx(space.graph(space.sample(np.random.default_rng(0), 1)[0]), "model.onnx")
    smaller = code.replace("evaluations=2000", "evaluations=120, population=30")
    assert smaller != code
    load(smaller, tmp_path)


@pytest.mark.cluster
def test_main_job_of_the_readme_and_export(tmp_path: Path) -> None:
    """The first command of the README after its set-up, for 300 evaluations, an export from its front, and 100 more."""
    main_job = shlex.split(commands(ROOT / "README.md")[2])
    (export,) = [shlex.split(c) for c in commands(ROOT / "README.md") if c.startswith("gennape export")]
    environment = {name: value for name, value in os.environ.items() if name != "GENNAPE_WORKSPACE"}
    for _, *arguments in ([*main_job, "--evaluations", "300", "--population", "50"], export):
        command = [str(SCRIPTS / "gennape"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    (run,) = (tmp_path / "gennape-workspace" / "runs").iterdir()
    assert len(pd.read_parquet(run / REPORT / "evaluations.parquet")) == 300
    assert (run / REPORT / "front.png").stat().st_size > 0
    onnx.checker.check_model(tmp_path / "model.onnx")
    (more,) = [
        shlex.split(c) for c in commands(ROOT / "docs" / "search.md") if "--resume" in c and "--evaluations" in c
    ]
    command = [str(SCRIPTS / "gennape"), *more[1:], "--resume", run.name, "--evaluations", "400"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert len(pd.read_parquet(run / REPORT / "evaluations.parquet")) == 400
