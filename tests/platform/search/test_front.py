"""The front, its hypervolume and the elites, against brute force and worked examples."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gennape.platform.search.evaluations import Evaluations, as_objects, concatenate, none_evaluated
from gennape.platform.search.front import elites, extend_front, front_frame, front_of, hypervolume, reference_point
from gennape.platform.search.objectives import minimised, parse_objectives
from gennape.search_spaces.families.registry import family

ACCURACY_FLOPS = parse_objectives("accuracy:max,flops:min")
SPACE = family("hiaml")
SIZES = st.integers(1, 30)
POINTS = SIZES.flatmap(lambda n: hnp.arrays(np.float64, (n, 2), elements=st.integers(0, 8).map(float)))


def evaluations(points, island=0, generation=0):
    """Evaluations of the given (accuracy, flops)."""
    points = np.asarray(points, float).reshape(-1, 2)
    n = len(points)
    values = np.stack([points[:, 0], points[:, 1], points[:, 1] // 2, points[:, 1] * 3], axis=1)
    genomes = np.stack(np.unravel_index(np.arange(n) + 100 * generation, (14, 14, 14, 14)), axis=1).astype(np.int64)
    hashes = np.array([f"{i + 100 * generation:032x}" for i in range(n)], "U32")
    whose = np.full(n, island, np.int64)
    states = np.where(np.isfinite(values).all(1), "DONE", "INFEASIBLE").astype("U10")
    born = np.full(n, generation, np.int64)
    texts = as_objects([json.dumps(SPACE.encode(genome)) for genome in genomes])
    return Evaluations(hashes, genomes, values, np.full((n, 3), 1 / 3), whose, born, states, texts)


def dominates(a, b):
    return (a <= b).all() and (a < b).any()


@settings(max_examples=60, deadline=None)
@given(POINTS)
def test_front_is_what_brute_force_says(points):
    rows = evaluations(points)
    minimal = minimised(rows.values, ACCURACY_FLOPS)
    expected = [
        i
        for i, p in enumerate(minimal)
        if not any(dominates(q, p) for q in minimal) and not any((q == p).all() for q in minimal[:i])
    ]
    assert front_of(rows, ACCURACY_FLOPS).hashes.tolist() == rows.hashes[expected].tolist()


@settings(max_examples=60, deadline=None)
@given(POINTS, POINTS)
def test_extending_the_front_equals_filtering_everything(first, second):
    a, b = evaluations(first), evaluations(second, generation=1)
    grown = extend_front(extend_front(none_evaluated(4), a, ACCURACY_FLOPS), b, ACCURACY_FLOPS)
    whole = front_of(concatenate([a, b]), ACCURACY_FLOPS)
    assert grown.hashes.tolist() == whole.hashes.tolist()


def test_rows_without_an_answer_are_never_on_the_front():
    rows = evaluations([[np.nan, 1], [50, 2], [np.inf, 1]])
    assert front_of(rows, ACCURACY_FLOPS).hashes.tolist() == [rows.hashes[1]]
    assert len(front_of(rows.take([0, 2]), ACCURACY_FLOPS)) == 0


def test_hypervolume_of_two_points_by_hand():
    # Accuracies 90 and 80 at 6 and 2 FLOPs. First population: accuracy 60..90, flops 2..12; a tenth of the range beyond
    # the worst is accuracy 57 and 13 flops. Rectangles: (90 - 57) * (13 - 6) + (80 - 57) * (6 - 2) = 231 + 92.
    first = evaluations([[90, 6], [80, 2], [60, 12]])
    reference = reference_point(first, ACCURACY_FLOPS)
    np.testing.assert_allclose(reference, [-57, 13])
    assert hypervolume(front_of(first, ACCURACY_FLOPS), ACCURACY_FLOPS, reference) == pytest.approx(323)
    assert hypervolume(none_evaluated(4), ACCURACY_FLOPS, reference) == 0


def test_reference_point_of_equal_values_still_leaves_a_volume():
    same = evaluations([[50, 10], [50, 10]])
    reference = reference_point(same, ACCURACY_FLOPS)
    assert hypervolume(front_of(same, ACCURACY_FLOPS), ACCURACY_FLOPS, reference) > 0


def test_elites_are_on_the_front_and_hold_both_ends():
    front = [[90 - i, 10 - i] for i in range(8)]
    rows = evaluations([*front, [1, 99], [2, 98]])
    picked = elites(rows, ACCURACY_FLOPS, 3)
    assert picked.values[:, 0].tolist()[0] == 90
    assert picked.values[:, 0].tolist()[-1] == 83
    assert len(picked) == 3
    assert len(elites(rows, ACCURACY_FLOPS, 50)) == 8
    assert len(elites(rows, ACCURACY_FLOPS, 0)) == 0


def test_frame_is_sorted_best_first_in_natural_units():
    rows = evaluations([[80, 2], [90, 6]])
    frame = front_frame(front_of(rows, ACCURACY_FLOPS), ACCURACY_FLOPS)
    assert list(frame.columns) == ["index", "architecture", "accuracy", "deviation", "flops", "macs", "params", "hash"]
    assert frame["deviation"].isna().all()
    assert frame["accuracy"].tolist() == [90, 80]
    assert frame["flops"].tolist() == [6, 2]
    assert frame["flops"].dtype == np.int64
    assert frame["index"].tolist() == [0, 1]
    assert json.loads(frame["architecture"][1]) == SPACE.encode(rows.genomes[0])
    by_params = front_frame(rows, parse_objectives("params:min,accuracy:max"))
    assert list(by_params.columns) == list(frame.columns)
    assert by_params["params"].tolist() == [6, 18]
