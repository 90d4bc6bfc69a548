from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.predictors.ensemble.inputs import EncodedGraphs
from gennape.predictors.ensemble.pairwise import ANCHORS, PairClassifier, fit_pairwise
from gennape.predictors.ensemble.settings import HeadTraining
from gennape.predictors.metrics import kendall_tau
from gennape.search_spaces.families.registry import family


def _nothing(_: int, __: float) -> None:
    pass


def _encoded(n: int, clusters: int, seed: int) -> EncodedGraphs:
    """Views of ``n`` times the same graph; what members read of it is random."""
    space, rng = family("nb101"), np.random.default_rng(seed)
    graphs = space.graphs(np.repeat(space.sample(rng, 1), n, axis=0))
    memberships = rng.dirichlet(np.ones(clusters), n)
    embedding = rng.normal(size=(n, 3))
    return EncodedGraphs(graphs, embedding, embedding, memberships, rng.uniform(0.4, 0.9, n), np.full(n, 10**9))


def _classifier(clusters: int, seed: int) -> PairClassifier:
    torch.manual_seed(seed)
    classifier = PairClassifier(clusters, 3, 5).double().eval()
    classifier.known_statistics.copy_(torch.stack([torch.randn(4), torch.rand(4) + 0.1]))
    return classifier


@given(st.integers(0, 2**31 - 1), st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))
@settings(deadline=None, max_examples=50)
def test_exchanging_two_networks_changes_the_sign(seed: int, clusters: int, a: int, b: int) -> None:
    classifier = _classifier(clusters, seed)
    known = torch.randn(a + b, 4, dtype=torch.float64)
    shares = torch.softmax(torch.randn(a + b, clusters, dtype=torch.float64), dim=1)
    there = classifier.between(known[:a], shares[:a], known[a:], shares[a:])
    back = classifier.between(known[a:], shares[a:], known[:a], shares[:a])
    torch.testing.assert_close(there, -back.T, rtol=0, atol=1e-12)
    within = classifier.within(known, shares)
    torch.testing.assert_close(within, classifier.between(known, shares, known, shares), rtol=0, atol=1e-12)
    assert torch.equal(within, -within.T)
    assert torch.equal(within.diagonal(), torch.zeros(a + b, dtype=torch.float64))


def test_logits_are_those_of_the_formula() -> None:
    """One pair, cluster by cluster, network by network."""
    classifier = _classifier(2, 1)
    (a, b), (u, v) = torch.randn(2, 4).double(), torch.tensor([[0.9, 0.1], [0.3, 0.7]]).double()
    mean, deviation = classifier.known_statistics
    one, other = (a - mean) / deviation, (b - mean) / deviation

    def g(c: int, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        inner = x @ classifier.mine[c] + y @ classifier.theirs[c] + classifier.bias[c, 0]
        return torch.relu(inner) @ classifier.second[c]

    expected = sum((u[c] + v[c]) / 2 * (g(c, one, other) - g(c, other, one)) for c in range(2))
    found = classifier.between(a[None], u[None], b[None], v[None])
    torch.testing.assert_close(found, torch.as_tensor(expected).reshape(1, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("clusters", [1, 3])
def test_ranks_by_a_known_order(clusters: int) -> None:
    """Accuracy is a sum of two numbers of the embedding, minus one that is cost."""
    encoded = _encoded(300, clusters, 0)
    accuracy = 90 + encoded.embedding[:, 0] + 2 * encoded.embedding[:, 1] - 4 * encoded.cost
    learnt, new = np.arange(200), np.arange(200, 300)
    seen = []
    training = HeadTraining(epochs=40, batch=50, learning_rate=1e-2)
    member = fit_pairwise(
        "pairwise", clusters, 8, encoded.take(learnt), accuracy[learnt], training, np.random.default_rng(0),
        lambda n, _: seen.append(n),
    )  # fmt: skip
    assert sum(seen) == 40 * 200
    predicted = member.predict(encoded.take(new))
    assert kendall_tau(accuracy[new], predicted) > 0.9
    assert np.abs(predicted - accuracy[new]).mean() < accuracy.std() / 3
    # Anchors lie at evenly spaced ranks, from the worst to the best.
    ranks = np.argsort(np.argsort(accuracy[learnt]))
    anchors = member.classifier.anchors[:, :3].numpy()
    rows = np.abs(encoded.embedding[:200, None] - anchors).sum(2).argmin(0)
    assert len(anchors) == ANCHORS
    np.testing.assert_allclose(ranks[rows], np.linspace(0, 199, ANCHORS), atol=0.5)


def test_fine_tuned_anchors_are_the_labelled_networks() -> None:
    encoded = _encoded(40, 2, 3)
    accuracy = 90 + encoded.embedding[:, 0]
    training = HeadTraining(epochs=1, batch=20)
    member = fit_pairwise("pairwise_fcm", 2, 4, encoded, accuracy, training, np.random.default_rng(0), _nothing)
    few = encoded.take(np.arange(30))
    tuned = member.tuned(few, 90 - few.embedding[:, 0], np.random.default_rng(1))
    np.testing.assert_array_equal(tuned.classifier.anchors[:, :3].numpy(), few.embedding.astype(np.float32))
    np.testing.assert_array_equal(tuned.classifier.anchor_memberships.numpy(), few.memberships.astype(np.float32))
    assert kendall_tau(90 - encoded.embedding[:, 0], tuned.predict(encoded)) > 0.7
