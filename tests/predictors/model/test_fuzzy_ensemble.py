from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from gennape.errors import InvalidDataError, InvalidGraphError
from gennape.predictors.encoder.features import batches_of_nodes
from gennape.predictors.ensemble.heads import ClusterHeads
from gennape.predictors.few_shot.structure import structure
from gennape.predictors.metrics import srcc
from gennape.predictors.model.fuzzy_ensemble import Fitted, FuzzyEnsemble
from gennape.predictors.target import fit_target, flops_scale
from gennape.predictors.testing import check_predictor
from gennape.search_spaces.families.registry import FAMILIES
from gennape.search_spaces.graphs.cost import params
from gennape.search_spaces.graphs.graph import ComputationGraph, PackedGraphs, pack


@pytest.fixture
def predictor(fitted: Fitted) -> FuzzyEnsemble:
    return FuzzyEnsemble(fitted, "0" * 64)


def test_heads_weigh_each_mlp_by_membership() -> None:
    torch.manual_seed(0)
    heads = ClusterHeads(clusters=2, embedding=3, hidden=4)
    x = torch.randn(5, 3)
    heads.cost_statistics.copy_(torch.tensor([0.5, 0.25, 3.0, 1.0, 0.1]))
    known = torch.cat([x, torch.full((5, 1), 2.0)], dim=1)  # (1.0 - 0.5) / 0.25
    each = [
        (torch.relu(known @ heads.first[c] + heads.first_bias[c]) @ heads.second[c] + heads.second_bias[c])[:, 0]
        for c in range(2)
    ]
    membership = torch.tensor([[0.25, 0.75]]).expand(5, 2)
    found = heads(x, membership, torch.ones(5))
    torch.testing.assert_close(found, 3.0 * 2.0 + 1.0 + 0.1 * (0.25 * each[0] + 0.75 * each[1]))


def test_the_line_is_the_least_squared_error_in_accuracy() -> None:
    """Accuracies that are exactly 80 + 5 (log10(GFLOPs + 1) + 1) are the line, whatever the heads' weights."""
    flops = np.array([10**8, 10**9, 3 * 10**9, 10**10])
    accuracy = 80 + 5 * flops_scale(flops)
    target = fit_target(accuracy, flops)
    heads = ClusterHeads(clusters=1, embedding=1, hidden=1)
    cost = 1 / flops_scale(flops)
    heads.start(cost, target.transform(accuracy, flops), target.unit(flops))
    nothing = torch.zeros(4)
    line = heads.double()(nothing[:, None], torch.ones(4, 1).double(), torch.from_numpy(cost))
    np.testing.assert_allclose(target.invert(line.detach().numpy(), flops), accuracy, atol=1e-4)


def test_members_answer_in_distribution_and_the_law_outside(predictor: FuzzyEnsemble, cells: PackedGraphs) -> None:
    trusting = predictor.predict(cells).accuracy  # everything is in distribution for an untrained network
    np.testing.assert_allclose(trusting, predictor.within.predict(predictor.encode(cells))[0], atol=2e-6)
    predictor.network.in_distribution.radius.fill_(1e-9)
    doubting = copy.copy(predictor)
    doubting._kept.zero_shot = None
    np.testing.assert_allclose(doubting.predict(cells).accuracy, doubting.law.accuracy(structure(cells)), atol=1e-6)
    assert not np.allclose(trusting, doubting.predict(cells).accuracy, atol=0.1)


def test_answers_do_not_depend_on_the_batch(predictor: FuzzyEnsemble, cells: PackedGraphs) -> None:
    together = predictor.predict(cells)
    order = np.random.default_rng(0).permutation(len(cells))
    shuffled = predictor.predict(cells.take(order))
    alone = np.concatenate([predictor.predict(cells.take(np.array([i]))).accuracy for i in range(12)])
    assert together.accuracy[order].tobytes() == shuffled.accuracy.tobytes()
    assert together.memberships[order].tobytes() == shuffled.memberships.tobytes()
    assert together.accuracy[:12].tobytes() == alone.tobytes()


def test_every_family_is_predicted(predictor: FuzzyEnsemble) -> None:
    for space in FAMILIES:
        prediction = predictor.predict(space.graphs(space.sample(np.random.default_rng(0), 3)))
        assert np.isfinite(prediction.accuracy).all()
        np.testing.assert_allclose(prediction.memberships.sum(1), 1, atol=1e-8)


def test_no_graphs_no_rows(predictor: FuzzyEnsemble) -> None:
    prediction = predictor.predict(pack([]))
    assert prediction.accuracy.shape == (0,)
    assert prediction.memberships.shape == (0, 3)


def test_an_empty_graph_is_refused(predictor: FuzzyEnsemble, cells: PackedGraphs) -> None:
    empty = ComputationGraph(cells.nodes[:0], np.zeros(0), np.zeros((0, 2), np.int32))
    with pytest.raises(InvalidGraphError, match="graph 1 holds no nodes"):
        predictor.predict(pack([cells[0], empty]))
    tuned = copy.copy(predictor).fit(cells.take(np.arange(9)), np.linspace(80, 90, 9))
    before, name = tuned.predict(cells).accuracy, tuned.sha256
    with pytest.raises(InvalidGraphError, match="graph 1 holds no nodes"):
        tuned.fit(pack([cells[0], empty]), np.array([80.0, 81.0]))
    assert tuned.sha256 == name
    assert tuned.predict(cells).accuracy.tobytes() == before.tobytes()


def test_batches_cover_all_graphs_once(cells: PackedGraphs) -> None:
    parts = list(batches_of_nodes(cells, 500))
    assert np.concatenate(parts).tolist() == list(range(len(cells)))
    assert len(parts) > 1


def test_fitting_learns_forgets_and_is_the_same_every_time(predictor: FuzzyEnsemble, cells: PackedGraphs) -> None:
    accuracy = 80 - 4 * np.log10(params(cells) / 1e5)  # the reverse of what members were fitted to
    few, rest = np.arange(20), np.arange(20, len(cells))
    untuned = predictor.predict(cells).accuracy
    tuned = copy.copy(predictor).fit(cells.take(few), accuracy[few])
    found = tuned.predict(cells)
    assert srcc(accuracy[rest], untuned[rest]) < 0
    assert srcc(accuracy[rest], found.accuracy[rest]) > 0.8
    assert found.deviation is not None
    assert (found.deviation > 0).all()
    assert tuned.sha256.startswith(predictor.sha256 + "+")
    assert predictor.predict(cells).accuracy.tobytes() == untuned.tobytes()
    again = copy.copy(tuned).fit(cells.take(few), accuracy[few])
    assert again.predict(cells).accuracy.tobytes() == found.accuracy.tobytes()
    assert again.sha256 == tuned.sha256
    none = tuned.fit(cells.take(few[:0]), accuracy[:0])
    assert none is tuned
    assert none.predict(cells).accuracy.tobytes() == untuned.tobytes()
    assert none.sha256 == predictor.sha256


def test_the_best_comes_first(predictor: FuzzyEnsemble, cells: PackedGraphs) -> None:
    order = predictor.rank(cells)
    assert sorted(order.tolist()) == list(range(len(cells)))
    assert (np.diff(predictor.predict(cells).accuracy[order]) <= 0).all()


@pytest.mark.parametrize(
    ("accuracy", "says"),
    [
        (np.ones(2), "2 labels for 3"),
        (np.array([1, np.nan, 2]), "label 1 is nan"),
        (np.array([1, 2, 100.5]), "label 2 is 100.5; .* 0 to 100"),
        (np.array([-1.0, 2, 3]), "label 0 is -1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    predictor: FuzzyEnsemble, cells: PackedGraphs, accuracy: np.ndarray, says: str
) -> None:
    with pytest.raises(InvalidDataError, match=says):
        predictor.fit(cells.take(np.arange(3)), accuracy)


def test_the_conformance_suite_passes(predictor: FuzzyEnsemble, cells: PackedGraphs) -> None:
    check_predictor(predictor, cells, np.random.default_rng(0))


def test_former_names_still_work(fitted: Fitted, cells: PackedGraphs) -> None:
    """Those that the guides named."""
    predictor = FuzzyEnsemble(fitted, "0" * 64)
    with pytest.warns(DeprecationWarning, match="select_informative"):
        assert predictor.choose(cells, 4).tolist() == predictor.select_informative(cells, 4).tolist()
    with pytest.warns(DeprecationWarning, match="view is now encode"):
        encoded = predictor.view(cells)
    assert encoded is predictor.encode(cells)
    with pytest.warns(DeprecationWarning, match="each is now per_member"):
        former = predictor.members.each(encoded)
    assert former.keys() == predictor.members.per_member(encoded).keys()
