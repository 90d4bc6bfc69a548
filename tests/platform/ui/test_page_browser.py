"""The page in a real browser: points that appear by themselves, generations, several runs, one network, keys."""

from __future__ import annotations

import shlex
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
from chromium import Chromium, needs_chromium
from stored_runs import stored_run

from gennape.platform.search.driver import run_search
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.runs import config_of
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.platform.ui import serve_page

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.cluster, needs_chromium]

HARM = "<img src=x onerror=window.harm=1>"
LINES, MARKERS = "lines+markers", "markers"


class _Opened:
    """The page in a browser that has been let in."""

    def __init__(self, browser: Chromium, address: str, workspace: Path) -> None:
        self.browser, self.address, self.workspace = browser, address, workspace

    def show(self, *runs: str, **more: str) -> None:
        """Open runs by the address, and wait for their plot."""
        self.browser.go("about:blank")
        self.browser.go(f"{self.address}/#{urlencode([*(('run', run) for run in runs), *more.items()])}")
        self.browser.wait("document.querySelector('#plot')?.data?.length")

    def text(self, selector: str) -> str:
        return str(self.browser.run(f"document.querySelector({selector!r}).textContent"))

    def traces(self) -> list[dict[str, Any]]:
        """Of fronts: those that can be clicked."""
        found: list[dict[str, Any]] = self.browser.run(
            "document.querySelector('#plot').data.filter((one) => one.customdata)"
            ".map(({mode, x, y, text, customdata}) => ({mode, x, y, text, customdata}))"
        )
        return found

    def rows(self) -> int:
        return int(self.browser.run("document.querySelectorAll('#rows tr').length"))


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Opened]:
    workspace, links = tmp_path_factory.mktemp("workspace"), []
    stored_run(workspace, "one", evaluations=200)
    stored_run(workspace, "two", evaluations=200, seed=1, searcher="random")
    stored_run(workspace, "three", objectives="accuracy:max,flops:min,params:min")
    stored_run(workspace, HARM)
    with (
        serve_page(workspace, "127.0.0.1", 0, links.append) as page,
        Chromium(tmp_path_factory.mktemp("profile")) as browser,
    ):
        browser.go(links[0])
        browser.wait("document.querySelectorAll('#runs input').length === 4")
        yield _Opened(browser, page.address, workspace)
        assert browser.messages == []


def test_new_points_appear_without_a_reload(opened: _Opened) -> None:
    folder = stored_run(opened.workspace, "grows", generations=1, evaluations=400)
    opened.show("grows")
    opened.browser.run("window.same = true")
    assert "Generation 1 of 1" in opened.text("#moment")
    before = opened.traces()[0]["customdata"]
    config = config_of(folder)
    search = threading.Thread(target=run_search, args=(config, folder, LocalIslands(config, SyntheticPredictor())))
    search.start()
    moment = opened.browser.wait("document.querySelector('#moment').textContent", lambda text: "of 400" in text)
    search.join()
    assert "Generation 1 of 1 " not in moment
    assert opened.traces()[0]["customdata"] != before
    assert opened.browser.run("window.same") is True
    shutil.rmtree(folder)
    opened.browser.wait("![...document.querySelectorAll('#runs input')].some((box) => box.value === 'grows')")


def test_the_slider_shows_any_generation(opened: _Opened) -> None:
    opened.show("one")
    last = int(opened.browser.run("document.querySelector('#generation').max"))
    assert last > 3
    now = opened.rows()
    slide = "const s = document.querySelector('#generation'); s.value = {}; s.dispatchEvent(new Event('input'))"
    opened.browser.run(f"(() => {{ {slide.format(1)} }})()")
    assert f"Generation 1 of {last}" in opened.text("#moment")
    first = opened.rows()
    assert first < now
    assert opened.browser.run("document.querySelector('#live').getAttribute('aria-pressed')") == "false"
    opened.browser.run("document.querySelector('#live').click()")
    assert opened.rows() == now
    opened.browser.run("document.querySelector('#play').click()")
    opened.browser.wait("document.querySelector('#moment').textContent", lambda text: f"Generation 2 of {last}" in text)
    opened.browser.wait("document.querySelector('#live').getAttribute('aria-pressed') === 'true'")


def test_a_front_of_two_objectives_is_a_line_with_readable_texts(opened: _Opened) -> None:
    opened.show("one")
    (trace,) = opened.traces()
    assert trace["mode"] == LINES
    assert trace["x"] == sorted(trace["x"])
    assert " M FLOPs" in trace["text"][0]
    assert " %" in trace["text"][0]
    for part in ("hiaml", "of 200 evaluated"):
        assert part in opened.text("#title")
    for part in ("run one", "checkpoint", "scale of NAS-Bench-101"):
        assert part in opened.text("#subtitle")


def test_several_runs_lie_over_each_other(opened: _Opened) -> None:
    opened.show("one", "two")
    assert [trace["customdata"][0][0] for trace in opened.traces()] == ["one", "two"]
    opened.browser.run("[...document.querySelectorAll('#runs input')].find((box) => box.value === 'two').click()")
    assert [trace["customdata"][0][0] for trace in opened.traces()] == ["one"]
    assert "run=two" not in opened.browser.run("location.hash")


def test_three_objectives_have_views_of_their_own_and_no_line_in_the_plane(opened: _Opened) -> None:
    opened.show("three")
    assert opened.browser.run("document.querySelector('input[name=view]:checked').value") == "parallel"
    (trace,) = opened.traces()
    assert trace["x"][:4] == [0, 1, 2, None]  # each network is a line of its own
    assert all(0 <= y <= 1 for y in trace["y"] if y is not None)
    opened.show("three", view="matrix")
    assert [trace["mode"] for trace in opened.traces()] == [MARKERS] * 3  # each objective against each
    opened.show("three", view="front")
    assert [trace["mode"] for trace in opened.traces()] == [MARKERS]


def test_a_click_on_a_point_shows_the_network(opened: _Opened) -> None:
    opened.show("one", x="params")
    place = opened.browser.run(
        "(() => { const points = document.querySelectorAll('#plot .scatterlayer .trace:last-child .point');"
        "const box = points[points.length - 1].getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2] })()"
    )
    opened.browser.click(*place)
    opened.browser.wait("!document.querySelector('#details').hidden")
    opened.browser.wait("document.querySelector('#drawing').naturalWidth")
    words = shlex.split(opened.text("#export"))
    assert words[:2] == ["gennape", "export"]
    assert words[words.index("--workspace") + 1] == str(opened.workspace)
    assert " FLOPs" in opened.text("#measures")
    assert opened.text("#architecture").startswith('["hiaml_')
    opened.browser.press("Escape")
    assert opened.browser.run("document.querySelector('#details').hidden")


def test_names_of_runs_are_text(opened: _Opened) -> None:
    opened.show(HARM)
    opened.browser.run("document.querySelector('#rows button').click()")
    opened.browser.wait("!document.querySelector('#details').hidden")
    assert HARM in opened.text("#measures")
    assert opened.traces()[0]["text"][0].startswith("<b>&lt;img src=x")
    assert opened.browser.run("document.querySelectorAll('img[src=x]').length") == 0
    assert opened.browser.run("window.harm") is None


def test_it_can_be_used_by_keys(opened: _Opened) -> None:
    opened.browser.go("about:blank")
    opened.browser.go(f"{opened.address}/#")
    opened.browser.wait("document.querySelectorAll('#runs input').length")
    opened.browser.run("document.querySelector('#runs input[value=one]').focus()")
    opened.browser.press("Space")
    opened.browser.wait("Boolean(document.querySelector('#rows button'))")
    assert opened.browser.run("document.activeElement.value") == "one"  # although the list was drawn anew
    opened.browser.run("document.querySelector('#rows button').focus()")
    opened.browser.press("Enter")
    opened.browser.wait("!document.querySelector('#details').hidden")
    assert opened.browser.run("document.activeElement.id") == "which"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1280])
def test_nothing_is_cut_off_at_any_width(opened: _Opened, width: int, scheme: str) -> None:
    opened.browser.resize(width, 900)
    opened.browser.scheme(scheme)
    opened.show("one", "two")
    opened.browser.run("document.querySelector('#rows button').click()")
    opened.browser.wait("!document.querySelector('#details').hidden")
    assert opened.browser.run("document.documentElement.scrollWidth") <= width
    assert opened.browser.run("document.querySelector('#plot .main-svg').getBoundingClientRect().height") > 250
    ink, paper = opened.browser.run(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        ".map((one) => Number(one.match(/\\d+/)[0]))"
    )
    assert (ink > paper) == (scheme == "dark")
    opened.browser.resize(1280, 900)
    opened.browser.scheme("light")
