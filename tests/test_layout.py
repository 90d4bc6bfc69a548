"""The folder names that the user asked for, ``platform/`` above all, must never get in the way of Python itself."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("jobs", "platform", "predictors", "search_spaces")
SCRIPTS = Path(sys.executable).parent
STANDARD = Path(sysconfig.get_path("stdlib")) / "platform.py"

#: Fails unless ``platform`` is Python's; prints where gennape comes from and that ours is reachable beside it.
PROBE = """
import pathlib, platform, sys
assert pathlib.Path(platform.__file__) == pathlib.Path(sys.argv[1]), platform.__file__
assert platform.python_implementation()
import gennape.platform.search.objectives, gennape.search_spaces.families.registry, gennape.predictors.metrics
import gennape.jobs.cli
print(gennape.__file__)
"""


def python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    """Standard output of a fresh Python process; ``path`` is its PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist of this tree and the wheel that is built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh folder that holds what the wheel installs."""
    folder = tmp_path_factory.mktemp("site")
    (wheel,) = built.glob("*.whl")
    shutil.unpack_archive(wheel, folder, "zip")
    return folder


def room_files() -> set[str]:
    """Every file of the four folders, as a path below ``gennape/``."""
    paths = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()]
    return {f"gennape/{path.relative_to(ROOT)}" for path in paths if "__pycache__" not in path.parts}


# `import platform` from every entry point; tests/platform/cluster does it in a Ray worker and a submitted job ---------


def test_standard_platform_in_this_process() -> None:
    import platform

    assert Path(platform.__file__) == STANDARD


@pytest.mark.cluster
def test_standard_platform_at_the_root() -> None:
    assert python("-c", PROBE, str(STANDARD), cwd=ROOT).strip() == str(ROOT / "gennape" / "__init__.py")


@pytest.mark.cluster
@pytest.mark.parametrize("start", [["-m", "pytest"], [str(SCRIPTS / "pytest")]], ids=["module", "script"])
def test_standard_platform_under_pytest(start: list[str]) -> None:
    this = f"{Path(__file__).relative_to(ROOT)}::{test_standard_platform_in_this_process.__name__}"
    assert "1 passed" in python(*start, "-q", "-p", "no:cacheprovider", this, cwd=ROOT)


@pytest.mark.cluster
def test_standard_platform_beside_the_wheel(installed: Path, tmp_path: Path) -> None:
    found = python("-c", PROBE, str(STANDARD), cwd=tmp_path, path=installed)
    assert found.strip() == str(installed / "gennape" / "__init__.py")


@pytest.mark.cluster
def test_standard_platform_with_the_editable_install(tmp_path: Path) -> None:
    origin = json.loads(importlib.metadata.distribution("gennape").read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        pytest.skip("gennape is not installed editable here")
    assert python("-c", PROBE, str(STANDARD), cwd=tmp_path).strip() == str(ROOT / "gennape" / "__init__.py")


@pytest.mark.cluster
@pytest.mark.parametrize("room", ROOMS)
def test_standard_platform_from_a_script_of_a_room(room: str, tmp_path: Path) -> None:
    """Python puts the folder of a script first on its path; here, a copy of the room with a script in it."""
    shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))
    script = tmp_path / room / "probe.py"
    script.write_text(PROBE)
    python(str(script), str(STANDARD), cwd=ROOT)


@pytest.mark.cluster
def test_command_line_starts_as_a_script_and_as_a_module() -> None:
    python("jobs/cli.py", cwd=ROOT)
    assert "search" in python("-m", "gennape", "--help", cwd=ROOT)


# What the folders must look like for that ----------------------------------------------------------------------------


def test_rooms_are_namespace_packages() -> None:
    """An ``__init__.py`` would make ``platform/`` a package that hides Python's, as soon as the root is on the path."""
    assert not [room for room in ROOMS if (ROOT / room / "__init__.py").exists()]
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.cluster
def test_tests_of_a_room_hide_nothing(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    """``tests/platform`` mirrors ``platform/``: were ``tests`` on the path, Python's would still be found."""
    assert pytestconfig.getini("pythonpath") == [ROOT / "tests" / "support"]
    assert not {str(ROOT / "tests"), str(ROOT / "tests" / "platform")} & set(sys.path)
    assert not [path for path in (ROOT / "tests" / "support").iterdir() if path.is_dir() and path.name in ROOMS]
    python("-c", PROBE, str(STANDARD), cwd=tmp_path, path=ROOT / "tests")


def test_rooms_are_linked_into_the_package() -> None:
    assert {room: os.readlink(ROOT / "gennape" / room) for room in ROOMS} == {room: f"../{room}" for room in ROOMS}


@pytest.mark.parametrize("folder", ["", "tests", "tests/fuzzing", "tests/support", "benchmarks", *ROOMS])
def test_no_module_hides_one_of_the_standard_library(folder: str) -> None:
    """Each folder is first on the path when a script in it is started."""
    found = [path for path in (ROOT / folder).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert not {path.stem for path in found} & set(sys.stdlib_module_names)


# Distributions -------------------------------------------------------------------------------------------------------


def test_wheel_holds_every_file_of_the_rooms(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        entry_points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "gennape = gennape.jobs.cli:main" in archive.read(entry_points).decode()
    package = {f"gennape/{path.name}" for path in (ROOT / "gennape").iterdir() if path.is_file()}
    assert {"gennape/py.typed", "gennape/errors.py", "gennape/search_spaces/families/registry.py"} <= names
    assert names == package | room_files()


def test_sdist_holds_the_rooms_and_the_tests(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert room_files() <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "cluster.yaml", "tests/test_layout.py"} <= names


@pytest.mark.cluster
def test_shipped_checkpoint_travels_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    shipped = ROOT / "predictors" / "checkpoints"
    size = sum(path.stat().st_size for path in shipped.rglob("*") if path.is_file())
    assert 0 < size <= 5e6
    module = "gennape.predictors.model.checkpoint"
    probe = f"import {module} as c; print(c.shipped_checkpoint(), c.load_checkpoint().sha256)"
    folder, sha256 = python("-c", probe, cwd=tmp_path, path=installed).split()
    assert Path(folder).is_relative_to(installed)
    assert len(sha256) == 64


def test_programs_use_no_name_that_is_not_there() -> None:
    """Nobody runs all benchmarks often. The checks of every change pass over unknown names, as those of shapes are."""
    folders = [name for name in ("benchmarks", "tests", *ROOMS) if (ROOT / name).is_dir()]
    command = [str(SCRIPTS / "ruff"), "check", "--isolated", "--select", "F821", "--output-format", "concise", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if "F821" in line]
    assert not [line for line in found if not re.search(r"Undefined name `([a-z][a-z0-9]?|_)`", line)]
    assert found  # shapes


# Names ---------------------------------------------------------------------------------------------------------------


def sources() -> list[Path]:
    """All files of Python, by their paths in the repository."""
    folders = [ROOT / name for name in ("benchmarks", "gennape", "tests", *ROOMS)]
    paths = {path.resolve() for folder in folders for path in folder.rglob("*.py")}
    return sorted(path.relative_to(ROOT) for path in paths)


@pytest.fixture(scope="module")
def named() -> dict[type[ast.AST], list[tuple[Path, str, int]]]:
    """Classes and old bounds of all files, which take seconds to parse: the file, the name, and the line."""
    found: dict[type[ast.AST], list[tuple[Path, str, int]]] = {ast.ClassDef: [], ast.Name: []}
    for path in sources():
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.ClassDef):
                found[ast.ClassDef].append((path, node.name, node.lineno))
            elif isinstance(node, ast.Name) and re.fullmatch(r"_?(MOST|LEAST|LONGEST)(_[A-Z_]+)?", node.id):
                found[ast.Name].append((path, node.id, node.lineno))
    return found


def test_no_class_name_is_used_twice(named: dict[type[ast.AST], list[tuple[Path, str, int]]]) -> None:
    """Private classes of a test do not count: nothing else names them."""
    found: dict[str, list[str]] = defaultdict(list)
    for path, name, line in named[ast.ClassDef]:
        if not (path.parts[0] == "tests" and name.startswith("_")):
            found[name].append(f"{path}:{line}")
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_bounds_are_called_max_and_min(named: dict[type[ast.AST], list[tuple[Path, str, int]]]) -> None:
    assert not {f"{path}: {name}" for path, name, _ in named[ast.Name]}


# Import arrows -------------------------------------------------------------------------------------------------------


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    """The checker of the arrows between rooms, on the tree in ``tree``."""
    command = [str(SCRIPTS / "lint-imports"), "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("search_spaces/families", "from gennape.predictors.metrics import srcc"),
        ("predictors", "import gennape.platform.workspace.files"),
        ("platform/search/searchers", "from gennape.jobs.cli import app"),
        ("search_spaces/graphs", "from gennape.search_spaces.families.space import Gene"),
        ("platform/workspace", "from gennape.platform.search import driver"),
        ("jobs/shared", "from gennape.jobs import cli"),
        ("jobs", "def f():\n    from ray import serve"),
        ("predictors", "import mlflow"),
        ("search_spaces", "from pymoo.core.problem import Problem"),
    ],
)
def test_import_against_the_arrows_is_caught(room: str, line: str, tmp_path: Path) -> None:
    """The rooms lie behind links that a checker may silently not follow: show that it reads what is there."""
    for folder in ("gennape", *ROOMS):
        ignored = shutil.ignore_patterns("__pycache__", "checkpoints")
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / room / "planted.py").write_text(line + "\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert f"gennape.{room.replace('/', '.')}.planted" in done.stdout


def test_imports_follow_the_arrows() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


def test_tests_that_take_turns_are_known_to_the_runner(request: pytest.FixtureRequest) -> None:
    """With several processes a test's name ends with its file; where it does not, files are torn apart."""
    assert request.node.get_closest_marker("xdist_group").args == ("tests/test_layout.py",)
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@tests/test_layout.py")
