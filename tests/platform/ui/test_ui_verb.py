"""``gennape ui`` as people start it: both pages, and the way from one to the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
from stored_runs import stored_run
from typer.testing import CliRunner

from gennape.errors import ConfigError, ServiceError
from gennape.jobs.cli import app

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.cluster
def test_both_addresses_are_printed_and_the_page_leads_to_mlflow(tmp_path: Path) -> None:
    stored_run(tmp_path, "one")
    command = [sys.executable, "-m", "gennape", "ui", "--port", "0", "--workspace", str(tmp_path)]
    environment = {**os.environ, "RAY_JOB_STOP_SIGNAL": "SIGINT", "MLFLOW_TRACKING_URI": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as verb:
        try:
            assert verb.stdout is not None
            links: dict[str, str] = {}
            while "MLflow" not in links:
                line = verb.stdout.readline()
                assert line
                what, _, rest = line.partition(": ")
                links[what] = rest.split()[0] if rest else ""
            with httpx.Client(timeout=60) as browser:
                assert browser.get(links["page"]).status_code == 200
                origin = links["page"].partition("/enter/")[0]
                found = browser.get(f"{origin}/api/runs").json()
                assert [run["name"] for run in found["runs"]] == ["one"]
                assert found["mlflow"] is True
                onward = browser.get(f"{origin}/mlflow")
                assert onward.headers["location"] == links["MLflow"]
                entered = browser.get(links["MLflow"])
                assert "/#/experiments/" in entered.text
                assert "workflowType=machine_learning" in entered.text
            os.kill(verb.pid, signal.SIGINT)
            assert verb.wait(120) == 130
        finally:
            verb.kill()


def test_an_address_for_others_needs_a_token_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GENNAPE_TOKEN", raising=False)
    words = ["ui", "--host", "0.0.0.0", "--workspace", str(tmp_path / "w")]  # noqa: S104
    with pytest.raises(ServiceError, match="bearer token is required"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_an_own_space_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("class Other:\n    pass\n")
    words = ["ui", "--space", f"{tmp_path / 'own.py'}:Other", "--workspace", str(tmp_path / "w")]
    with pytest.raises(ConfigError, match="Other"):
        CliRunner().invoke(app, words, catch_exceptions=False)
    assert not (tmp_path / "w").exists()
