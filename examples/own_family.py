"""A search space of your own: sample it, price it, and search it without training a network.

python examples/own_family.py --evaluations 2000 --population 100
"""

import argparse

import gennape as gp


class Plain(gp.SearchSpace):
    name = "plain"
    genes = (*(gp.Gene(f"kernel {i}", (1, 3, 5, 7)) for i in range(4)), gp.Gene("width", (16, 24, 32, 48)))

    def emit(self, b, genome):
        *kernels, width = self.values(genome)
        x = b.input(3, 32, 32)
        for i, kernel in enumerate(kernels):
            x = b.relu(b.batchnorm(b.conv(x, width << i, kernel, stride=1 + i % 2)))
        return b.linear(b.mean(x), 10)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--population", type=int, default=10)
    arguments = parser.parse_args()

    result = gp.search(Plain(), evaluations=arguments.evaluations, population=arguments.population)
    print(result)
    print(result.front[["accuracy", "flops", "architecture"]])
