"""The command line itself: its first screen, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

GENNAPE = str(Path(sys.executable).with_name("gennape"))


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GENNAPE, *arguments], capture_output=True, text=True, check=False)


def test_first_screen_shows_the_next_command() -> None:
    shown = _run()
    assert "gennape search --space ofa_mbv3" in " ".join((shown.stdout + shown.stderr).split())


def test_an_expected_error_is_one_message_and_status_1(tmp_path: Path) -> None:
    ended = _run("search", "--space", "resnext", "--workspace", str(tmp_path / "w"))
    assert ended.returncode == 1
    assert ended.stderr.startswith("gennape: error: ")
    assert "resnext" in ended.stderr
    assert "ofa_mbv3" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_unknown_option_is_named_and_status_2() -> None:
    ended = _run("search", "--spcae", "ofa_mbv3")
    assert ended.returncode == 2
    assert "--spcae" in ended.stderr


def test_the_command_line_answers_without_loading_ray_or_torch() -> None:
    program = "import sys, gennape.jobs.cli; sys.exit(bool({'ray', 'torch', 'mlflow', 'pymoo'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
