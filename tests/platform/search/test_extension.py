"""A larger budget for a search that has ended: the result is that of the larger budget from the beginning."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.platform.search import extension
from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.extension import extend
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.log import SHARDS, read_log, read_shard, same
from gennape.platform.search.runs import config_of, describe_run
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from pathlib import Path

    from gennape.platform.search.driver import SearchResult

GENES = len(family("hiaml").genes)


def _run(folder: Path, **settings: object) -> SearchResult:
    """Begin a search, or with no settings go on with it."""
    if settings:
        folder.mkdir()
        describe_run(
            folder, search_config(**{"space": "hiaml", "population": 20, "batch": 20, "migration_every": 2, **settings})
        )
    config = config_of(folder)
    return run_search(config, folder, LocalIslands(config, SyntheticPredictor()))


def _same(one: SearchResult, other: SearchResult) -> None:
    pd.testing.assert_frame_equal(one.evaluations, other.evaluations)
    pd.testing.assert_frame_equal(one.front, other.front)
    assert one.hypervolume == other.hypervolume


@settings(max_examples=examples(8), deadline=None)
@given(
    budgets=st.lists(st.integers(1, 260), min_size=2, max_size=3, unique=True).map(sorted),
    islands=st.integers(1, 3),
    searcher=st.sampled_from(["nsga2", "random"]),
    seed=st.integers(0, 5),
)
def test_a_search_that_is_extended_is_one_that_had_the_budget_from_the_beginning(
    tmp_path_factory: pytest.TempPathFactory, budgets: list[int], islands: int, searcher: str, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    chosen = {"islands": islands, "searcher": searcher, "seed": seed}
    result = _run(folder / "extended", evaluations=budgets[0], **chosen)
    for more in budgets[1:]:
        assert len(result.evaluations) == config_of(folder / "extended").evaluations
        extend(folder / "extended", more)
        result = _run(folder / "extended")
    _same(result, _run(folder / "whole", evaluations=budgets[-1], **chosen))


def test_what_was_cut_short_is_kept_aside_and_comes_again(tmp_path: Path) -> None:
    _run(tmp_path / "run", evaluations=50)  # of 40 genomes in a generation: the second is cut short
    before, first = read_log(tmp_path / "run", GENES), read_shard(tmp_path / "run", 0)
    extend(tmp_path / "run", 100)
    assert sorted(path.name for path in (tmp_path / "run" / "superseded").iterdir())[0] == "000001.parquet"
    assert same(read_log(tmp_path / "run", GENES), first)
    result = _run(tmp_path / "run")
    assert set(before.hashes) <= set(result.evaluations["hash"])


@pytest.mark.parametrize("budget", [10, 50])
def test_an_extension_that_is_killed_anywhere_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    whole = _run(tmp_path / "whole", evaluations=130)
    former = _run(tmp_path / "former", evaluations=budget)
    for moment in range(4):
        folder, calls = tmp_path / f"run-{moment}", []
        _run(folder, evaluations=budget)

        def replace(source: Path, to: Path, moment: int = moment, calls: list[Path] = calls) -> None:
            calls.append(source)
            if len(calls) > moment:
                raise KeyboardInterrupt
            os.rename(source, to)

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):  # of some there are fewer moments
            patch.setattr(extension.os, "replace", replace)
            extend(folder, 130)
        again = config_of(folder).evaluations
        _same(_run(folder), whole if again == 130 else former)
        if again == budget:
            extend(folder, 130)
            _same(_run(folder), whole)


def test_asynchronous_islands_go_on_from_where_they_stand(tmp_path: Path) -> None:
    first = _run(tmp_path / "run", evaluations=50, asynchronous=True)
    extend(tmp_path / "run", 120)
    result = _run(tmp_path / "run")
    assert set(first.evaluations["hash"]) <= set(result.evaluations["hash"])
    assert result.evaluations["hash"].nunique() == len(result.evaluations) == 120
    assert not (tmp_path / "run" / "superseded").exists()


def test_a_search_of_a_former_version_goes_on_from_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("gennape.platform.search.search_run.keep_uncut", lambda *_: None)
        first = _run(tmp_path / "run", evaluations=50)
    extend(tmp_path / "run", 120)
    result = _run(tmp_path / "run")
    assert set(first.evaluations["hash"]) <= set(result.evaluations["hash"])
    assert len(result.evaluations) == 120
    assert len(list((tmp_path / "run" / SHARDS).iterdir())) > 3
