"""The benchmarks about searches run and find what the guides say of them; the fault drill in its short form."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def benchmark(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.cluster
@pytest.mark.drill
def test_a_killed_driver_node_and_replica_cost_no_evaluation_and_change_nothing():
    command = [sys.executable, "benchmarks/fault_drill_search.py"]
    command += ["--kills", "3", "--seed", "0", "--islands", "2", "--evaluations", "240"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(re.findall(r"round +\d+: (\w+) +killed", done.stdout)) == ["driver", "node", "replica"]
    assert re.search(
        r"3 kills, 240 of 240 evaluations in \d+ s: lost 0, duplicates 0, log in order True, "
        r"log and front identical to undisturbed True",
        done.stdout,
    )


@pytest.mark.drill
def test_islands_are_simulated_and_the_drivers_memory_does_not_grow(capsys):
    islands = benchmark("islands")
    small = ["--population", "10", "--latency", "0.01"]
    islands.main([*small, "--islands", "1", "3", "--rounds", "3"])
    islands.main([*small, "--islands", "2", "--rounds", "2", "--kinds", "steady", "--threads"])
    islands.main(["--population", "10", "--memory", "6400"])
    table, _, rest = capsys.readouterr().out.partition("synchronous: 6,400 evaluations")
    rows = [line.split() for line in table.splitlines()]
    assert [row[1] for row in rows if row[0] == "straggler"] == ["1", "1", "3", "3"]
    assert len(rows) == 1 + 3 * 2 * 2 + 1 + 2
    assert "asynchronous: 6,400 evaluations" in rest
    assert re.search(r"an island remembers: -?[\d.]+ bytes an evaluation", rest)


def test_asynchronous_islands_do_not_wait_for_a_straggler_in_simulated_time():
    """By the virtual clock, whose latencies are far above what anything costs here."""
    islands = benchmark("islands")
    options = ["--population", "10", "--latency", "100", "--islands", "8", "--rounds", "5", "--kinds", "straggler"]
    lines = []
    islands.say = lines.append
    islands.main(options)
    efficiency = {
        way: float(re.search(rf"{way} +\d+ +([\d.]+)", lines[row])[1])
        for row, way in [(1, "synchronous"), (2, "asynchronous")]
    }
    # Synchronous generations last as long as the straggler's; else one of eight islands does a fifth of the work.
    # Islands of ten begin with the same ends of the space: one generation in six finds next to nothing new.
    assert efficiency["synchronous"] == pytest.approx(5 / 6 / 5, abs=0.05)
    assert efficiency["asynchronous"] == pytest.approx(5 / 6 * 7.2 / 8, abs=0.1)
