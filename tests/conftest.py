"""Shapes and types of every annotated function of the two lower rooms are checked while the tests run.

``pytest -n 2`` deals out tests file by file, so that what the tests of a file share is made once. Each process and what
it starts computes in one thread: two that compute in two threads each wait for each other, and take up to twenty times
as long.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from example_counts import NIGHTLY
from hypothesis import settings
from typechecking import check_shapes

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when PyTorch and NumPy are imported
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:  # as nohup and a shell's & start it: commands would inherit that
        signal.signal(_number, _usual)
settings.register_profile(NIGHTLY, settings.get_profile(settings.get_current_profile_name()))
check_shapes("gennape.search_spaces", "gennape.predictors")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests take turns; pytest-xdist reads it where ``--dist loadgroup`` is given."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


_shared_ray = ExitStack()  # of this process; empty where none was started


@pytest.fixture(scope="module")
def ray_cluster() -> None:
    """A local Ray with two CPUs: the first module that asks starts it, others of this process go on with it.

    ``local_ray()`` uses a Ray that is there and leaves it running. Whoever kills nodes or looks at how Ray starts takes
    ``no_ray`` and has one of its own. Actors and tracked runs are told apart by the workspaces that they belong to.
    """
    import ray

    from gennape.platform.cluster.connection import local_ray

    if not ray.is_initialized():
        _shared_ray.enter_context(local_ray(num_cpus=2))


@pytest.fixture(scope="module")
def no_ray() -> None:
    """No Ray runs in this process."""
    _shared_ray.close()


def pytest_sessionfinish() -> None:
    """Before the processes of the last Ray are looked for as left behind."""
    _shared_ray.close()


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, for own classes; what is imported from it and what is registered is forgotten afterwards."""
    from gennape.platform.search.searchers.registry import REGISTRY as SEARCHERS
    from gennape.search_spaces.families.registry import REGISTRY as SPACES

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for registry in (SPACES, SEARCHERS):
        monkeypatch.setattr(registry, "_own", {})
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        module = sys.modules[name]
        files = [vars(module).get("__file__"), *vars(module).get("__path__", ())]
        if any(file is not None and Path(file).is_relative_to(tmp_path) for file in files):
            del sys.modules[name]
