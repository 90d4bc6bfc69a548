"""What is imported is declared, what is declared is used, and what CI tests is what the ranges allow."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(text) for text in [*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["testing"]]]
CONSTRAINTS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
PINNED = {canonicalize_name(name): pin for name, pin in (line.split("==") for line in CONSTRAINTS)}
#: The two commands of continuous integration, on the rooms and on what tests them.
SCANS = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith(".venv/bin/deptry")]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_the_tested_version_lies_in_the_range(requirement: Requirement) -> None:
    assert requirement.specifier, "a range says what was tried"
    assert requirement.specifier.contains(PINNED[canonicalize_name(requirement.name)])


def test_constraints_pin_public_versions() -> None:
    """A version such as 2.13.0+cpu would keep out every other build of the same release."""
    assert len(PINNED) == len(CONSTRAINTS)
    assert not [line for line in CONSTRAINTS if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)]
    assert sorted(CONSTRAINTS, key=str.lower) == CONSTRAINTS


def test_constraints_pin_what_is_installed_indirectly() -> None:
    """Walks from our requirements to theirs, as they are installed here."""
    todo, seen = list(REQUIREMENTS), set()
    while todo:
        requirement = todo.pop()
        wanted = {(canonicalize_name(requirement.name), extra) for extra in ("", *requirement.extras)} - seen
        seen |= wanted
        try:
            lines = requires(requirement.name) or [] if wanted else []
        except PackageNotFoundError as error:
            pytest.skip(f"{error} is not installed here")
        further = [Requirement(line) for line in lines]
        todo += [r for r in further if r.marker is None or any(r.marker.evaluate({"extra": e}) for _, e in wanted)]
    # Of builds of PyTorch for GPUs, which come with what they need.
    missing = {name for name, _ in seen if not name.startswith(("cuda-", "nvidia-", "triton"))} - set(PINNED)
    assert not missing


def test_every_command_that_installs_gives_them() -> None:
    for name in (".ci/run", "README.md", "CONTRIBUTING.md", "docs/getting-started.md"):
        commands = re.findall(r"pip install .*?-e \S+", (ROOT / name).read_text())
        assert commands
        assert all(command.startswith("pip install -c constraints.txt -e ") for command in commands), name


def test_the_suites_need_no_more_than_their_extra() -> None:
    assert {Requirement(text).name for text in EXTRAS["testing"]} <= {Requirement(text).name for text in EXTRAS["test"]}


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("search_spaces/graphs/planted.py", "import nothing_known", "DEP001"),
        ("jobs/planted.py", "import requests", "DEP003"),
        ("platform/workspace/planted.py", "def f():\n    import timm", "DEP004"),
        ("tests/planted.py", "import requests", "DEP003"),
        (None, None, "DEP002 'tabulate'"),
    ],
)
def test_the_check_reads_what_is_there(file: str | None, line: str | None, told: str, tmp_path: Path) -> None:
    """The rooms lie behind links that a checker may silently not follow."""
    for folder in ("benchmarks", "gennape", "jobs", "platform", "predictors", "search_spaces", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "checkpoints", "regressions", "labels")
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=ignored)
    project = (ROOT / "pyproject.toml").read_text()
    if file is None:
        project = project.replace("dependencies = [", 'dependencies = [\n  "tabulate>=0.9",', 1)
    else:
        (tmp_path / file).write_text(f"{line}\n")
    (tmp_path / "pyproject.toml").write_text(project)
    assert len(SCANS) == 2
    told_by = [_scan(shlex.split(command)[1:], tmp_path) for command in SCANS]
    found = [line for done in told_by for line in done.stdout.splitlines() + done.stderr.splitlines() if "DEP" in line]
    assert len(found) == 1
    assert told in found[0]
    assert sorted(done.returncode for done in told_by) == [0, 1]


def _scan(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deptry", "--no-ansi", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
