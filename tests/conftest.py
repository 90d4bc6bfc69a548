"""Shapes and types of every annotated function of the two lower rooms are checked while the tests run.

With ``pytest -n 3`` the tests that start clusters take turns in two processes, and the others run in the third, file by
file, so that what the tests of a file share is made once. Tests of clusters mostly wait, so that three processes keep
two cores busy. Each process and what it starts computes in one thread: two that compute in two threads each wait for
each other, and take up to twenty times as long.
"""

import os
from collections import Counter

import pytest
from jaxtyping import install_import_hook

#: How many processes may run tests of clusters at the same time.
CLUSTER_TURNS = 2

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when PyTorch and NumPy are imported
install_import_hook(["gennape.search_spaces", "gennape.predictors"], "beartype.beartype")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests take turns, and let those of clusters begin; pytest-xdist reads it for ``--dist loadgroup``."""
    counts = Counter(item.path for item in items if item.get_closest_marker("cluster"))
    turns = [0] * CLUSTER_TURNS
    turn_of = {}
    for path, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        turn_of[path] = turns.index(min(turns))
        turns[turn_of[path]] += count
    for item in items:
        on_cluster = item.get_closest_marker("cluster") is not None
        turn = f"cluster-{turn_of[item.path]}" if on_cluster else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(turn))
    items.sort(key=lambda item: item.get_closest_marker("cluster") is None)
