"""Whatever a file holds, reading it ends soon, in little memory, with a result or an error of gennape that says where.

Here small valid files are damaged at random, a little of each format; ``python benchmarks/fuzz.py`` searches longer and
guided by coverage. What either found once lies in ``regressions/<target>`` and is read again by every run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from fuzz_targets import TARGETS, FuzzTarget
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HERE = Path(__file__).resolve().parent
REGRESSIONS = sorted(path for path in (HERE / "regressions").glob("*/*") if path.is_file())
#: No file here has more than some kilobytes: half a second is usual at most, this is for slow machines.
SECONDS = 10.0
MEBIBYTES = 1500

targets = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@targets
def test_undamaged_files_are_read(target: FuzzTarget, tmp_path: Path) -> None:
    """Otherwise the damaged ones would all be refused for one reason."""
    accepted = [target.run(data, tmp_path) is None for data in target.seeds()]
    assert accepted[0] or target.name == "checkpoint"  # which is a description without its weights
    assert sum(accepted) >= len(accepted) - 2


@targets
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,  # a run tells of the code and not of the dice; the search goes on in benchmarks/fuzz.py
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data(), rng=st.randoms(use_true_random=False))
def test_damaged_files_are_refused_or_read(
    target: FuzzTarget, data: st.DataObject, rng: Random, tmp_path: Path
) -> None:
    """Structured damage, twice at most, or damaged bytes."""
    contents = data.draw(st.sampled_from(target.seeds()))
    for _ in range(data.draw(st.integers(1, 2))):
        contents = target.damage(contents, rng)
    started = time.monotonic()
    target.run(contents, tmp_path)
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_findings_stay_fixed(path: Path, tmp_path: Path) -> None:
    """Types and shapes of all arguments are checked on the way (tests/conftest.py)."""
    error = TARGETS[path.parent.name].run(path.read_bytes(), tmp_path)
    assert error is None or len(str(error)) > 20


@pytest.mark.cluster
def test_findings_need_neither_time_nor_memory(tmp_path: Path) -> None:
    """In a process of its own, where memory has an end and a crash is no end of the tests."""
    done = subprocess.run(
        [sys.executable, HERE / "fuzz_replay.py", tmp_path, *REGRESSIONS],
        capture_output=True,
        text=True,
        timeout=60 + len(REGRESSIONS),
        check=False,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    following = REGRESSIONS[len(rows)] if len(rows) < len(REGRESSIONS) else None
    assert done.returncode == 0, f"at {following}: {done.stderr[-2000:]}"
    slow = {row["file"]: row["seconds"] for row in rows if row["seconds"] > SECONDS}
    large = {row["file"]: row["mebibytes"] for row in rows if row["mebibytes"] > MEBIBYTES}
    assert (slow, large) == ({}, {})
