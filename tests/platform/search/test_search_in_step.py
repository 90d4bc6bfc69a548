"""What synchronous islands share: predictions that only one of them got, the last evaluations, the log."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gennape.platform.search import search_run
from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.canonical import canonical_hashes

SPACE = family("hiaml")
TWINS = search_config(space="hiaml", evaluations=60, population=20, batch=20, islands=2)


class _Stop(Exception):
    """Stands for whatever ends a process."""


class _Late:
    """Never answers about one network in time."""

    def __init__(self, digest):
        self.digest = digest

    def predict(self, graphs):
        if self.digest in canonical_hashes(graphs):
            raise TimeoutError
        return SyntheticPredictor().predict(graphs)


class Twins(LocalIslands):
    """Islands that begin by asking for the same networks; one of them is late with one network at first."""

    def __init__(self, late):
        super().__init__(TWINS, SyntheticPredictor())
        self.late = late
        self.reported = {}

    def start(self, states, findings):
        super().start(states, findings)
        for i, state in states.items():
            if state is None:
                same = np.random.default_rng(0).bit_generator.state
                self.islands[i].searcher.rng.bit_generator.state = same

    def advance(self, island, task, news):
        first = _Late(self.bad()) if (island, task.generation) == (self.late, 0) else self.evaluator
        self.islands[island].evaluator = first
        step = super().advance(island, task, news)
        self.reported[island, task.generation] = {key: array.tolist() for key, array in step.state.items()}
        return step

    def bad(self):
        genomes = SPACE.sample(np.random.default_rng(0), TWINS.population)
        return canonical_hashes(SPACE.graphs(genomes))[3]


@pytest.mark.parametrize("late", [0, 1])
def test_an_answer_that_one_island_got_is_everyones_and_outlives_a_kill(tmp_path, monkeypatch, late):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = Twins(late)
    expected = run_search(TWINS, tmp_path / "whole", whole)
    row = expected.evaluations.set_index("hash").loc[whole.bad()]
    assert (row["state"], row["generation"]) == ("DONE", 0)
    assert np.isfinite(row["accuracy"])
    assert "TIMEOUT" in (tmp_path / "whole" / "failures.jsonl").read_text()  # it was late, and that is not hidden

    def die(*_):
        raise _Stop

    monkeypatch.setattr(search_run, "save_state", die)
    with pytest.raises(_Stop):
        run_search(TWINS, tmp_path / "cut", Twins(late))
    monkeypatch.undo()
    resumed = Twins(late)
    pd.testing.assert_frame_equal(run_search(TWINS, tmp_path / "cut", resumed).evaluations, expected.evaluations)
    assert resumed.reported == whole.reported


def test_the_last_evaluations_go_to_islands_that_find_something(tmp_path):
    """One network is left, of which an island that has converged would find none."""
    config = search_config(space="hiaml", evaluations=61, islands=2, population=10, migration_every=0)

    class Converged(LocalIslands):
        def advance(self, island, task, news):
            if island == 0 and task.generation == 0:
                genomes = self.islands[0].searcher.ask()
                self.islands[0].searcher.ask = lambda: genomes
                self.islands[0].searcher.tell = lambda *_: None
            return super().advance(island, task, news)

    result = run_search(config, tmp_path, Converged(config, SyntheticPredictor()))
    assert result.reason == "all 61 evaluations are done"


def test_a_round_does_not_list_the_log(tmp_path, monkeypatch):
    config = search_config(space="hiaml", evaluations=300, islands=2, population=10)
    listed, original = [], Path.iterdir

    def iterdir(path):
        listed.append(path)
        return original(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    run_search(config, tmp_path, LocalIslands(config, SyntheticPredictor()))
    assert len(list((tmp_path / "evaluations").glob("*.parquet"))) >= 15
    assert len(listed) < 10
