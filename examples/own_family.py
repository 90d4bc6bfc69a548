"""A search space of your own: sample it, price it, and search it without training a network.

python examples/own_family.py --generations 50 --population 100
"""

import argparse

import numpy as np

import gennape as gp
from gennape.platform.search.searchers.nsga2 import NSGA2
from gennape.search_spaces.families.space import index_of, require_keys


class Plain(gp.SearchSpace):
    name = "plain"
    genes = (*(gp.Gene(f"kernel {i}", (1, 3, 5, 7)) for i in range(4)), gp.Gene("width", (16, 24, 32, 48)))

    def encode(self, genome):
        return {gene.name: gene.values[i] for gene, i in zip(self.genes, genome, strict=True)}

    def decode(self, architecture):
        fields = require_keys(architecture, [gene.name for gene in self.genes], self.name)
        return np.array([index_of(gene, fields[gene.name], self.name) for gene in self.genes], np.int64)

    def emit(self, b, genome):
        *kernels, width = self.encode(genome).values()
        x = b.input(3, 32, 32)
        for i, kernel in enumerate(kernels):
            x = b.relu(b.batchnorm(b.conv(x, width << i, kernel, stride=1 + i % 2)))
        return b.linear(b.mean(x), 10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--population", type=int, default=16)
    arguments = parser.parse_args()

    space, predictor = Plain(), gp.load_pretrained()
    searcher = NSGA2(space, 2, arguments.population, np.random.default_rng(0))  # minimises: -accuracy, FLOPs
    for generation in range(arguments.generations):
        genomes = searcher.ask()
        graphs = space.graphs(genomes)
        accuracy, cost = predictor.predict(graphs).accuracy, gp.flops(graphs)
        searcher.tell(genomes, np.stack([-accuracy, cost.astype(float)], axis=1))
        best = accuracy.argmax()
        print(f"{generation}: {accuracy[best]:.2f} %, {cost[best] / 1e6:.0f} MFLOPs, {space.encode(genomes[best])}")
