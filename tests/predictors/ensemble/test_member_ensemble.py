from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float64
from safetensors.torch import load, save
from scipy.stats import norm
from torch import Tensor

from gennape.errors import CheckpointError, ConfigError, InvalidDataError
from gennape.predictors.encoder.clustered import ClusteredEncoder
from gennape.predictors.ensemble.cluster_regression import ClusterRegression
from gennape.predictors.ensemble.ensemble import MIN_WEIGHT, MemberEnsemble, stacked, zero_shot
from gennape.predictors.ensemble.inputs import EncodedGraphs, encode
from gennape.predictors.ensemble.member import Member
from gennape.predictors.ensemble.registry import ABLATIONS, fit_members
from gennape.predictors.ensemble.settings import MembersConfig
from gennape.predictors.ensemble.uncertainty import Uncertainty, learn_uncertainty, weighted_spread
from gennape.predictors.ensemble.weights import out_of_fold, weights_by_rank
from gennape.predictors.metrics import kendall_tau
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.cost import params
from gennape.search_spaces.graphs.graph import concatenate

NAMES = ["cl_fcm_t", "cl_t", "pairwise", "pairwise_fcm", "k_gnn", "flops"]


class _Column(Member):
    """Says what stands in a column of the pooled features; learns nothing, or, by heart, what it is taught."""

    def __init__(self, column: int, known: Mapping[float, float] | None = None) -> None:
        self.name, self.column, self.known = f"column {column}", column, known

    def predict(self, encoded: EncodedGraphs) -> Float64[np.ndarray, " g"]:
        predictions = encoded.pooled[:, self.column]
        return predictions if self.known is None else np.array([self.known.get(x, x) for x in predictions.tolist()])

    def tuned(self, encoded: EncodedGraphs, accuracy: Float64[np.ndarray, " g"], rng: np.random.Generator) -> _Column:  # noqa: ARG002
        if self.known is None:
            return self
        predictions = encoded.pooled[:, self.column].tolist()
        return _Column(self.column, dict(zip(predictions, accuracy.tolist(), strict=True)))

    def config(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> _Column:
        raise NotImplementedError


def _told(pooled: Float64[np.ndarray, "g p"]) -> EncodedGraphs:
    """Views for :class:`_Column`: graphs that are all the same."""
    space, n = family("nb101"), len(pooled)
    graphs = space.graphs(np.repeat(space.sample(np.random.default_rng(0), 1), n, axis=0))
    return EncodedGraphs(graphs, pooled, pooled, np.ones((n, 1)), np.ones(n), np.full(n, 10**9))


# What is combined, with members made by hand --------------------------------------------------------------------------


def test_zero_shot_weights_are_equal_and_scores_are_ranks_of_the_training_family() -> None:
    """Of columns that are any rising functions of accuracy, the ensemble's answer is accuracy itself."""
    accuracy = np.linspace(80, 95, 661)
    encoded = _told(np.stack([accuracy, np.exp(accuracy / 5), 1e-3 * accuracy**3 - 7], axis=1))
    ensemble = zero_shot([_Column(i) for i in range(3)], encoded, accuracy)
    assert ensemble.weights == (1 / 3, 1 / 3, 1 / 3)
    assert ensemble.scales[0].y[20] == pytest.approx(norm.ppf(20.5 / 33))
    # Straight between 33 knots of a curved function.
    inside = (accuracy > 81) & (accuracy < 94)
    found, deviation = ensemble.predict(encoded)
    np.testing.assert_allclose(found[inside], accuracy[inside], atol=0.02)
    assert (deviation > 0).all()
    for predictions in ensemble.per_member(encoded).values():
        np.testing.assert_allclose(predictions[inside], accuracy[inside], atol=0.06)


def test_nonsense_of_one_member_is_bounded() -> None:
    accuracy = np.linspace(80, 95, 661)
    ensemble = zero_shot([_Column(0), _Column(1)], _told(np.stack([accuracy, accuracy], axis=1)), accuracy)
    query = np.array([[82.0, 1e9], [90.0, 1e9], [90.0, 1e12], [90.0, -1e12]])
    found, deviation = ensemble.predict(_told(query))
    assert found[0] < found[1] <= found[2]  # the other member still decides
    assert found.min() > 80 - 15 / 4
    assert found.max() < 95 + 15 / 4
    agreed = ensemble.predict(_told(np.array([[90.0, 90.0]])))[1][0]
    assert (deviation > 2 * agreed).all()


def test_deviation_grows_with_disagreement_and_fits_errors() -> None:
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.1, 2, 20_000)
    error = rng.normal(size=20_000) * 3 * np.sqrt(spread**2 + (spread**2).mean())
    found = learn_uncertainty(spread, error)
    assert found.factor == pytest.approx(3, rel=0.03)
    assert found.floor == pytest.approx(np.sqrt((spread**2).mean()))
    assert (np.diff(found(np.array([0.0, 0.5, 1.0, 5.0]))) > 0).all()
    # 2 x sqrt(4^2 + 3^2); members at 1 and 5 with weights 3/4 and 1/4 lie about 2: sqrt(3/4 x 1 + 1/4 x 9).
    np.testing.assert_allclose(Uncertainty(2.0, 3.0)(np.array([4.0])), [10])
    predictions = weighted_spread(np.array([[1.0], [5.0]]), np.array([0.75, 0.25]))
    np.testing.assert_allclose(predictions, [np.sqrt(3)])


def test_weights_are_the_softmax_of_tau_by_hand() -> None:
    accuracy = np.array([1.0, 2.0, 3.0])
    # All three pairs right, two of three, none: tau 1, 1/3, -1.
    predictions = np.array([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [3.0, 2.0, 1.0]])
    parts = np.exp([1, 1 / 3, -1])
    np.testing.assert_allclose(weights_by_rank(predictions, accuracy), parts / parts.sum())


def test_learning_by_heart_gains_no_weight() -> None:
    """The member that repeats what it was taught says nothing of what it was not, and is weighed by that."""
    rng = np.random.default_rng(1)
    accuracy = rng.uniform(70, 80, 60)
    encoded = _told(np.stack([accuracy - 70, rng.uniform(70, 80, 60)], axis=1))
    members = [_Column(0), _Column(1, {})]
    labelled, new = np.arange(30), np.arange(30, 60)
    tuned = zero_shot(members, encoded, accuracy).tuned(
        encoded.take(labelled), accuracy[labelled], np.random.default_rng(0)
    )
    predictions = out_of_fold(members, encoded.take(labelled), accuracy[labelled], 3, np.random.default_rng(0))
    np.testing.assert_array_equal(predictions, encoded.pooled[:30].T)  # what is asked was never taught
    tau = kendall_tau(accuracy[labelled], predictions[1])
    assert tau < 0.4
    assert tuned.weights[0] / tuned.weights[1] == pytest.approx(np.exp(1 - tau))
    found = tuned.per_member(encoded.take(new))["column 0"]
    inside = (accuracy[new] > accuracy[:30].min()) & (accuracy[new] < accuracy[:30].max())
    np.testing.assert_allclose(found[inside], accuracy[new][inside], atol=1e-5)  # the line that adds 70


def test_a_member_that_ranks_the_wrong_way_round_is_levelled() -> None:
    accuracy = np.linspace(70, 80, 20)
    encoded = _told(np.stack([accuracy, -accuracy], axis=1))
    start = zero_shot([_Column(0), _Column(1)], encoded, accuracy)
    tuned = start.tuned(encoded, accuracy, np.random.default_rng(0))
    np.testing.assert_allclose(tuned.per_member(encoded)["column 1"], 75)
    assert kendall_tau(accuracy, tuned.predict(encoded)[0]) == 1


def test_few_labels_move_the_level_only() -> None:
    accuracy = np.linspace(80, 95, 100)
    encoded = _told(accuracy[:, None])
    start = zero_shot([_Column(0)], encoded, accuracy)
    rng = np.random.default_rng(0)
    before = start.predict(encoded)[0]
    one = encoded.take(np.array([50]))
    moved = start.tuned(one, np.array([before[50] - 20]), rng)
    np.testing.assert_allclose(moved.predict(encoded)[0], before - 20, atol=1e-5)
    assert start.tuned(encoded.take(np.arange(0)), accuracy[:0], rng).predict(encoded)[0].tolist() == before.tolist()
    two = start.tuned(encoded.take(np.array([20, 70])), before[[20, 70]] + [1, 3], rng)
    np.testing.assert_allclose(two.predict(encoded)[0], before + 2, atol=1e-5)
    assert two.uncertainty.factor > start.uncertainty.factor


# With the six members -------------------------------------------------------------------------------------------------


def test_stacking_finds_who_knows_how_much() -> None:
    """Accuracies are three quarters of one member and a quarter of another; a third says nothing of them."""
    rng = np.random.default_rng(0)
    told = _told(rng.uniform(80, 95, (661, 3)))
    accuracy = told.pooled @ [0.75, 0.25, 0.0]
    ensemble = stacked([_Column(column) for column in range(3)], told, accuracy)
    assert [member.name for member in ensemble.members] == ["column 0", "column 1"]
    np.testing.assert_allclose(ensemble.weights, [0.75, 0.25], atol=1e-4)
    np.testing.assert_allclose(ensemble.predict(told)[0], accuracy, atol=1e-3)
    noisy = stacked([_Column(0), _Column(2)], told, told.pooled[:, 0] + rng.normal(0, 0.5, 661))
    assert noisy.weights[0] > 1 - MIN_WEIGHT
    assert noisy.predict(told)[1].mean() == pytest.approx(0.5, rel=0.1)


def test_six_members_and_their_ablations(members: MemberEnsemble, encoded: EncodedGraphs) -> None:
    assert [member.name for member in members.members] == NAMES
    assert list(members.per_member(encoded)) == NAMES
    assert set(members.weights) == {1 / 6}
    left = {name: [m.name for m in members.without(out).members] for name, out in ABLATIONS.items()}
    assert left == {
        "-pairwise": ["cl_fcm_t", "cl_t", "k_gnn", "flops"],
        "-FCM": ["cl_t", "pairwise", "k_gnn", "flops"],
        "-T": ["pairwise", "pairwise_fcm", "k_gnn", "flops"],
    }
    alone = members.without(NAMES[:-1])
    assert alone.weights == (1.0,)
    np.testing.assert_allclose(alone.predict(encoded)[0], members.per_member(encoded)["flops"], atol=1e-6)
    with pytest.raises(ConfigError, match="cannot leave"):
        members.without(NAMES)
    with pytest.raises(ConfigError, match="k_gm"):
        members.without(["k_gm"])


def test_progress_counts_every_network_of_every_training(
    encoded: EncodedGraphs, cell_accuracy: np.ndarray, single: ClusterRegression, sizes: MembersConfig
) -> None:
    seen: list[int] = []
    fit_members(encoded, cell_accuracy, single, sizes, np.random.default_rng(0), lambda n, _: seen.append(n))
    assert sum(seen) == sizes.steps(len(encoded)) == 64 * (3 + 3 + 3 + 3)


def test_no_row_depends_on_the_others(
    members: MemberEnsemble, network: ClusteredEncoder, encoded: EncodedGraphs
) -> None:
    space = family("hiaml")
    others = space.graphs(space.sample(np.random.default_rng(1), 20))
    mixed = encode(network.double(), concatenate([encoded.graphs, others]))
    tuned = members.tuned(
        mixed.take(np.arange(58, 70)), 70 + 4 * np.log10(params(mixed.graphs)[58:70] / 1e5), np.random.default_rng(0)
    )
    for model in (members, tuned):
        rows = [model.predict(mixed.take(np.array([i]))) for i in range(len(mixed))]
        for part, together in enumerate(model.predict(mixed)):
            assert np.array_equal(together, np.concatenate([row[part] for row in rows]))
            assert np.ptp(together) > 1e-3


def test_fine_tuning_learns_repeats_and_leaves_the_original(
    members: MemberEnsemble, encoded: EncodedGraphs, cell_accuracy: np.ndarray
) -> None:
    """The order to learn is the reverse of the one that members were fitted to."""
    falling = 150 - cell_accuracy
    labelled, new = np.arange(0, 64, 2), np.arange(1, 64, 2)
    before, kept = members.predict(encoded), members.state()
    kept = {name: tensor.clone() for name, tensor in kept.items()}
    runs = [members.tuned(encoded.take(labelled), falling[labelled], np.random.default_rng(4)) for _ in range(2)]
    first, second = (run.predict(encoded) for run in runs)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(before, members.predict(encoded), strict=True))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in members.state().items())
    asked = encoded.take(new)
    assert kendall_tau(falling[new], members.predict(asked)[0]) < 0.2
    assert kendall_tau(falling[new], first[0][new]) > 0.5
    assert sum(runs[0].weights) == pytest.approx(1)


def test_what_is_saved_gives_the_same_bytes(
    members: MemberEnsemble, encoded: EncodedGraphs, cell_accuracy: np.ndarray
) -> None:
    tuned = members.tuned(encoded.take(np.arange(12)), 150 - cell_accuracy[:12], np.random.default_rng(0))
    for model in (members, tuned):
        tensors = load(save({name: tensor.float().contiguous() for name, tensor in model.state().items()}))
        again = MemberEnsemble.restore(json.loads(json.dumps(model.config())), tensors)
        assert all(np.array_equal(a, b) for a, b in zip(model.predict(encoded), again.predict(encoded), strict=True))
        assert json.dumps(again.config()) == json.dumps(model.config())
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in again.state().items())


def test_what_does_not_fit_together_is_refused(members: MemberEnsemble) -> None:
    config, tensors = members.config(), members.state()
    for name in tensors:
        with pytest.raises(CheckpointError, match="do not fit the sizes"):
            MemberEnsemble.restore(config, {key: value for key, value in tensors.items() if key != name})
    with pytest.raises(CheckpointError, match="5 weights"):
        MemberEnsemble.restore({**config, "weights": config["weights"][1:]}, tensors)
    with pytest.raises(CheckpointError, match="weights"):
        MemberEnsemble.restore({**config, "weights": "many"}, tensors)
    unknown = [{**config["members"][0], "kind": "Oracle"}, *config["members"][1:]]
    with pytest.raises(CheckpointError, match="kind 'Oracle'"):
        MemberEnsemble.restore({**config, "members": unknown}, tensors)


def test_labels_that_do_not_match_are_refused(
    members: MemberEnsemble, encoded: EncodedGraphs, single: ClusterRegression, sizes: MembersConfig
) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InvalidDataError, match="3 labels for 64"):
        members.tuned(encoded, np.zeros(3), rng)
    with pytest.raises(InvalidDataError, match="label 0 is nan"):
        members.tuned(encoded, np.full(64, np.nan), rng)
    with pytest.raises(ConfigError, match="got 0 and 64"):
        zero_shot([], encoded, np.zeros(64))
    with pytest.raises(ConfigError, match="0 graphs"):
        fit_members(encoded.take(np.arange(0)), np.zeros(0), single, sizes, rng, lambda _, __: None)


def test_equal_labels_are_learnt_as_they_are(members: MemberEnsemble, encoded: EncodedGraphs) -> None:
    tuned = members.tuned(encoded.take(np.arange(10)), np.full(10, 75.0), np.random.default_rng(0))
    np.testing.assert_allclose(tuned.predict(encoded)[0], 75, atol=0.05)
