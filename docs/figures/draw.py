"""Draws the figures of the concept pages: ``python docs/figures/draw.py`` writes them beside this file."""

from __future__ import annotations

from html import escape
from pathlib import Path

_STYLE = """<style>
text { font: 13px Helvetica, Arial, 'DejaVu Sans', sans-serif; fill: #1f2933; text-anchor: middle }
.small { font-size: 11px; fill: #52606d } .paper { fill: #ffffff }
.box { stroke: #52606d; stroke-width: 1.2 } .line { fill: none; stroke: #52606d; stroke-width: 1.4 }
.dashed { stroke-dasharray: 5 4 } .tip { fill: #52606d }
</style>"""
GREY, BLUE, GREEN, ORANGE, VIOLET = "#eef2f6", "#d6e6fb", "#d9f2e3", "#fde8cf", "#e8defb"


class Drawing:
    """Boxes, arrows and captions on a sheet of ``width`` x ``height`` pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def box(self, x: int, y: int, text: str, fill: str = GREY, width: int = 130, height: int = 44) -> None:
        """A box centred on (x, y); lines of text are parted by ``\\n``, the second and later ones small."""
        self.parts.append(
            f'<rect class="box" x="{x - width // 2}" y="{y - height // 2}" width="{width}" height="{height}" rx="6" '
            f'fill="{fill}"/>'
        )
        lines = text.split("\n")
        for i, line in enumerate(lines):
            self.caption(x, round(y + 5 + 15 * (i - (len(lines) - 1) / 2)), line, small=i > 0)

    def caption(self, x: int, y: int, text: str, small: bool = True) -> None:
        """One line of text centred on x."""
        kind = ' class="small"' if small else ""
        self.parts.append(f'<text{kind} x="{x}" y="{y}">{escape(text)}</text>')

    def arrow(self, *points: tuple[int, int], dashed: bool = False) -> None:
        """A line through the points with a tip at the last."""
        path = "M" + " L".join(f"{x} {y}" for x, y in points)
        kind = "line dashed" if dashed else "line"
        self.parts.append(f'<path class="{kind}" d="{path}" marker-end="url(#tip)"/>')

    def svg(self) -> str:
        """The picture."""
        marker = (
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path class="tip" d="M0 0 L10 5 L0 10 z"/></marker></defs>'
        )
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" role="img">'
        )
        sheet = f'<rect class="paper" width="{self.width}" height="{self.height}" rx="8"/>'
        title = f"<title>{escape(self.title)}</title>"
        return "\n".join([head, title, _STYLE, marker, sheet, *self.parts, "</svg>", ""])


def computation_graph() -> Drawing:
    """A residual block as primitive operations, and the arrays that hold it."""
    d = Drawing(760, 310, "A residual block as a computation graph, and the arrays that hold it")
    ys = [40, 100, 160, 220]
    d.box(90, ys[0], "input\n3 x 32 x 32", BLUE)
    d.box(90, ys[1], "conv 3x3\n3 → 16", ORANGE)
    d.box(90, ys[2], "batch norm", GREY)
    d.box(90, ys[3], "relu", GREY)
    d.box(270, ys[3], "conv 3x3\n16 → 16", ORANGE)
    d.box(270, ys[2], "batch norm", GREY)
    d.box(270, ys[1], "add", GREEN)
    d.box(270, ys[0], "mean, linear\n16 → 10, output", BLUE)
    for a, b in zip(ys, ys[1:], strict=False):
        d.arrow((90, a + 22), (90, b - 22))
    d.arrow((155, ys[3]), (205, ys[3]))
    d.arrow((270, ys[3] - 22), (270, ys[2] + 22))
    d.arrow((270, ys[2] - 22), (270, ys[1] + 22))
    d.arrow((270, ys[1] - 22), (270, ys[0] + 22))
    d.arrow((155, ys[3] - 10), (180, ys[3] - 10), (180, ys[1]), (205, ys[1]))
    d.caption(180, 280, "one node per operation, one edge per tensor")
    d.box(
        560,
        80,
        "nodes  int32 [n, 26]\noperation, sizes in and out, kernel, stride,\npadding, groups, bias, …",
        VIOLET,
        320,
        70,
    )
    d.box(560, 165, "scalars  float64 [n]\nepsilon, slope, exponent, constant", VIOLET, 320, 52)
    d.box(560, 240, "edges  int32 [e, 2]\nsource, target", VIOLET, 320, 52)
    d.arrow((345, 160), (392, 160))
    d.caption(560, 290, "the same network, as three arrays")
    return d


def graph_encoder() -> Drawing:
    """From a graph to an embedding, and the loss that pretraining minimises."""
    d = Drawing(760, 330, "The graph encoder and its contrastive pretraining")
    d.box(80, 80, "graph", BLUE, 100)
    d.box(230, 80, "steps\nconv-norm-act", GREY, 110)
    d.box(405, 80, "message passing\nalong and against the flow\n4 layers, 64 wide", ORANGE, 180, 66)
    d.box(580, 80, "mean, max\nover steps", GREY, 110)
    d.box(695, 80, "embedding\n32", GREEN, 84)
    for a, b in ((130, 175), (285, 315), (495, 525), (635, 653)):
        d.arrow((a, 80), (b, 80))
    d.caption(380, 28, "encoder", small=False)
    d.box(160, 190, "view 1: dropout mask 1", GREY, 190)
    d.box(160, 250, "view 2: dropout mask 2", GREY, 190)
    d.arrow((80, 102), (80, 150), (110, 150), (110, 168))
    d.box(400, 220, "similarity of embeddings\ncosine / 0.1, softmax", ORANGE, 200, 52)
    d.arrow((255, 190), (300, 210))
    d.arrow((255, 250), (300, 230))
    d.box(400, 295, "similarity of Laplacian spectra\n-distance / 0.02, softmax", VIOLET, 220, 48)
    d.box(640, 250, "cross-entropy\nGENNAPE, Eq. 1", GREEN, 150, 52)
    d.arrow((500, 225), (565, 242))
    d.arrow((510, 290), (565, 262))
    d.arrow((60, 102), (60, 295), (290, 295))
    return d


def fuzzy_ensemble() -> Drawing:
    """Memberships weight one head per cluster; members, law and labels around them."""
    d = Drawing(760, 360, "The fuzzy ensemble")
    d.box(80, 150, "embedding", GREEN, 110)
    d.box(240, 70, "fuzzy c-means\n6 clusters", VIOLET, 130, 48)
    d.box(240, 150, "head of cluster 1", ORANGE)
    d.box(240, 200, "…", ORANGE)
    d.box(240, 250, "head of cluster 6", ORANGE)
    d.arrow((110, 128), (172, 80))
    d.arrow((135, 150), (175, 150))
    d.arrow((135, 160), (175, 200))
    d.arrow((120, 172), (175, 245))
    d.box(420, 150, "Σ membership x\nhead output", GREY, 130, 52)
    d.arrow((305, 150), (355, 150))
    d.arrow((305, 200), (355, 160))
    d.arrow((305, 250), (370, 176))
    d.arrow((305, 70), (400, 70), (400, 124), dashed=True)
    d.caption(395, 58, "memberships, sum to 1")
    d.box(420, 250, "other members\npairwise, k-GNN, FLOPs", ORANGE, 150, 48)
    d.box(420, 320, "scaling law\nsize, pools, shortest path", BLUE, 160, 48)
    d.box(590, 190, "stacked\nmembers", GREY, 90, 52)
    d.arrow((485, 155), (545, 180))
    d.arrow((495, 245), (545, 205))
    d.box(690, 255, "zero-shot\naccuracy", GREEN, 100, 52)
    d.arrow((635, 195), (680, 229))
    d.arrow((500, 318), (650, 281))
    d.caption(640, 320, "weighted by the in-distribution score")
    d.box(690, 90, "Gaussian process\nsome 50 labels", VIOLET, 124, 52)
    d.arrow((720, 229), (720, 116), dashed=True)
    d.arrow((690, 64), (690, 38))
    d.caption(600, 28, "accuracy and deviation of your search space")
    return d


def search_islands() -> Drawing:
    """Islands ask one served predictor; the driver keeps the log and the front."""
    d = Drawing(760, 330, "Search islands")
    for i, y in enumerate((60, 150, 240)):
        d.box(110, y, f"island {i + 1 if i < 2 else 'n'}\nNSGA-II, own generator", ORANGE, 170, 50)
        d.arrow((195, y - 8), (300, 130 if i == 0 else 145 + 12 * i))
    d.arrow((95, 85), (95, 125))
    d.arrow((95, 175), (95, 215))
    d.arrow((25, 240), (12, 240), (12, 60), (25, 60))
    d.caption(120, 290, "migration: elites pass around the ring")
    d.box(370, 155, "served predictor\nreplicas, batched", GREEN, 140, 60)
    d.caption(370, 205, "graphs in, accuracy back")
    d.box(590, 80, "driver\nrounds, budget, islands", GREY, 170, 50)
    d.box(590, 170, "evaluations/\nappend-only log (Parquet)", BLUE, 190, 50)
    d.box(590, 255, "state.npz, report/front.csv", BLUE, 190, 44)
    d.arrow((195, 45), (350, 45), (350, 72), (505, 72))
    d.caption(430, 62, "evaluations")
    d.arrow((590, 105), (590, 145))
    d.arrow((675, 80), (720, 80), (720, 255), (685, 255))
    d.caption(590, 305, "a resumed search continues from these")
    return d


FIGURES = {
    "computation-graph": computation_graph,
    "graph-encoder": graph_encoder,
    "fuzzy-ensemble": fuzzy_ensemble,
    "search-islands": search_islands,
}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        Path(__file__).with_name(f"{name}.svg").write_text(draw().svg())
