"""Predict accuracy and cost of your own PyTorch module, beside networks of a search space.

python examples/predict_my_network.py --width 64 --depth 6 --others 500
"""

from __future__ import annotations

import argparse

import numpy as np
from torch import nn

import gennape as gp


def my_network(width: int, depth: int) -> nn.Module:
    widths = [3, *(width << (3 * i // depth) for i in range(depth))]
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        stride = 2 if before not in (3, after) else 1
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--others", type=int, default=50)
    arguments = parser.parse_args()

    mine = gp.from_torch(my_network(arguments.width, arguments.depth), (3, 32, 32))
    space = gp.family("nb201")
    others = space.graphs(space.sample(np.random.default_rng(0), arguments.others))
    predictor = gp.load_pretrained(zero_shot=True)  # one scale for both, that of NAS-Bench-101
    accuracy = float(predictor.predict(gp.pack([mine])).accuracy[0])
    share = np.mean(predictor.predict(others).accuracy < accuracy)
    print(f"{mine}: {accuracy:.2f} %, {gp.flops(mine) / 1e6:.1f} MFLOPs, {gp.params(mine) / 1e6:.2f} M parameters")
    print(f"above {share:.0%} of {len(others)} random networks of {space.name}")


if __name__ == "__main__":
    main()
