"""Search a space, take the best network within a FLOPs limit, and write it as ONNX.

python examples/first_search.py --space ofa_mbv3 --evaluations 5000
"""

from __future__ import annotations

import argparse
import json

import gennape as gp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="hiaml")
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--population", type=int, default=20)
    parser.add_argument("--to", default="best.onnx")
    arguments = parser.parse_args()

    result = gp.search(arguments.space, evaluations=arguments.evaluations, population=arguments.population, seed=0)
    print(result.front[["accuracy", "flops", "params"]])

    best = result.best(flops=result.front["flops"].median())
    space = gp.family(arguments.space)
    graph = space.graph(space.decode(json.loads(best["architecture"])))
    gp.to_onnx(graph, arguments.to)
    print(f"{graph}: {best['accuracy']:.2f} %, {best['flops'] / 1e6:.0f} MFLOPs, written to {arguments.to}")


if __name__ == "__main__":
    main()
