"""Networks that a user gives a search to begin with."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from gennape.errors import ConfigError, InvalidDataError, WorkspaceError
from gennape.platform.search import starting
from gennape.platform.search.config import search_config, space_of
from gennape.platform.search.driver import run_search
from gennape.platform.search.front import front_frame, front_of
from gennape.platform.search.given_starts import given_genomes, read_starts
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.log import read_log
from gennape.platform.search.runs import create_run, describe_run
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.families.subspace import parse_fix, subspace

SPACE = family("hiaml")
GENOMES = SPACE.sample(np.random.default_rng(9), 7)
ARCHITECTURES = [SPACE.encode(genome) for genome in GENOMES]
TEXTS = tuple(json.dumps(one) for one in ARCHITECTURES)


def run(config, folder):
    folder.mkdir(exist_ok=True)
    return run_search(config, folder, LocalIslands(config, SyntheticPredictor()))


def small(**given):
    return search_config(**{"space": "hiaml", "evaluations": 100, "population": 15, "seed": 1} | given)


def written(folder):
    """The same networks in every form."""
    (folder / "list.json").write_text(json.dumps(ARCHITECTURES))
    (folder / "lines.jsonl").write_text("\n".join(TEXTS) + "\n\n")
    (folder / "held.json").write_text(json.dumps([{"architecture": one, "accuracy": 1} for one in ARCHITECTURES]))
    pd.DataFrame({"architecture": TEXTS}).to_csv(folder / "table.csv", index=False)
    pd.DataFrame({"architecture": TEXTS}).to_parquet(folder / "table.parquet")
    return [folder / name for name in ("list.json", "lines.jsonl", "held.json", "table.csv", "table.parquet")]


def test_every_form_is_read(tmp_path):
    for path in written(tmp_path):
        assert read_starts(str(path), SPACE, tmp_path) == TEXTS, path
    assert read_starts([*ARCHITECTURES, ARCHITECTURES[0]], SPACE, tmp_path) == TEXTS


def test_the_front_of_a_run_is_read_and_its_csv(tmp_path):
    folder = create_run(tmp_path, "hiaml", 1)
    config = small(evaluations=40)
    describe_run(folder, config)
    result = run(config, folder)
    front = front_frame(front_of(read_log(folder, 4), config.directed), config.directed)
    front.to_csv(tmp_path / "front.csv", index=False)
    expected = tuple(result.front["architecture"])
    assert read_starts(folder.name, SPACE, tmp_path) == expected
    assert read_starts("latest", SPACE, tmp_path) == expected
    assert read_starts(str(tmp_path / "front.csv"), SPACE, tmp_path) == expected
    with pytest.raises(ConfigError, match="is a search of hiaml; its front cannot start one of nb201"):
        read_starts(folder.name, family("nb201"), tmp_path)


@pytest.mark.parametrize("islands", [1, 3])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_first_generation_holds_them(tmp_path, islands, asynchronous):
    config = small(starts=TEXTS, islands=islands, asynchronous=asynchronous)
    result = run(config, tmp_path / "run")
    first = result.evaluations[result.evaluations["generation"] == 0]
    assert set(TEXTS) <= set(first["architecture"])
    assert len(result.evaluations) == 100
    dealt = [given_genomes(config, SPACE, island) for island in range(islands)]
    assert np.unique(np.concatenate(dealt), axis=0).tolist() == np.unique(GENOMES, axis=0).tolist()
    for island, genomes in enumerate(dealt):
        texts = {json.dumps(SPACE.encode(genome)) for genome in genomes}
        mine = first[first["architecture"].isin(texts)]
        assert (mine["island"] == island).all() or asynchronous
    again = run(config, tmp_path / "again")
    if not asynchronous:
        pd.testing.assert_frame_equal(again.evaluations, result.evaluations)
    assert search_config(**config.model_dump(mode="json")) == config


def test_a_searcher_breeds_from_them(tmp_path, monkeypatch):
    """A network far better than the sample is soon the parent of others: its neighbours are asked for."""
    monkeypatch.setattr(starting, "extreme_genomes", lambda space, _: np.zeros((0, len(space.genes)), np.int64))
    space = family("ofa_mbv3")
    best = space.canonical(np.array([[24, *[2] * 5, *[8] * 20]]))[0]  # the largest: highest by this predictor
    text = json.dumps(space.encode(best))
    given = {"space": "ofa_mbv3", "evaluations": 60, "population": 10, "islands": 1, "objectives": "params:max"}
    begun, plain = (run(search_config(**given, starts=s), tmp_path / n) for n, s in (("a", (text,)), ("b", ())))
    assert begun.front["params"].max() > plain.front["params"].max()
    later = begun.evaluations[begun.evaluations["generation"] > 1]
    assert later["params"].median() > plain.evaluations["params"].median()


def test_more_than_the_budget_are_cut(tmp_path):
    result = run(small(starts=TEXTS, evaluations=4, islands=1), tmp_path / "run")
    assert result.evaluations["architecture"].tolist() == list(TEXTS[:4])


def test_networks_that_are_not_of_the_space_are_named(tmp_path):
    rows = [*TEXTS[:2], '["x"]', TEXTS[3], '"y"']
    pd.DataFrame({"architecture": rows}).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(InvalidDataError, match=r"hiaml has not, 2 in all: .*bad\.csv, row 3: .*; .*bad\.csv, row 5: "):
        read_starts(str(tmp_path / "bad.csv"), SPACE, tmp_path)
    with pytest.raises(InvalidDataError, match="architecture 1: hiaml"):
        read_starts([ARCHITECTURES[0], {"depth": 3}], SPACE, tmp_path)
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(InvalidDataError, match="holds no architectures to start with"):
        read_starts(str(tmp_path / "none.json"), SPACE, tmp_path)
    with pytest.raises(InvalidDataError, match=r"absent\.csv does not exist"):
        read_starts("absent.csv", SPACE, tmp_path)
    with pytest.raises(WorkspaceError, match="no run 'yesterday'"):
        read_starts("yesterday", SPACE, tmp_path)
    (tmp_path / "net.txt").write_text("x")
    with pytest.raises(InvalidDataError, match="is no file of architectures; those end in"):
        read_starts(str(tmp_path / "net.txt"), SPACE, tmp_path)


def test_those_outside_the_part_that_is_searched_are_named(tmp_path):
    kept = str(ARCHITECTURES[0][0])
    part = subspace(SPACE, [parse_fix(f"block of stage 1={kept}")])
    inside = [one for one in ARCHITECTURES if one[0] == kept]
    assert read_starts(inside, part, tmp_path) == tuple(map(json.dumps, inside))
    with pytest.raises(InvalidDataError, match=f"outside of block of stage 1={kept}"):
        read_starts(ARCHITECTURES, part, tmp_path)
    config = small(fixed=[f"block of stage 1={kept}"], starts=tuple(map(json.dumps, inside)), islands=1)
    assert config.fixed == (f"block of stage 1={kept}",)
    result = run(config, tmp_path / "run")
    assert all(json.loads(text)[0] == kept for text in result.evaluations["architecture"])
    assert repr(space_of(config)) == repr(part)
