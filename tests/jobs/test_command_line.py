"""The command line itself: its first screen, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import gennape
from gennape.jobs.cli import app

GENNAPE = str(Path(sys.executable).with_name("gennape"))


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GENNAPE, *arguments], capture_output=True, text=True, check=False)


def test_first_screen_shows_the_next_command() -> None:
    shown = _run()
    assert "gennape search --space ofa_mbv3" in " ".join((shown.stdout + shown.stderr).split())


@pytest.mark.cluster
def test_an_expected_error_is_one_message_and_status_1(tmp_path: Path) -> None:
    ended = _run("search", "--space", "resnext", "--workspace", str(tmp_path / "w"))
    assert ended.returncode == 1
    assert ended.stderr.startswith("gennape: error: ")
    assert "resnext" in ended.stderr
    assert "ofa_mbv3" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.cluster
@pytest.mark.parametrize("verb", [["show", "--run", "latest", "--index", "0"], ["ui"], ["serve", "--port", "0"]])
def test_a_folder_that_was_removed_below_the_shell_is_named(tmp_path: Path, verb: list[str]) -> None:
    (tmp_path / "gone").mkdir()
    script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
    ended = subprocess.run(
        ["bash", "-c", script, "bash", str(tmp_path / "gone"), GENNAPE, *verb],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert ended.stderr == "gennape: error: the folder that this runs in was removed; cd to one that exists\n"


@pytest.mark.cluster
def test_version_and_short_help() -> None:
    assert _run("--version").stdout == f"gennape {gennape.__version__}\n"
    assert _run("-h").stdout == _run("--help").stdout
    assert "--sha256" in _run("data", "-h").stdout


VERBS = typer.main.get_command(app).commands


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_says_what_every_option_is(verb: str) -> None:
    """``[default: ...]`` inside a help text is read as mark-up and disappears; ``show_default`` is shown."""
    summary = VERBS[verb].help.partition("\n")[0]
    assert summary.endswith(".")
    assert len(summary) <= 90
    shown = " ".join(CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).stdout.split())
    assert "(required)" not in shown
    for parameter in VERBS[verb].params:
        text = getattr(parameter, "help", None)
        assert text, parameter.name
        assert text[0] not in "abcdefghijklmnopqrstuvwxyz", text
        assert text[-1] in ".)", text
        assert "[default" not in text, text
        assert not text.startswith(("Of ", "What ", "That ", "Such ")) or text.startswith("What to do"), text


@pytest.mark.cluster
def test_a_family_that_is_nearly_right_is_guessed(tmp_path: Path) -> None:
    ended = _run("search", "--space", "ofa_mobv3", "--workspace", str(tmp_path / "w"))
    assert ended.stderr.endswith("; did you mean ofa_mbv3?\n")
    assert not (tmp_path / "w").exists()


def test_a_family_may_be_called_a_space_and_a_space_a_family() -> None:
    verbs = typer.main.get_command(app).commands
    named = {
        verb: {flag for option in command.params for flag in option.opts} & {"--space", "--family"}
        for verb, command in verbs.items()
    }
    asking = {verb for verb, flags in named.items() if flags}
    assert asking >= {"search", "show", "export", "convert", "label", "data", "pretrain", "fit", "finetune", "tune"}
    assert all(named[verb] == {"--space", "--family"} for verb in asking)


def test_an_interruption_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_out: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gennape.jobs.data._list", interrupted)
    ended = CliRunner().invoke(app, ["data"])
    assert (ended.exit_code, ended.stderr) == (130, "gennape: interrupted\n")


@pytest.mark.cluster
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that Linux has")
@pytest.mark.parametrize("arguments", [["data"], ["--help"], ["--version"]])
def test_a_full_disk_under_the_output_is_one_message(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run([GENNAPE, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "gennape: error: cannot write: No space left on device\n")


def test_an_unknown_option_is_named_and_status_2() -> None:
    ended = _run("search", "--spcae", "ofa_mbv3")
    assert ended.returncode == 2
    assert "--spcae" in ended.stderr


def test_the_command_line_answers_without_loading_ray_or_torch() -> None:
    program = "import sys, gennape.jobs.cli; sys.exit(bool({'ray', 'torch', 'mlflow', 'pymoo'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
