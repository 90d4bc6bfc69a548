"""What notebooks show: drawings of networks, and bars of progress that need no extension."""

from __future__ import annotations

import html
import sys
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gennape.search_spaces.graphs.graph import ComputationGraph

#: Networks of more nodes are drawn folded.
MAX_PLAIN_NODES = 40


def drawing(graph: ComputationGraph) -> str:
    """A graph as HTML: its picture (SVG) with its costs as the title."""
    from gennape.search_spaces.drawing.diagram import plain_diagram  # noqa: PLC0415 (only where a graph is shown)
    from gennape.search_spaces.drawing.folding import folded_diagram  # noqa: PLC0415
    from gennape.search_spaces.drawing.layout import lay_out  # noqa: PLC0415
    from gennape.search_spaces.drawing.summary import cost_line  # noqa: PLC0415
    from gennape.search_spaces.drawing.svg import svg  # noqa: PLC0415

    diagram = (plain_diagram if graph.n_nodes <= MAX_PLAIN_NODES else folded_diagram)(graph)
    return svg(lay_out(diagram, cost_line(graph)))


def shell() -> Any | None:
    """IPython's shell where this process is the kernel of a notebook, else None."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    found = None if get_shell is None else get_shell()
    return found if type(found).__name__ == "ZMQInteractiveShell" else None


class NotebookBar:
    """A bar in the output of a cell, which is replaced as work goes on.

    Args:
        publish: The shell that shows it, as :func:`shell` gives.
        what: What is being done.
        total: How many steps there are; None if that is not known.
    """

    def __init__(self, publish: Any, what: str, total: int | None) -> None:
        self._publish = publish
        self._what = what
        self._total = total
        self._id = uuid.uuid4().hex
        self._shown = False
        self.show(0)

    def show(self, done: int, note: str = "") -> None:
        """Bring the bar up to date."""
        of = "" if self._total is None else f"/{self._total}"
        value = "" if self._total is None else f' value="{done}" max="{self._total}"'
        text = f"{html.escape(self._what)} <progress{value}></progress> {done}{of} {html.escape(note)}"
        self._publish.display_pub.publish(
            {"text/html": text, "text/plain": f"{self._what} {done}{of} {note}".rstrip()},
            transient={"display_id": self._id},
            update=self._shown,
        )
        self._shown = True
