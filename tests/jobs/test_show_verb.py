from __future__ import annotations

import json
import re
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path

import onnx
import pytest
import typer
from typer.testing import CliRunner

from gennape.errors import (
    ConfigError,
    GennapeError,
    InvalidArchitectureError,
    InvalidGraphError,
    OpenShapeError,
    WorkspaceError,
)
from gennape.jobs.export import export
from gennape.jobs.show import show

CELL = {"matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]], "ops": ["input", "conv3x3-bn-relu", "output"]}
TEXT = json.dumps(CELL)

app = typer.Typer()
for verb in (show, export):
    app.command()(verb)


def run(*arguments: object, verb: str = "show") -> str:
    result = CliRunner().invoke(app, [verb, *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def titles(path: Path) -> int:
    return sum(element.tag.endswith("title") for element in ET.parse(path).iter())  # noqa: S314  # our own file


def test_says_what_a_network_is_and_how_to_draw_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    output = run("--space", "nb101", TEXT)
    assert "G MACs" in output
    (line,) = [line for line in output.splitlines() if line.startswith("Draw it: ")]
    assert list(tmp_path.iterdir()) == []
    # the command that it proposes works
    words = shlex.split(line.removeprefix("Draw it: "))
    assert words[:2] == ["gennape", "show"]
    assert "Picture written to graph.svg" in run(*words[2:])
    assert titles(tmp_path / "graph.svg") > 5


def test_folds_large_networks_unless_told_otherwise(tmp_path: Path) -> None:
    folded, plain = tmp_path / "folded.svg", tmp_path / "plain.svg"
    assert "--no-fold draws every node" in run("--space", "nb101", TEXT, "--to", folded)
    output = run("--space", "nb101", "--architecture", TEXT, "--to", plain, "--no-fold")
    assert "--no-fold" not in output
    assert titles(folded) < titles(plain)
    assert f"{titles(plain)} nodes" in output


def test_the_guide_shows_what_its_first_command_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = Path(__file__).parents[2] / "docs"
    command = (docs / "show.md").read_text().partition("```bash\n")[2].partition("\n")[0]
    monkeypatch.chdir(tmp_path)
    run(*shlex.split(command)[2:])
    assert (tmp_path / "graph.svg").read_bytes() == (docs / "graph.svg").read_bytes()
    assert (docs / "graph.svg").stat().st_size < 60_000


def test_published_graph(tmp_path: Path) -> None:
    run("--space", "nb101", TEXT, "--published", "--to", tmp_path / "graph.svg")


def test_architecture_in_the_words_of_its_benchmark(tmp_path: Path) -> None:
    """What does not begin like JSON reaches the family as it is."""
    with pytest.raises(InvalidArchitectureError, match=r"nb101.*none~0"):
        run("--space", "nb101", "|none~0|", "--to", tmp_path / "graph.svg")


def test_onnx_file(tmp_path: Path) -> None:
    file, again = tmp_path / "cell.onnx", tmp_path / "again.onnx"
    run("--space", "nb101", "--architecture", TEXT, "--to", file, verb="export")
    by_argument, by_option = tmp_path / "a.svg", tmp_path / "b.svg"
    assert "cell.onnx" in run(file, "--to", by_argument)
    run("--onnx", file, "--to", by_option)
    assert titles(by_argument) == titles(by_option) > 0
    assert f"written to {again}: {file}" in run("--onnx", file, "--to", again, verb="export")


def test_sizes(tmp_path: Path) -> None:
    to = tmp_path / "sizes.svg"
    output = run("--space", "nb101", "--space", "hiaml", "--sample", 20, "--seed", 3, "--to", to)
    assert "Median and range of 20 sampled networks" in output
    lines = [line for line in output.splitlines() if line.startswith(("nb101: ", "hiaml: "))]
    assert len(lines) == 2
    assert all(line in to.read_text() for line in lines)
    # a family's sample does not depend on what it is compared with, and without --to the plot is proposed
    alone = run("--space", "hiaml", "--sample", 20, "--seed", 3)
    assert lines[1] in alone
    assert "gennape show --space hiaml --sample 20 --seed 3 --to sizes.svg" in alone


def test_sizes_of_a_part_of_a_space() -> None:
    fix = ("--fix", "block*=hiaml_z")
    alone = run("--space", "hiaml", "--sample", 20, *fix)
    assert "Subspace('hiaml' with block*=hiaml_z: 1 of 38,416 genomes)" in alone
    assert re.search(r"hiaml: (.+) parameters \(\1 to \1\), (.+) MACs \(\2 to \2\)", alone)  # one network only
    assert "--fix 'block*=hiaml_z'" in alone


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((), ConfigError, "name one network.*got none of them"),
        ((TEXT,), ConfigError, "give its family with --space"),
        (("--space", "nb101"), ConfigError, "name one network.*got --space"),
        (("--space", "nb101", TEXT, "--architecture", TEXT), ConfigError, "name one network, got"),
        (("--space", "nb101", "--space", "hiaml", TEXT), ConfigError, "name one network, got"),
        (("--space", "nb101", TEXT, "--run", "x", "--index", "0"), ConfigError, "name one network"),
        (("x.onnx", "--onnx", "y.onnx"), ConfigError, "name one network, got x.onnx and y.onnx"),
        (("--onnx", "x.onnx", "--published"), ConfigError, "leave --published out"),
        (("--space", "nb101", "{"), ConfigError, "must be JSON"),
        (("--space", "nb101", "[" * 100_000), ConfigError, r"must be JSON.*100000 characters"),
        (("--space", "nb101", "[]"), InvalidArchitectureError, "nb101: an architecture is"),
        (("--space", "vit", "{}"), ConfigError, "unknown search space 'vit'"),
        (("--run", "never", "--index", "0"), WorkspaceError, "no run 'never'"),
        (("--sample", "5"), ConfigError, "--sample needs a search space"),
        (("--sample", "5", "--space", "hiaml", "--fix", "depth=3"), ConfigError, "hiaml has no gene 'depth'"),
        (("--space", "hiaml", TEXT, "--fix", "block*=hiaml_z"), ConfigError, "--fix and --subspace keep to a part"),
        (("--sample", "5", "--space", "vit"), ConfigError, "unknown search space 'vit'"),
        (("--sample", "5", "--space", "nb101", TEXT), ConfigError, "--sample plots whole search spaces"),
    ],
)
def test_refuses(tmp_path: Path, arguments: tuple[str, ...], error: type[GennapeError], message: str) -> None:
    to = tmp_path / "graph.svg"
    with pytest.raises(error, match=message):
        run(*arguments, "--to", to, "--workspace", tmp_path / "workspace")
    assert not to.exists()


@pytest.mark.parametrize("arguments", [("--space", "nb101", TEXT), ("--space", "nb101", "--sample", "2")])
def test_unknown_suffix_and_missing_folder(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"suffix must be one of \.svg, \.png, \.pdf"):
        run(*arguments, "--to", tmp_path / "graph.gif")
    with pytest.raises(WorkspaceError, match="cannot write"):
        run(*arguments, "--to", tmp_path / "missing" / "graph.svg")


def test_an_operation_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    file = tmp_path / "net.ONNX"
    mish = onnx.helper.make_node("Mish", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, "h", "w"]) for name in "xy"]
    graph = onnx.helper.make_graph([mish], "mish", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]), file)
    with pytest.raises(InvalidGraphError, match="node 1 is mish"):
        run("--onnx", file, "--shape", "3x8x8", "--to", tmp_path / "out.onnx", verb="export")
    assert "8 by 8 by 3" in run(file, "--shape", "3,8,8").replace("\N{MULTIPLICATION SIGN}", " by ")
    with pytest.raises(OpenShapeError):
        run(file)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["model.onx"], "suffixes that are read: .onnx"),
        (["something"], "give its family with --space"),
        (["."], "is a folder"),
        (["absent.ONNX"], "does not exist"),
        (["--space", "nb101", TEXT, "--shape", "3,8,8"], "leave it out"),
    ],
)
def test_dead_ends_lead_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GennapeError, match=re.escape(told)) as refused:
        run(*arguments)
    assert "--architecture" not in str(refused.value)
