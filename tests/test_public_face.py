"""What ``import gennape as gp`` gives."""

from __future__ import annotations

import ast
import doctest
import inspect
import json
import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import gennape as gp
from gennape.errors import ConfigError, ConformanceError
from gennape.moved import MOVED
from gennape.platform.search.config import SearchConfig

SOURCE = Path(gp.__file__)
ROOT = SOURCE.resolve().parents[1]
#: What users were promised; more may come.
PROMISED = {
    *("search", "load_pretrained", "load_checkpoint", "family", "families", "SearchSpace", "Gene", "GraphBuilder"),
    *("ComputationGraph", "from_torch", "from_onnx", "to_module", "to_onnx", "flops", "macs", "params"),
    *("LatencyPredictor", "evaluate", "read_labels", "register", "__version__"),
}


def test_it_is_complete() -> None:
    """Editors read the imports for type checkers; these, ``__all__`` and what is imported lazily are the same names."""
    tree = ast.parse(SOURCE.read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*typed, "__version__"} == set(gp.__all__) >= PROMISED
    assert len(gp.__all__) == len(set(gp.__all__))
    for name, home in typed.items():
        module, _, attribute = home.rpartition(".")
        assert getattr(gp, name) is getattr(import_module(module), attribute)
        assert name in dir(gp)
    with pytest.raises(AttributeError, match="'gennape' has no attribute 'seach'"):
        _ = gp.seach


def test_importing_it_is_quick() -> None:
    """Beside Python itself, and the least of some tries: the machine is busy with other tests."""

    def seconds(program: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        return time.perf_counter() - began

    program = "import sys, gennape; assert not {'torch', 'numpy', 'ray', 'mlflow'} & set(sys.modules)"
    tries = [(seconds("pass"), seconds(program)) for _ in range(5)]
    assert min(after for _, after in tries) - min(before for before, _ in tries) < 0.2


@pytest.mark.cluster
def test_examples_run(own_folder: Path) -> None:
    """Those of every public name; that of ``search`` starts Ray, and runs in the program of the guide below."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for name in set(gp.__all__) - {"search", "__version__"}:
        found = doctest.DocTestFinder(recurse=False).find(
            getattr(gp, name), name, module=False, globs={"np": np, "pd": pd, "json": json, "folder": own_folder}
        )
        assert [test for test in found if test.examples], f"{name} has no example"
        for test in found:
            runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


@pytest.mark.parametrize("name", sorted(set(gp.__all__) - {"__version__"}))
def test_documentation_has_the_sections(name: str) -> None:
    """What it is in one sentence, then ``Args:`` of every parameter, ``Returns:``, and an example."""
    thing = getattr(gp, name)
    text = inspect.getdoc(thing) or ""
    first = text.partition("\n\n")[0]
    assert first.endswith(".")
    assert "\n" not in first
    assert "\nExample:\n    >>> import gennape as gp\n" in text
    own = inspect.isclass(thing) and (thing.__init__ is object.__init__ or issubclass(thing, Exception))
    parameters = [] if own else [p for p in inspect.signature(thing).parameters if p != "self"]
    described = re.findall(r"^    \*{0,2}(\w+): ", text.partition("\nArgs:\n")[2].partition("\n\n")[0], re.MULTILINE)
    assert described == parameters
    if not inspect.isclass(thing):
        assert "\nReturns:\n" in text or inspect.signature(thing).return_annotation in (None, "None")


def test_things_say_what_they_are() -> None:
    space = gp.family("nb201")
    graphs = space.graphs(space.sample(np.random.default_rng(0), 3))
    assert re.fullmatch(r"ComputationGraph\(\d+ nodes, 3x32x32 to 10x1x1\)", repr(graphs[0]))
    assert repr(graphs) == f"PackedGraphs(3 graphs, {len(graphs.nodes)} nodes)"
    predictor = gp.load_pretrained()
    assert repr(predictor) == f"FuzzyEnsemble(calibrated on 5 spaces, 6 members, checkpoint {predictor.sha256[:12]})"
    few = gp.LatencyPredictor(predictor).fit(graphs, np.array([1.0, 2.0, 3.0]))
    assert repr(few) == f"LatencyPredictor(3 measured networks, encoder of {predictor!r})"
    assert [space.name for space in gp.families()] == sorted(space.name for space in gp.families())


@pytest.fixture
def result(tmp_path: Path) -> gp.SearchResult:
    front = pd.DataFrame(
        {
            "index": [0, 1, 2],
            "accuracy": [93.5, 92.5, 91.0],
            "flops": [6e8, 4e8, 2e8],
            "params": [3e6, 2e6, 1e6],
            "architecture": ["a", "b", "<c>"],
        }
    )
    return gp.SearchResult(front, 1.0, "done", tmp_path)


def test_a_result_gives_the_best_within_limits(result: gp.SearchResult) -> None:
    assert result.best()["index"] == 0
    assert result.best(flops=4e8)["index"] == 1
    assert result.best(flops=5e8, params=1.5e6)["index"] == 2
    assert result.best(accuracy=93)["index"] == 0
    with pytest.raises(ConfigError, match="no macs; limits are of accuracy, flops, params"):
        result.best(macs=1)
    with pytest.raises(ConfigError, match=r"no network.*flops from 2e\+08 to 6e\+08"):
        result.best(flops=1)


def test_a_result_shows_itself(result: gp.SearchResult) -> None:
    assert repr(result).startswith(
        "SearchResult(3 networks on the front: accuracy 91.00 % to 93.50 %, flops 200 M FLOPs"
    )
    assert "<img" not in result._repr_html_()
    assert "&lt;c&gt;" in result._repr_html_()
    (result.folder / "report").mkdir()
    (result.folder / "report" / "front.png").write_bytes(b"picture")
    assert 'src="data:image/png;base64,cGljdHVyZQ=="' in result._repr_html_()


@pytest.mark.parametrize("before", sorted(MOVED))
def test_modules_are_found_by_their_former_paths(before: str) -> None:
    name = f"gennape.{before}"
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match=f"{name} is now gennape.{MOVED[before]}"):
        module = import_module(name)
    now = import_module(f"gennape.{MOVED[before]}")
    assert module is now
    assert (now.__name__, now.__spec__ and now.__spec__.name) == (f"gennape.{MOVED[before]}",) * 2
    with pytest.raises(ModuleNotFoundError):
        import_module(f"{name}_of_nobody")


def test_blocks_are_found_where_the_documentation_named_them() -> None:
    builder = import_module("gennape.search_spaces.graphs.builder")
    with pytest.warns(DeprecationWarning, match="is now gennape.search_spaces.graphs.blocks.conv_bn_relu"):
        assert builder.conv_bn_relu is gp.conv_bn_relu
    with pytest.raises(AttributeError, match="has no attribute 'conv'"):
        _ = builder.conv


@pytest.mark.parametrize(
    "package",
    ["search_spaces.labels", "predictors.proxies", "platform.serving", "platform.search", "platform.cluster"],
)
def test_packages_have_faces(package: str) -> None:
    found = import_module(f"gennape.{package}")
    for name in found.__all__:
        assert getattr(found, name) is getattr(import_module(f"{found.__name__}.{found._HOMES[name]}"), name)
    with pytest.raises(AttributeError, match=f"module '{found.__name__}' has no attribute 'nothing'"):
        _ = found.nothing


def test_a_search_has_the_usual_settings_of_the_command_line() -> None:
    usual = SearchConfig(space="hiaml")
    for name, parameter in inspect.signature(gp.search).parameters.items():
        if name in SearchConfig.model_fields and parameter.default is not parameter.empty:
            assert parameter.default == getattr(usual, name), name


def test_what_cannot_be_searched_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    class Own(type(gp.family("hiaml"))):  # type: ignore[misc]
        """Of the same name, and not what that name finds in other processes."""

    with pytest.raises(ConfigError, match="called 'hiaml' ships with gennape; give yours another name"):
        gp.search(Own(), workspace=tmp_path / "new")
    with pytest.raises(ConformanceError, match=r"Own\.genes is \(\); must be a tuple of Gene"):
        gp.search(type("Own", (Own,), {"name": "own", "genes": ()})(), workspace=tmp_path / "new")
    with pytest.raises(ConfigError, match=r"unknown search space 'hiamm'.*did you mean hiaml"):
        gp.search("hiamm", workspace=tmp_path / "new")
    with pytest.raises(ConfigError, match="holds a user or password"):
        gp.search("hiaml", workspace=tmp_path / "new", tracking_uri="http://u:hush@h")
    assert not (tmp_path / "new").exists()


@pytest.mark.cluster
def test_a_search_from_python_is_that_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of the guide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENNAPE_WORKSPACE", raising=False)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    (first, second, *_) = doctest.DocTestParser().get_examples(gp.search.__doc__ or "")[:2]
    assert first.source + "\n" + second.source in blocks[1]  # the example of its docstring
    exec(blocks[1], names)  # noqa: S102 (our own guide)
    found = names["result"]
    assert len(found.evaluations) == 60
    assert found.front["accuracy"].is_monotonic_decreasing
    words = f"-m gennape search --space hiaml --evaluations 60 --population 10 --seed 3 --workspace {tmp_path}/other"
    subprocess.run([sys.executable, *words.split()], check=True)
    (other,) = (tmp_path / "other" / "runs").iterdir()
    assert (other / "report" / "front.csv").read_bytes() == (found.folder / "report" / "front.csv").read_bytes()


def test_the_program_without_a_cluster_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "python.md").read_text()
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], {})  # noqa: S102 (our own guide)
    assert all(f"`{name}`" in page for name in gp.__all__ if not name.startswith("_"))
