"""Own classes of files and modules: found, refused in a sentence, and complete when they travel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gennape.errors import ConfigError
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.files.own_code import is_address, load_class, own_modules, place_of, sources_of

ONE = "from gennape.search_spaces.families.hiaml import HiAML\n\n\nclass One(HiAML):\n    name = 'one'\n"
TWO = ONE + "\n\nclass Two(One):\n    name = 'two'\n"


pytestmark = pytest.mark.usefixtures("own_folder")


def load(address: str) -> type:
    return load_class(address, SearchSpace, "search space")


def test_what_is_an_address() -> None:
    assert all(map(is_address, ("mine.py", "mine.py:Mine", "a/b.py:C", "package.module:Mine", ":")))
    assert not any(map(is_address, ("hiaml", "my_space", "", "py")))


def test_a_class_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "mine.py").write_text(TWO)
    found = load("spaces/mine.py:Two")
    assert (found.__name__, found.name) == ("Two", "two")  # type: ignore[attr-defined]
    assert load(str(tmp_path / "spaces" / "mine.py:Two")) is found  # it is run once
    (tmp_path / "mine.py").write_text(ONE)
    assert load("mine.py").__name__ == "One"  # another file of one name, and the only class of it


def test_what_a_file_imports_from_beside_it_belongs_to_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import beside\nfrom package.inner import NAME\n" + ONE)
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "unused.py").write_text("")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "inner.py").write_text("NAME = 'one'\n")
    module = sys.modules[load("mine.py").__module__]
    assert sources_of(module) == [tmp_path / "beside.py", tmp_path / "mine.py", tmp_path / "package"]
    assert {one.__name__ for one in own_modules(module)} == {module.__name__, "beside", "package"}


def test_a_class_of_a_module_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "spaces.py").write_text(ONE)
    assert load("own_package.spaces:One").__module__ == "own_package.spaces"
    assert sources_of(sys.modules["own_package.spaces"]) == [tmp_path / "own_package"]


def test_nothing_in_the_current_folder_stands_in_for_a_library(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise AssertionError('this is not numpy')")
    (tmp_path / "mine.py").write_text("import numpy.linalg\n" + ONE)
    assert load("mine.py:One").__name__ == "One"


def test_an_installed_module_travels_alone() -> None:
    assert own_modules(sys.modules[SearchSpace.__module__])[0].__name__ == "gennape"
    assert [one.__name__ for one in own_modules(sys.modules["numpy.linalg"])] == ["numpy"]


@pytest.mark.parametrize(
    ("code", "address", "told"),
    [
        (None, "mine.py", r"mine\.py does not exist"),
        (ONE, "mien.py:One", r"did you mean mine\.py"),
        (ONE, "mine.py:Oen", "holds no 'Oen'; did you mean One"),
        (ONE, ":One", "names no file or module before the colon"),
        (TWO, "mine.py", "holds One, Two; name one, as in mine.py:One"),
        ("x = 1\n", "mine.py", "holds no search space, a subclass of SearchSpace"),
        ("class One: pass\n", "mine.py:One", "is no search space: it must be a subclass of SearchSpace"),
        ("One = 3\n", "mine.py:One", "is no search space"),
        ("def f(:\n", "mine.py:One", r"running mine\.py fails: SyntaxError: .*line 1"),
        ("x = 1\nraise KeyError('k')\n", "mine.py:One", r"fails: KeyError: 'k' \(mine\.py, line 2\)"),
        ("import sys\nsys.exit(3)\n", "mine.py:One", r"running mine\.py fails: SystemExit: 3 \(mine\.py, line 2\)"),
        ("import absent_library\n", "mine.py:One", "fails: ModuleNotFoundError: No module named 'absent_library'"),
        (None, "absent_module:One", "there is no module absent_module, neither installed nor in the current folder"),
        ("import absent_library\n", "mine:One", "fails: ModuleNotFoundError: No module named 'absent_library'"),
        ("1 / 0\n", "mine:One", r"running mine fails: ZeroDivisionError: division by zero \(mine\.py, line 1\)"),
        (ONE, ".:One", "Give|fails|no module"),
    ],
)
def test_what_is_refused(tmp_path: Path, code: str | None, address: str, told: str) -> None:
    if code is not None:
        (tmp_path / "mine.py").write_text(code)
    with pytest.raises(ConfigError, match=told):
        load(address)


def test_a_file_that_failed_is_run_again_once_mended(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise ValueError\n")
    with pytest.raises(ConfigError, match="ValueError"):
        load("mine.py")
    (tmp_path / "mine.py").write_text(ONE)
    assert load("mine.py").__name__ == "One"


def test_an_error_of_nobodys_code_has_no_place() -> None:
    assert place_of(ValueError()) == ""
