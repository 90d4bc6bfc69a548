"""A search algorithm of your own, and the checks it must pass: python examples/own_searcher.py --generations 50"""

import argparse

import numpy as np

import gennape as gp
from gennape.platform.search.searchers.testing import CHECKS, toy_objectives


class HillClimbing(gp.Searcher):
    name = "hill-climbing"

    def __init__(self, space, objectives, population, rng):
        super().__init__(space, objectives, population, rng)
        self.genomes, self.scores = np.zeros((0, len(space.genes)), np.int64), np.zeros(0)

    def ask(self):
        if not len(self.genomes):
            return self.space.sample(self.rng, self.population)
        return self.space.mutate(np.resize(self.genomes, (self.population, len(self.space.genes))), self.rng)

    def tell(self, genomes, objectives):
        self.check(genomes, objectives)
        scores = np.concatenate([self.scores, objectives.sum(1)])  # objectives are minimised
        best = np.argsort(scores, kind="stable")[: self.population // 2]
        self.genomes, self.scores = np.concatenate([self.genomes, genomes])[best], scores[best]

    def state(self):
        return {**super().state(), "genomes": self.genomes.copy(), "scores": self.scores.copy()}

    def restore(self, state):
        super().restore(state)
        self.genomes, self.scores = state["genomes"], state["scores"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--generations", type=int, default=10)
    space = gp.family("hiaml")
    print("passed:", [check(HillClimbing, space, 0) or check.__name__ for check in CHECKS])
    searcher = HillClimbing(space, 2, 20, np.random.default_rng(0))
    for _ in range(parser.parse_args().generations):
        genomes = searcher.ask()
        searcher.tell(genomes, toy_objectives(genomes))
    print(f"best: {searcher.scores[0]:g}, {space.encode(searcher.genomes[0])}")
