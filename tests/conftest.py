"""Shapes and types of every annotated function of the two lower rooms are checked while the tests run.

With ``pytest -n 2`` the tests that start clusters take turns in one process, and the others run in the other, file by
file, so that what the tests of a file share is made once. Each process and what it starts computes in one thread: two
that compute in two threads each wait for each other, and take up to twenty times as long.
"""

import os
import signal

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when PyTorch and NumPy are imported
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:  # as nohup and a shell's & start it: commands would inherit that
        signal.signal(_number, _usual)
install_import_hook(["gennape.search_spaces", "gennape.predictors"], "beartype.beartype")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests take turns; pytest-xdist reads it where ``--dist loadgroup`` is given."""
    for item in items:
        turn = "cluster" if item.get_closest_marker("cluster") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(turn))
