from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.predictors.encoder.deduplication import SparseRows, deduplicate, mean_of_steps, multiply
from gennape.predictors.encoder.features import N_FEATURES, GraphBatch, Neighbours, featurize
from gennape.search_spaces.graphs.graph import PackedGraphs

LAYERS, WIDTH = 3, 5


@dataclass
class _Example:
    """A batch, and as dense matrices how often a step has which producer, and how strongly each side is heard."""

    batch: GraphBatch
    counts: np.ndarray
    means: tuple[np.ndarray, np.ndarray]


def _neighbours(matrix: np.ndarray, strength: np.ndarray) -> Neighbours:
    """Rows of counts as neighbours, each of ``strength``; and the same for columns."""
    parts = []
    for m, s in ((matrix, strength), (matrix.T, strength.T)):
        at, other = np.nonzero(m)
        times = m[at, other]
        parts += [np.concatenate([[0], np.cumsum(m.sum(1))]), np.repeat(other, times), np.repeat(s[at, other], times)]
    return Neighbours(
        *(torch.from_numpy(p.astype(np.float32 if i % 3 == 2 else np.int64)) for i, p in enumerate(parts))
    )


@st.composite
def _examples(draw: st.DrawFn) -> _Example:
    """Random acyclic graphs whose steps are of few kinds, so that many look alike; some feed another twice."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sizes = rng.integers(1, 9, draw(st.integers(1, 6)))
    owner = np.repeat(np.arange(len(sizes)), sizes)
    inside = (owner[:, None] == owner) & np.tri(len(owner), k=-1, dtype=bool)
    counts = np.where(inside, rng.choice(3, inside.shape, p=[0.6, 0.3, 0.1]), 0)
    strengths = [np.broadcast_to(1 / np.maximum(c.sum(1, keepdims=True), 1), c.shape) for c in (counts, counts.T)]
    kinds = rng.normal(size=(2, N_FEATURES)).astype(np.float32)
    batch = GraphBatch(
        torch.from_numpy(kinds[[0, 1, 0]]),  # kinds may be equal
        torch.from_numpy(rng.integers(0, 3, len(owner))),
        _neighbours(counts, strengths[0]),
        _neighbours(counts.T, strengths[1]),
        torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])),
        torch.from_numpy(rng.random(len(sizes)).astype(np.float32)),
    )
    dense = [c * s.astype(np.float32).astype(np.float64) for c, s in zip((counts, counts.T), strengths, strict=True)]
    return _Example(batch, counts, (dense[0], dense[1]))


@given(_examples(), st.booleans())
@settings(deadline=None, max_examples=60)
def test_distinct_values_of_layers_are_those_of_dense_matrices(example: _Example, two_way: bool) -> None:
    """No steps are taken for one whose values differ; nor is any computed twice, but means of {a} and of {a, a}."""

    def check_count() -> None:
        distinct = len(np.unique(dense.round(9), axis=0))
        assert distinct <= len(shared) <= (len(dense) if two_way else distinct)

    steps = deduplicate(example.batch, LAYERS, two_way=two_way)
    sides = example.means if two_way else (example.counts.astype(np.float64),)
    rng = np.random.default_rng(0)
    enter = rng.normal(size=(N_FEATURES, WIDTH)) / 8
    dense = example.batch.features.double().numpy() @ enter
    shared = steps.features.double() @ torch.from_numpy(enter)
    for before, messages in zip(steps.before, steps.messages, strict=True):
        check_count()
        words = rng.normal(size=(1 + len(sides), WIDTH, WIDTH)) / 2
        told = torch.cat([shared @ torch.from_numpy(w) for w in words], dim=1).view(-1, WIDTH)
        shared = torch.nn.functional.softsign(shared[before] + multiply(messages, told))
        heard = sum(side @ dense @ w for side, w in zip(sides, words[1:], strict=True))
        dense = dense + dense @ words[0] + heard
        dense /= 1 + np.abs(dense)
    check_count()
    every_step = shared[steps.pool.other.long()].numpy()
    np.testing.assert_allclose(every_step, dense, rtol=0, atol=1e-12)
    parts = np.split(dense, example.batch.offsets.numpy()[1:-1])
    np.testing.assert_allclose(mean_of_steps(steps, shared), np.stack([p.mean(0) for p in parts]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_of_a_product_is_that_of_a_dense_one(weighted: bool) -> None:
    """[[0, 2, 0], [1, 0, 1]] by hand, the other way round in ``back``; weights stand for 2, 1, and 1."""
    weights = (torch.tensor([2.0, 1, 1]), torch.tensor([1.0, 2, 1])) if weighted else (None, None)
    indices = ([0, 1, 3], [1, 0, 2], [0, 1, 2, 3], [1, 0, 1]) if weighted else (
        [0, 2, 4], [1, 1, 0, 2], [0, 1, 3, 4], [1, 0, 0, 1]
    )  # fmt: skip
    rows = SparseRows(*(torch.tensor(i, dtype=torch.int32) for i in indices), *weights)
    dense = torch.tensor([[0.0, 2, 0], [1, 0, 1]], dtype=torch.float64)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(multiply(rows, x), dense @ x)
    assert torch.autograd.gradcheck(lambda x: multiply(rows, x), x)


def test_any_few_producers_are_told_from_any_others() -> None:
    """All 18,423 ways to hear up to three of 47 kinds of producers, alike but for these."""
    heard = [list(some) for n in range(4) for some in combinations_with_replacement(range(47), n)]
    other = np.array([i for some in heard for i in some])
    at = np.repeat(np.arange(len(heard)), [len(some) for some in heard]) + 47
    back = np.argsort(other, kind="stable")
    n, ones = 47 + len(heard), np.ones(len(other), np.float32)
    parts = [np.cumsum(np.bincount(i + 1, minlength=n + 1)) for i in (at, other)]
    hearing, telling = (parts[0], other, ones), (parts[1], at[back], ones)
    sides = [Neighbours(*map(torch.from_numpy, side)) for side in (hearing + telling, telling + hearing)]
    kind = torch.from_numpy(np.concatenate([np.arange(47), np.full(len(heard), 47)]))
    kinds = torch.arange(48 * N_FEATURES).view(48, N_FEATURES).float()
    batch = GraphBatch(kinds, kind, sides[0], sides[1], torch.tensor([0, n]), torch.ones(1))
    assert len(deduplicate(batch, 1).before[0]) == n
    turned = GraphBatch(kinds, kind, sides[1], sides[0], torch.tensor([0, n]), torch.ones(1))
    assert len(deduplicate(turned, 1, two_way=True).before[0]) == n


def test_equal_steps_are_computed_once(cells: PackedGraphs) -> None:
    one, many = (featurize(cells.take(np.zeros(n, np.int64))) for n in (1, 20))
    for two_way in (False, True):
        single, shared = (deduplicate(batch, 4, two_way=two_way) for batch in (one, many))
        assert len(shared.features) == len(single.features) < len(one.features)
        rows = [len(shared.features), *map(len, shared.before)]
        assert rows == [len(single.features), *map(len, single.before)]
        # Rounds of messages only ever tell more steps apart, never more than there are.
        assert rows == sorted(rows)
        assert rows[-1] <= len(one.features)


def _tensors(value: object) -> list[torch.Tensor]:
    """All tensors within a batch, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value if isinstance(value, tuple) else [getattr(value, name) for name in getattr(value, "__slots__", ())]
    return [tensor for part in parts for tensor in _tensors(part)]


def test_batches_move_whole_to_another_device(cells: PackedGraphs) -> None:
    """The meta device holds no numbers, only where they would be. A batch has 2 x 6 + 4 tensors; distinct steps of two
    layers with weights 1 + 2 + 2 x 6 + 4 + 2, without 2 x 2 fewer."""
    batch = featurize(cells)
    for made, count in ((batch, 16), (deduplicate(batch, 2, two_way=True), 21), (deduplicate(batch, 2), 17)):
        there, here = made.to(torch.device("meta")), made.to(torch.device("cpu"))
        assert type(there) is type(made)
        assert len(_tensors(made)) == count
        assert [t.device.type for t in _tensors(there)] == ["meta"] * count
        assert [(t.dtype, t.shape) for t in _tensors(there)] == [(t.dtype, t.shape) for t in _tensors(made)]
        assert all(a is b for a, b in zip(_tensors(here), _tensors(made), strict=True))
