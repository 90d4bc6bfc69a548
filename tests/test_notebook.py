"""What a notebook shows: networks as drawings, and work as bars."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gennape as gp
from gennape import notebook
from gennape.jobs.shared.progress import progress_bar


class ZMQInteractiveShell:
    """The kernel of a notebook, as far as it is told what to show."""

    def __init__(self) -> None:
        self.published: list[tuple[dict[str, str], str, bool]] = []
        self.display_pub = SimpleNamespace(publish=self._publish)

    def _publish(self, data: dict[str, str], transient: dict[str, str], update: bool) -> None:
        self.published.append((data, transient["display_id"], update))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> ZMQInteractiveShell:
    shell = ZMQInteractiveShell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return shell


def test_a_graph_shows_its_drawing() -> None:
    b = gp.GraphBuilder()
    b.output(b.linear(b.mean(gp.conv_bn_relu(b, b.input(3, 32, 32), 16, 3)), 10))
    space = gp.family("ofa_mbv3")
    for graph in (b.build(), space.graphs(space.sample(np.random.default_rng(0), 1))[0]):
        shown = graph._repr_html_()
        assert shown.startswith("<svg")
        assert "FLOPs" in shown
        # A large network is folded: its picture has fewer boxes than the graph nodes.
        assert (shown.count("<rect") < graph.n_nodes) is (graph.n_nodes > notebook.MAX_PLAIN_NODES)


def test_a_bar_is_replaced_as_work_goes_on(kernel: ZMQInteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Reading <files>", 10) as advance:
        advance(3)
        advance(4, "b.csv")
    assert capsys.readouterr().err == ""
    datas, ids, updates = zip(*kernel.published, strict=True)
    assert updates == (False, True, True)
    assert len(set(ids)) == 1
    assert [data["text/plain"] for data in datas] == [
        "Reading <files> 0/10", "Reading <files> 3/10", "Reading <files> 7/10 b.csv",
    ]  # fmt: skip
    assert 'Reading &lt;files&gt; <progress value="7" max="10"></progress> 7/10 b.csv' in datas[-1]["text/html"]


def test_an_unknown_total_is_a_bar_that_only_counts(kernel: ZMQInteractiveShell) -> None:
    with progress_bar("Counting", None) as advance:
        advance(5)
    assert "<progress></progress> 5 " in kernel.published[-1][0]["text/html"]


def test_other_shells_are_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    assert notebook.shell() is None

    class TerminalInteractiveShell:
        pass

    shells: list[Any] = [None, TerminalInteractiveShell()]
    for shell in shells:
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda found=shell: found))
        assert notebook.shell() is None
