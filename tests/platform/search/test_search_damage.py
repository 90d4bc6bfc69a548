"""Files of a run that were damaged: an error of ours that names the file, or what was written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import WorkspaceError
from gennape.platform.search.config import search_config
from gennape.platform.search.driver import run_search
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.log import read_measure_table, read_shard, read_table, same, shard
from gennape.platform.search.searchers.testing import SyntheticPredictor
from gennape.platform.search.state import STATE, load_state

CONFIG = search_config(space="hiaml", evaluations=40, population=10, islands=2)
PLACES = st.floats(0, 1, exclude_max=True)  # as a fraction of the file
DAMAGE = st.one_of(
    st.lists(st.tuples(PLACES, st.integers(0, 255)), min_size=1, max_size=3),  # bytes that became others
    PLACES,  # where it was cut off
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("run")
    run_search(CONFIG, made, LocalIslands(CONFIG, SyntheticPredictor()))
    return made


def damaged(content, damage):
    if isinstance(damage, float):
        return content[: int(damage * len(content))]
    changed = bytearray(content)
    for place, value in damage:
        changed[int(place * len(content))] = value
    return bytes(changed)


def attempt(path, damage, *reads):
    """Read a damaged file in several ways; it is whole again afterwards. Returns what could be read."""
    content, made, told = path.read_bytes(), [], []
    path.write_bytes(damaged(content, damage))
    try:
        for read in reads:
            try:
                made.append(read())
            except WorkspaceError as error:
                told.append(str(error))
    finally:
        path.write_bytes(content)
    assert all(str(path.parent) in text for text in told)
    return made


@given(DAMAGE)
@settings(max_examples=40, deadline=None)
def test_a_damaged_state_is_told_or_is_the_state(folder, damage):
    expected = load_state(folder, CONFIG, 4)
    for got in attempt(folder / STATE, damage, lambda: load_state(folder, CONFIG, 4)):
        assert (got.log, got.steps, got.rounds) == (expected.log, expected.steps, expected.rounds)
        for one, other in zip(got.searchers, expected.searchers, strict=True):
            assert {key: array.tolist() for key, array in one.items()} == {k: a.tolist() for k, a in other.items()}


@given(DAMAGE)
@settings(max_examples=40, deadline=None)
def test_a_damaged_shard_is_told_or_is_the_shard(folder, damage):
    expected = read_shard(folder, 0)
    reads = (lambda: read_shard(folder, 0), lambda: read_table(folder), lambda: read_measure_table(folder))
    for got in attempt(shard(folder, 0), damage, *reads)[:1]:
        assert same(got, expected) if hasattr(got, "hashes") else len(got)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"version": 2}', b'{"version": 2, "generation": []}'])
def test_a_header_of_something_else_is_told(content, tmp_path):
    np.savez(tmp_path / STATE, header=np.frombuffer(content, np.uint8))
    with pytest.raises(WorkspaceError, match=r"cannot read .*state\.npz"):
        load_state(tmp_path, CONFIG, 4)
