"""Pretraining on clusters whose nodes come and go, by themselves and when they are killed; as benchmarks run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments):
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.cluster
@pytest.mark.drill
def test_gpu_nodes_of_the_description_come_train_and_go():
    lines = run("benchmarks/elastic_pretraining.py", "--epochs", "4", "--idle", "3").splitlines()
    counts = [int(count) for line in lines for count in re.findall(r"GPU nodes: (\d+)", line)]
    assert max(counts) >= 2  # on a busy machine, Ray's autoscaler starts a third that it does not need
    assert counts[-1] == 0
    assert any("encoder written, by groups of {'0': 2} workers" in line for line in lines)


@pytest.mark.cluster
@pytest.mark.drill
def test_a_killed_worker_node_and_driver_change_no_byte_of_an_encoder():
    said = run("benchmarks/fault_drill_pretraining.py", "--kills", "3")
    assert sorted(re.findall(r"done: (\w+) +killed", said)) == ["driver", "node", "worker"]
    assert re.search(
        r"3 kills in \d+ s: same bytes True, runs in MLflow 1, learning curve part of the undisturbed True", said
    )
