"""Read an ONNX file, draw it, and write it as ONNX again. Without a file, a network of NAS-Bench-201 is written first.

python examples/onnx_model.py model.onnx --shape 3 224 224
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import gennape as gp
from gennape.search_spaces.drawing.files import draw
from gennape.search_spaces.drawing.folding import folded_diagram


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=Path("network.onnx"))
    parser.add_argument("--shape", nargs=3, type=int, help="channels, height, width, if the file leaves them open")
    parser.add_argument("--drawing", type=Path, default=Path("network.svg"))
    parser.add_argument("--to", type=Path, default=Path("again.onnx"))
    arguments = parser.parse_args()

    if not arguments.model.exists():
        space = gp.family("nb201")
        gp.to_onnx(space.graph(space.sample(np.random.default_rng(0), 1)[0]), arguments.model)

    graph = gp.from_onnx(arguments.model, None if arguments.shape is None else tuple(arguments.shape))
    print(f"{graph}: {gp.flops(graph) / 1e6:.1f} MFLOPs, {gp.params(graph) / 1e6:.2f} M parameters")
    print(f"predicted accuracy {gp.load_pretrained().predict(gp.pack([graph])).accuracy[0]:.2f} %")

    draw(folded_diagram(graph), arguments.model.name, arguments.drawing)
    gp.to_onnx(graph, arguments.to)
    print(f"written: {arguments.drawing}, {arguments.to}; the same graph: {gp.from_onnx(arguments.to) == graph}")


if __name__ == "__main__":
    main()
