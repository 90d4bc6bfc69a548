"""A training does what the recipe says, ends in the same bits after any interruption, and fails in words."""

from __future__ import annotations

import copy
import pickle
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
from labelling_cases import RECIPE, SIZE, network, on_cpu
from safetensors.torch import load_file

from gennape.errors import CheckpointError
from gennape.platform.labelling.training import network_training
from gennape.platform.labelling.training.failures import DeviceMemoryError, DivergedError, UnsuitableImagesError
from gennape.platform.labelling.training.nesterov import laid_out, nesterov_step
from gennape.platform.labelling.training.network_training import NetworkTraining, check_network, train
from gennape.platform.labelling.training.recipe import Recipe, Seed

SEED = Seed(0, "00ff", 0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small are slower by two, and sums then depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class _Stop(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture(scope="module")
def data():
    return on_cpu()


def test_a_network_learns_and_is_tested_once_at_the_end(data):
    recipe, told = replace(RECIPE, epochs=12), []
    outcome = train(network(), data, recipe, SEED, on_epoch=lambda epoch, accuracy: told.append((epoch, accuracy)))
    assert outcome.test > 90
    assert [accuracy for _, accuracy in told] == outcome.validation
    assert [epoch for epoch, _ in told] == list(range(1, 13))
    assert outcome.device == "cpu"
    assert outcome.seconds > 0
    assert outcome.images_per_second > 0
    without = train(network(), on_cpu(tested=0), recipe, SEED)
    assert without.test is None
    assert without.validation == outcome.validation


def test_the_same_seed_gives_the_same_and_others_differ(data):
    losses = []
    for seed in (SEED, SEED, Seed(0, "00ff", 1), Seed(1, "00ff", 0), Seed(0, "00fe", 0)):
        training = NetworkTraining(network(), data, RECIPE, seed, record=False)
        training.epoch()
        losses.append(training._losses.tolist())
    assert losses[0] == losses[1]
    assert len({tuple(each) for each in losses}) == 4


@pytest.mark.parametrize("stops", [[1], [2], [1, 2], [1, 2, 3]])
def test_a_training_that_was_cut_off_ends_in_the_same_bits(data, tmp_path, stops):
    whole = train(network(), data, RECIPE, SEED, tmp_path / "whole", save_after=0.0)
    for last in stops:

        def on_epoch(epoch, _accuracy, last=last):
            if epoch == last:
                raise _Stop

        with suppress(_Stop):
            train(network(), data, RECIPE, SEED, tmp_path / "cut", on_epoch, save_after=0.0)
    seen = []
    cut = train(network(), data, RECIPE, SEED, tmp_path / "cut", lambda epoch, _: seen.append(epoch), save_after=0.0)
    assert seen == list(range(stops[-1] + 1, 4))
    assert (cut.validation, cut.test) == (whole.validation, whole.test)
    first, second = load_file(tmp_path / "whole"), load_file(tmp_path / "cut")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_checkpoint_of_another_training_is_refused(data, tmp_path):
    path = tmp_path / "state"
    train(network(), data, replace(RECIPE, epochs=1), SEED, path, save_after=0.0)
    for other in (Seed(0, "00ff", 1), SEED):
        recipe = RECIPE if other is SEED else replace(RECIPE, epochs=1)
        with pytest.raises(CheckpointError, match="another network, recipe, seed or images"):
            train(network(), data, recipe, other, path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        train(network(), data, replace(RECIPE, epochs=1), SEED, path)


def test_descent_is_that_of_pytorch():
    torch.manual_seed(0)
    recipe, rates = Recipe(momentum=0.9, weight_decay=0.01), (0.3, 0.2, 0.05)
    ours = [torch.randn(3, 4), torch.randn(5)]
    theirs = [torch.nn.Parameter(weight.clone()) for weight in ours]
    groups = [{"params": [theirs[0]], "weight_decay": 0.01}, {"params": [theirs[1]], "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=1.0, momentum=0.9, nesterov=True)
    momenta = [torch.zeros_like(weight) for weight in ours]
    for rate in rates:
        gradients = [torch.randn_like(weight) for weight in ours]
        for weight, gradient in zip(theirs, gradients, strict=True):
            weight.grad = gradient.clone()
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        nesterov_step(ours, gradients, momenta, [0], torch.tensor(rate), recipe)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other.detach())


@pytest.mark.parametrize("shape", [(4, 3, 1, 1), (4, 1, 3, 3), (4, 3, 3, 3), (1, 3, 1, 1)])
def test_gradients_are_laid_out_like_their_weights(shape):
    torch.manual_seed(0)
    values = torch.randn(shape)
    weight = torch.empty(shape).to(memory_format=torch.channels_last)
    for gradient in (values, values.contiguous(memory_format=torch.channels_last)):
        out = laid_out(gradient, weight)
        assert out.stride() == weight.stride()
        assert torch.equal(out, values)


def test_what_is_measured_are_averages_of_weights_and_of_batch_statistics(data):
    recipe = replace(RECIPE, average=0.6, epochs=1)
    training = NetworkTraining(network(), data, recipe, SEED, record=False)
    expected = copy.deepcopy(training.averaged.state_dict())
    step, parts = training._train_step, recipe.weights_of_new(training.steps)
    assert parts[0] == pytest.approx(0.9)
    assert parts[-1] >= 0.4
    counter = iter(parts)

    def followed():
        step()
        part = next(counter)
        for name, value in training.network.state_dict().items():
            if value.is_floating_point():
                expected[name] += part * (value - expected[name])

    training._train_step = followed
    training.epoch()
    for name, value in training.averaged.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])
    assert not torch.equal(training.averaged.batchnorm1.running_mean, training.network.batchnorm1.running_mean)


def test_evaluation_counts_every_image_once(data, monkeypatch):
    monkeypatch.setattr(network_training, "_SHOWN_AT_ONCE", 7)
    training = NetworkTraining(network(), data, RECIPE, SEED, record=False)
    training.epoch()
    shown = data.test
    with torch.no_grad():
        told = training.averaged(data.normalised(shown.pixels)).argmax(1)
    assert training.accuracy(shown) == pytest.approx(100 * (told == shown.labels).float().mean().item())


def test_half_precision_is_that_of_the_recipe(data):
    outcome = train(network(), data, replace(RECIPE, epochs=12, precision="bf16"), SEED)
    assert outcome.test > 90


# Failures ------------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_names_its_step(data):
    training = NetworkTraining(network(), data, RECIPE, SEED, record=False)
    training.epoch()
    with torch.no_grad():
        training.network.conv1_3x3.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match=f"step {training.steps}, in epoch 2") as raised:
        training.epoch()
    assert raised.value.step == training.steps


def test_a_rate_too_high_diverges(data):
    recipe = replace(RECIPE, peak_rate=100.0, weight_decay=1.0, epochs=60)
    with pytest.raises(DivergedError) as raised:
        train(network(norm=False), data, recipe, SEED)
    again = pickle.loads(pickle.dumps(raised.value))  # noqa: S301 (our own: errors travel so between processes)
    assert (again.step, str(again)) == (raised.value.step, str(raised.value))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDNN_STATUS_ALLOC_FAILED"),
     RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")],
)  # fmt: skip
def test_a_device_without_memory_is_named(data, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr(network_training, "compile_graph", fails)
    with pytest.raises(DeviceMemoryError, match="cpu has not enough memory"):
        train(network(), data, RECIPE, SEED)


def test_other_errors_stay_what_they_are(data, monkeypatch):
    def fails(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(network_training, "compile_graph", fails)
    with pytest.raises(RuntimeError, match="a bug"):
        train(network(), data, RECIPE, SEED)


def test_images_that_do_not_fit_are_refused():
    check_network(network(), SIZE, 2)
    with pytest.raises(UnsuitableImagesError, match="3 channels of 8 x 8 pixels, the images have 3 of 9 x 8"):
        check_network(network(), (9, 8), 2)
    with pytest.raises(UnsuitableImagesError, match="tells 2 classes apart, the images have 3"):
        check_network(network(), SIZE, 3)


def test_labels_do_not_depend_on_how_much_is_drawn_elsewhere(data):
    """Nothing here reads the generators that a process shares."""
    outcomes = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (it is what must not matter)
        outcomes.append(train(network(), data, RECIPE, SEED).validation)
    assert outcomes[0] == outcomes[1]
