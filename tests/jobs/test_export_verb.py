from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from gennape.errors import ConfigError, InvalidArchitectureError, WorkspaceError
from gennape.jobs.cli import app
from gennape.search_spaces.families.registry import family

CELL = {"matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]], "ops": ["input", "conv3x3-bn-relu", "output"]}


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_any_architecture_goes_to_onnx(tmp_path: Path) -> None:
    to = tmp_path / "cell.onnx"
    _run("--space", "nb101", "--architecture", json.dumps(CELL), "--to", to)
    model = onnx.load(to)
    onnx.checker.check_model(model, full_check=True)
    space = family("nb101")
    graph = space.graph(space.decode(CELL))
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    assert convolutions == int(np.isin(graph.nodes[:, 0], (3, 4)).sum())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((), ConfigError, "name one network"),
        (("--run", "x"), ConfigError, "--run needs --index"),
        (("--space", "nb101", "--architecture", "{"), ConfigError, "must be JSON"),
        (("--space", "nb101", "--architecture", "[]"), InvalidArchitectureError, "nb101: an architecture is"),
        (("--space", "vit", "--architecture", "{}"), ConfigError, "unknown search space 'vit'"),
        (("--run", "never", "--index", "0"), WorkspaceError, "no run 'never'"),
    ],
)
def test_refuses(tmp_path: Path, arguments: tuple[str, ...], error: type[Exception], message: str) -> None:
    to = tmp_path / "model.onnx"
    with pytest.raises(error, match=message):
        _run(*arguments, "--to", to, "--workspace", tmp_path / "workspace")
    assert not to.exists()


def test_a_file_is_not_written_over_itself(tmp_path: Path) -> None:
    trained = tmp_path / "trained.onnx"
    _run("--space", "nb101", "--architecture", json.dumps(CELL), "--to", trained, "--seed", 3)
    before = trained.read_bytes()
    (tmp_path / "link.onnx").symlink_to(trained)
    for name in ("trained.onnx", "link.onnx"):
        with pytest.raises(ConfigError, match="weights would be lost; choose another"):
            _run("--onnx", trained, "--to", tmp_path / name)
    assert trained.read_bytes() == before
    assert "untrained weights, of seed 0" in _run("--onnx", trained, "--to", tmp_path / "new.onnx")


def test_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"suffix must be one of \.onnx, \.pt2, \.py"):
        _run("--space", "nb101", "--architecture", json.dumps(CELL), "--to", tmp_path / "model.h5")
