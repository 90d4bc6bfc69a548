"""Verification metrics against values computed by hand, and by scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_ind

from gennape.predictors.evaluation.verification_metrics import dominates, trained_accuracies, verification_metrics


def test_means_and_pooled_noise_by_hand() -> None:
    found = trained_accuracies(np.array([0, 1, 0, 1, 2]), np.array([90.0, 80.0, 92.0, 84.0, 70.0]))
    assert found.mean.tolist() == [91.0, 82.0, 70.0]
    assert found.trainings.tolist() == [2, 2, 1]
    assert found.freedom == 2
    assert found.deviation == pytest.approx(np.sqrt((2 + 8) / 2))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_two_networks_are_apart_where_a_t_test_says_so(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 6, 2)
    first, second = rng.normal(90, 1, sizes[0]), rng.normal(91, 1, sizes[1])
    found = trained_accuracies(np.repeat([0, 1], sizes), np.concatenate([first, second]))
    apart = abs(found.mean[0] - found.mean[1]) > found.margin(0, 1)
    assert apart == (ttest_ind(first, second).pvalue < 0.05)


def test_noise_is_unknown_where_nothing_was_trained_twice() -> None:
    found = trained_accuracies(np.arange(3), np.array([1.0, 2.0, 3.0]))
    figures = verification_metrics(found, np.array([1.0, 3.0, 2.0]))
    assert np.isnan(figures["noise"])
    assert np.isnan(figures["tau_apart"])
    assert figures["pairs_apart"] == 0
    assert figures["kendall_tau"] == pytest.approx(1 / 3)
    assert figures["regret"] == 1.0


def test_only_pairs_further_apart_than_noise_count() -> None:
    # Deviation 0.1: networks 0 and 1 are not told apart, each is from network 2, which is predicted between them.
    accuracy = np.array([90.0, 90.1, 90.1, 90.2, 80.0, 80.1])
    found = trained_accuracies(np.repeat([0, 1, 2], 2), accuracy)
    figures = verification_metrics(found, np.array([3.0, 1.0, 2.0]))
    assert figures["pairs_apart"] == 2
    assert figures["tau_apart"] == 0.0


def test_domination_needs_no_more_flops_and_a_higher_accuracy() -> None:
    accuracy = np.array([80.0, 80.1, 90.0, 90.1, 95.0, 95.1, 80.1, 80.2])
    found = trained_accuracies(np.repeat([0, 1, 2, 3], 2), accuracy)
    in_mean, beyond_noise = dominates(found, np.array([100, 100, 101, 50]), 0)
    assert in_mean.tolist() == [False, True, False, True]
    assert beyond_noise.tolist() == [False, True, False, False]
