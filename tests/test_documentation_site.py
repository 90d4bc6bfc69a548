"""The documentation as a site: nothing is missing, figures are those of their program, and no host is asked."""

from __future__ import annotations

import importlib.util
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import gennape as gp

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def test_every_public_name_is_in_the_reference_once() -> None:
    pages = [page.read_text() for page in sorted((DOCS / "reference").glob("*.md"))]
    found = [name for page in pages for name in re.findall(r"^::: gennape\.(\w+)$", page, re.MULTILINE)]
    assert sorted(found) == sorted(gp.__all__)
    table = (DOCS / "reference" / "index.md").read_text()
    assert all(f"`{name}`" in table for name in gp.__all__)


def test_every_decision_is_listed() -> None:
    listed = re.findall(r"\]\((\d{4}-[^)]+)\)", (DOCS / "adr" / "README.md").read_text())
    assert listed == sorted(page.name for page in (DOCS / "adr").glob("[0-9]*.md"))


def test_figures_are_those_of_their_program() -> None:
    figures = runpy.run_path(str(DOCS / "figures" / "draw.py"))["FIGURES"]
    assert {path.stem for path in (DOCS / "figures").glob("*.svg")} == set(figures)
    for name, draw in figures.items():
        assert (DOCS / "figures" / f"{name}.svg").read_text() == draw().svg(), "run python docs/figures/draw.py"


@pytest.mark.cluster
def test_the_site_fetches_nothing_from_other_hosts(tmp_path: Path) -> None:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 80
    fetched = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=[\"\']?(?:https?:)?//|<link(?![^>]*canonical)[^>]*href=[\"\']?(?:https?:)?//"
    )
    styles = re.compile(r"url\([\"\']?(?:https?:)?//|@import")
    for page in pages:
        assert not fetched.search(page.read_text()), page
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not styles.search(sheet.read_text()), sheet
