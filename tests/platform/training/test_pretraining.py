"""Pretraining on several workers: the weights of one, whoever is lost on the way."""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributed, nn
from typer.testing import CliRunner

from gennape.errors import CheckpointError, ConfigError, ServiceError
from gennape.jobs.cli import app
from gennape.platform.tracking.tracker import open_store
from gennape.platform.training import driver as pretraining_driver
from gennape.platform.training import pretraining
from gennape.platform.training.pretraining import Prepared, newest_state, pretrain_on_workers, training_folder
from gennape.platform.training.settings import WorkersConfig
from gennape.platform.workspace.run_lock import lock_run
from gennape.predictors.encoder.data_parallel import (
    BatchOrder,
    GlobalBatchNorm,
    PretrainData,
    WorkerPretraining,
    join_group,
    state_of_encoder,
)
from gennape.predictors.encoder.features import featurize
from gennape.predictors.encoder.pretraining import _shuffled, pretrain
from gennape.predictors.encoder.settings import GENERAL, GENNAPE, EncoderConfig, PretrainConfig
from gennape.predictors.model.checkpoint import provenance_of
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.files.atomic import atomic_write_bytes
from gennape.search_spaces.graphs.graph import concatenate
from gennape.search_spaces.graphs.spectrum import laplacian_spectra

# MLflow's own loading of runs, on the release of SQLAlchemy that is installed.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

ROOT = Path(__file__).resolve().parents[3]
WORKERS = 2


# The training itself -------------------------------------------------------------------------------------------------


def data(n=12, eigenvalues=21):
    rng = np.random.default_rng(1)
    graphs = concatenate([family(name).graphs(family(name).sample(rng, n)) for name in ("nb101", "hiaml")])
    return PretrainData(graphs, laplacian_spectra(graphs, eigenvalues), np.repeat([0, 1], n))


CONFIGS = {
    name: PretrainConfig(epochs=4, batch=8, contrast=contrast)
    for name, contrast in {"gennape": GENNAPE, "general": GENERAL}.items()
}
NO_DROPOUT = EncoderConfig(hidden=8, layers=2, embedding=6, dropout=0.0)


def work(rank, folder):
    """Both configurations, then the normalisation of unevenly many rows."""
    torch.set_num_threads(1)
    join_group("gloo", str(folder / "meeting"), rank, WORKERS, 120.0)
    for name, config in CONFIGS.items():
        torch.save(followed(config), folder / f"{name}-{rank}.pt")
    torch.save(normalised(GlobalBatchNorm(3), [slice(5), slice(5, None)][rank]), folder / f"norm-{rank}.pt")
    distributed.destroy_process_group()


def followed(config):
    """Losses, the encoder after one step and after all, and embeddings normalised by their batch."""
    training = WorkerPretraining(data(), NO_DROPOUT, config, np.random.default_rng(0))
    losses = [training.advance()]
    first = {name: tensor.clone() for name, tensor in training.encoder.state_dict().items()}
    losses += [training.advance() for _ in range(training.steps - 1)]
    last = {name: tensor.clone() for name, tensor in training.encoder.state_dict().items()}
    with torch.no_grad():
        return losses, first, last, training.encoder(featurize(data().graphs))


def normalised(norm, mine):
    """Two batches: outputs, gradients and statistics."""
    generator, found = torch.Generator().manual_seed(0), []
    norm.double()
    for scale in (1.0, 30.0):
        x, weights = torch.randn(2, 12, 3, generator=generator).double()
        x = (x * scale + 1e3)[mine].requires_grad_()
        y = norm(x)
        (y * weights[mine]).sum().backward()
        found.append((y.detach(), x.grad))
    return found, norm.state_dict()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(work, (folder,), nprocs=WORKERS)
    return lambda name: [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(WORKERS)]


@pytest.mark.cluster
@pytest.mark.parametrize("name", CONFIGS)
def test_two_workers_train_the_weights_of_one(two_workers, name):
    """A bias before a normalisation by the batch has no gradient but rounding, which Adam makes large: it, and the
    running mean that goes with it, are compared where they cannot have drifted, or where they are taken off again."""
    losses, first, last, embeddings = followed(CONFIGS[name])
    (theirs, *_), (others, *_) = found = two_workers(name)
    assert theirs == others
    assert [n for n, _ in theirs] == [n for n, _ in losses] == [8] * 12
    np.testing.assert_allclose([x for _, x in theirs], [x for _, x in losses], atol=2e-5)
    for _, *states, theirs in found:
        for state, expected in zip(states, (first, last), strict=True):
            for key, tensor in expected.items():
                drifts = key in ("last_norm.bias", "centre.running_mean")
                atol = 2e-2 if drifts and state is states[1] else 2e-3 if drifts else 2e-4
                torch.testing.assert_close(state[key], tensor, rtol=1e-5, atol=atol)
        torch.testing.assert_close(theirs, embeddings, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_alone_it_is_the_pretraining_in_one_process(name):
    whole, losses = data(), []
    expected = pretrain(
        whole.graphs, whole.spectra, NO_DROPOUT, CONFIGS[name], np.random.default_rng(0),
        lambda n, loss: losses.append((n, loss)), families=whole.families, device=torch.device("cpu"),
    ).state_dict()  # fmt: skip
    found, _, last, _ = followed(CONFIGS[name])
    assert found == losses
    assert all(torch.equal(last[key], tensor) for key, tensor in expected.items())
    assert last.keys() == expected.keys()


def test_the_normalisation_is_that_of_all_rows(two_workers):
    """Doubles: a thousand take three digits of sixteen off, the square of them is never taken."""
    batches, statistics = normalised(nn.BatchNorm1d(3, affine=False), slice(None))
    parts = two_workers("norm")
    for i, tensors in enumerate(batches):
        for k, expected in enumerate(tensors):
            found = torch.cat([part[0][i][k] for part in parts])
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    for _, state in parts:
        assert state.keys() == statistics.keys()
        for key, expected in statistics.items():
            torch.testing.assert_close(state[key], expected, rtol=1e-10, atol=0)


def test_what_is_restored_goes_on_bit_for_bit(tmp_path):
    def begin(epochs=4):
        config = PretrainConfig(epochs=epochs, batch=8, contrast=GENERAL)
        return WorkerPretraining(data(), EncoderConfig(8, 2, 6, dropout=0.5), config, np.random.default_rng(0))

    whole, part, rest = begin(), begin(), begin()
    losses = [whole.advance() for _ in range(whole.steps)]
    assert [part.advance() for _ in range(5)] == losses[:5]
    (tmp_path / "state").write_bytes(part.state())
    torch.rand(7)  # whatever else draws
    rest.restore(tmp_path / "state")
    assert (rest.step, rest.groups) == (5, [(0, 1)])
    assert [rest.advance() for _ in range(whole.steps - 5)] == losses[5:]
    assert rest.state() == whole.state()
    encoder, groups = state_of_encoder(tmp_path / "state", EncoderConfig(8, 2, 6))
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), part.encoder.parameters(), strict=True))
    assert groups == [(0, 1)]
    with pytest.raises(CheckpointError, match="not of this training"):
        state_of_encoder(tmp_path / "state", EncoderConfig(9, 2, 6))
    (tmp_path / "state").write_bytes(part.state()[:-7])
    with pytest.raises(CheckpointError, match="cannot read"):
        begin().restore(tmp_path / "state")


@settings(max_examples=50, deadline=None)
@given(graphs=st.integers(1, 40), batch=st.integers(1, 12), seed=st.integers(0, 9), data=st.data())
def test_the_order_is_of_seed_and_step_alone(graphs, batch, seed, data):
    rng = np.random.default_rng(seed)
    order = BatchOrder(graphs, batch, rng)
    steps = range(3 * order.per_epoch)
    expected = list(_shuffled(graphs, batch, 3, np.random.default_rng(seed)))
    assert len(expected) == len(steps)
    for step in data.draw(st.lists(st.sampled_from(steps))):
        assert order.rows(step).tolist() == expected[step].tolist()
    assert rng.bit_generator.state == np.random.default_rng(seed).bit_generator.state


# With Ray ------------------------------------------------------------------------------------------------------------

EVERY = 10
ARGUMENTS = (
    "--family hiaml --sample 320 --epochs 12 --batch 32 --hidden 8 --layers 1 --embedding 4 --seed 3 "
    f"--checkpoint-every {EVERY} --workers"
).split()
STEPS = 12 * 9  # some of the sample are equal
TIMEOUT_S = 240


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, workspace, tmp_path_factory):  # noqa: ARG001
    out = tmp_path_factory.mktemp("out") / "undisturbed"
    call(out, workspace, 2)
    return out


def call(out, workspace, *workers):
    """The command in this process; expected errors come out as exceptions."""
    places = ["--out", str(out), "--workspace", str(workspace)]
    result = CliRunner().invoke(app, ["pretrain", *ARGUMENTS, *map(str, workers), *places])
    if result.exception is not None:
        raise result.exception
    return result


def curve(workspace, out):
    """The run that ended with this encoder: its losses by step, and its throughput."""
    client, experiment = open_store(workspace)
    runs = [run for run in client.search_runs([experiment]) if run.data.params["out"] == str(out)]
    (run,) = runs
    assert run.info.status == "FINISHED"
    values = {name: client.get_metric_history(run.info.run_id, name) for name in ("loss", "graphs_per_second")}
    return [[(m.step, m.value) for m in values[name]] for name in values]


@pytest.mark.cluster
def test_the_learning_curve_is_in_mlflow(undisturbed, workspace):
    losses, rates = curve(workspace, undisturbed)
    assert [step for step, _ in losses] == [step for step, _ in rates] == [*range(EVERY, STEPS, EVERY), STEPS]
    assert losses[-1][1] < losses[0][1]
    assert all(rate > 0 for _, rate in rates)
    record = provenance_of(undisturbed)
    assert record["workers"] == {"0": 2}
    assert 288 <= record["networks"] == record["families"]["hiaml"]["networks"] <= 320
    assert record["device"] == "cpu"
    assert not training_folder(undisturbed, workspace).exists()


def test_a_pretraining_that_was_begun_otherwise_is_refused(tmp_path, monkeypatch):
    """Whatever ended the first call: here nothing trains."""
    monkeypatch.setattr(pretraining, "train", lambda *_: None)
    out, workspace = tmp_path / "out", tmp_path / "workspace"
    with pytest.raises(ServiceError, match="training ended before its last step; repeat the command"):
        call(out, workspace, 2)
    with pytest.raises(ConfigError, match=r"under way: pretrain\.epochs was 12, now 13\. Repeat"):
        call(out, workspace, 2, "--epochs", 13)
    assert newest_state(training_folder(out, workspace)) is None
    assert not out.exists()


@pytest.fixture
def pretrain_here(tmp_path, monkeypatch):
    """Pretrain without Ray; returns the number of trainings so far."""
    trainings = []

    def trained(training, *_):
        trainings.append(training)
        worker = WorkerPretraining(data(), NO_DROPOUT, CONFIGS["gennape"], np.random.default_rng(0))
        while worker.step < worker.steps:
            worker.advance()
        atomic_write_bytes(training.folder / f"state-{worker.step:08d}.safetensors", worker.state())

    def prepare():
        return Prepared(data(), np.random.default_rng(0), {})

    def call_here():
        scale = WorkersConfig(2, 2)
        pretrain_on_workers(tmp_path / "out", tmp_path, {}, prepare, NO_DROPOUT, CONFIGS["gennape"], scale)
        return len(trainings)

    monkeypatch.setattr(pretraining, "train", trained)
    return call_here


def test_a_lock_that_cannot_be_deleted_while_it_is_open_holds_up_no_encoder(tmp_path, monkeypatch, pretrain_here):
    """On NFS, which renames it, so that its folder is not empty until it is let go of."""
    unlink, folder, opened = os.unlink, training_folder(tmp_path / "out", tmp_path), []

    def renamed_while_open(path, *, dir_fd=None):
        if os.path.basename(path) == ".lock" and opened:
            return os.rename(path, ".nfs0001", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        return unlink(path, dir_fd=dir_fd)

    @contextmanager
    def lock(at):
        with lock_run(at):
            opened.append(at)
            yield
        opened.clear()

    monkeypatch.setattr(os, "unlink", renamed_while_open)
    monkeypatch.setattr(pretraining, "lock_run", lock)
    assert pretrain_here() == 1
    assert provenance_of(tmp_path / "out")["device"] == "cpu"
    assert list(folder.parent.iterdir()) == []


def test_a_finished_folder_that_cannot_be_removed_is_known_as_one(tmp_path, monkeypatch, pretrain_here):
    def refused(*_, **__):
        raise OSError(errno.EBUSY, "Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        assert pretrain_here() == 1
    first = (tmp_path / "out" / "checkpoint.json").read_bytes()
    assert pretrain_here() == 1
    assert (tmp_path / "out" / "checkpoint.json").read_bytes() == first


def test_pretrainings_that_begin_in_one_second_are_runs_of_different_names(tmp_path, monkeypatch):
    names = []

    def track(_, name, *__):
        names.append(name)
        raise InterruptedError

    monkeypatch.setattr(pretraining_driver, "local_ray", lambda *_: nullcontext())
    monkeypatch.setattr(pretraining_driver, "_refuse_absent_gpus", lambda _: None)
    monkeypatch.setattr(pretraining_driver, "track", track)
    monkeypatch.setattr("time.strftime", lambda _: "20260101-000000")
    stored = {"description": {}, "networks": 24}
    training = pretraining_driver.Training(tmp_path, tmp_path, tmp_path / "out", stored, NO_DROPOUT, CONFIGS["gennape"])
    for _ in range(2):
        with pytest.raises(InterruptedError):
            pretraining_driver.train(training, WorkersConfig(2, 2), None, None, None)
    assert names == ["pretrain-20260101-000000", "pretrain-20260101-000000-2"]


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", 3, "--batch", 32), "a batch of 32 cannot be dealt out evenly to 3 workers"),
        (("--workers", 2, "--min-workers", 3), "at least 3 of 2 workers"),
        (("--workers", 2, "--device", "cpu"), "--device is for one process"),
        (("--workers", 2, "--batch", 64, "--sample", 40), "a batch of 64 needs as many networks"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, arguments, message):
    places = ["--out", tmp_path / "out", "--workspace", tmp_path / "workspace"]
    result = CliRunner().invoke(app, ["pretrain", "--family", "hiaml", *map(str, (*places, *arguments))])
    assert isinstance(result.exception, ConfigError)
    assert re.search(message, str(result.exception))
    assert not (tmp_path / "out").exists()


# How workers of one machine meet --------------------------------------------------------------------------------------


def test_workers_of_one_machine_are_told_to_meet_by_a_file(monkeypatch, tmp_path):
    """Asked as Ray's own group is: a name of an argument that it has itself would be an error there."""
    import inspect

    from ray.train.v2._internal.execution.worker_group.execution_group import ExecutionGroup

    asked = []

    class Group:
        def get_resources_per_worker(self):
            return {"CPU": 1}

        def __len__(self):
            return 3

        def execute_single_async(self, *args, **kwargs):
            bound = inspect.signature(ExecutionGroup.execute_single_async).bind(self, *args, **kwargs)
            called = bound.arguments["fn"], bound.arguments["fn_args"], bound.arguments.get("fn_kwargs", {})
            asked.append(
                (bound.arguments["rank"], inspect.signature(called[0]).bind(*called[1], **called[2]).arguments)
            )

    monkeypatch.setattr(pretraining_driver.ray, "get", lambda results: results)
    config = pretraining_driver._torch_config(tmp_path / "ray")
    config.backend_cls().on_start(Group(), config)
    assert [rank for rank, _ in asked] == [0, 1, 2]
    assert [(call["rank"], call["size"], call["backend"]) for _, call in asked] == [(i, 3, "gloo") for i in range(3)]
    (file,) = {call["file"] for _, call in asked}
    assert Path(file).parent == tmp_path / "ray"
    assert (tmp_path / "ray").is_dir()
