"""SIGTERM and SIGHUP end a verb as Ctrl-C does: real processes, with a verb that says what happens to it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Start = Callable[..., tuple[subprocess.Popen[str], str]]

VERB = """
import signal, subprocess, sys, time
import gennape.jobs.data, gennape.jobs.shared.interruption
from gennape.jobs import cli

def verb(_out):
    {body}

gennape.jobs.data._list = verb
{before}
sys.argv[1:] = ["data"]
cli.main()
"""
DRAINS = """
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("draining", flush=True)
        time.sleep(1)
        print("drained", flush=True)
"""
HANGS = """
    child, told = subprocess.Popen(["sleep", "600"]), False
    while True:
        try:  # from before the first line on: the signal may follow at once
            if not told:
                told = True
                print("begun", child.pid, flush=True)
            time.sleep(60)
        except BaseException:
            continue
"""


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Starts the verb; returns its process and the first line that it prints."""
    with ExitStack() as stack:

        def start(body: str, before: str = "") -> tuple[subprocess.Popen[str], str]:
            command = [sys.executable, "-c", VERB.format(body=body, before=before)]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            process = stack.enter_context(subprocess.Popen(command, text=True, **pipes))
            stack.callback(process.kill)
            assert process.stdout is not None
            return process, process.stdout.readline()

        yield start


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("signals", "status"),
    [
        ([signal.SIGTERM], 143),
        ([signal.SIGHUP], 129),
        ([signal.SIGINT], 130),
        ([signal.SIGTERM, signal.SIGTERM], 143),
        ([signal.SIGTERM, None, signal.SIGTERM, signal.SIGHUP], 143),
    ],
)
def test_a_verb_drains_whatever_ends_it(start: Start, signals: list[signal.Signals | None], status: int) -> None:
    process, _ = start(DRAINS, "signal.signal(signal.SIGINT, signal.default_int_handler)")
    for number in signals:
        if number is None:
            assert process.stdout is not None
            assert process.stdout.readline() == "draining\n"
        else:
            process.send_signal(number)
    out, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert out.endswith("drained\n")
    assert said == "gennape: interrupted\n"


@pytest.mark.cluster
def test_what_does_not_drain_is_ended_with_its_children(start: Start) -> None:
    process, line = start(HANGS, "gennape.jobs.shared.interruption.DRAIN_S = 1.0")
    child = psutil.Process(int(line.split()[1]))
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert time.monotonic() - began >= 1
    assert said == "gennape: not drained 1 s after SIGTERM, ended all the same\n"
    psutil.wait_procs([child], timeout=10)  # killed, and perhaps not yet gone
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.cluster
def test_a_signal_that_is_ignored_from_birth_stays_so(start: Start) -> None:
    """As `nohup` has it."""
    process, _ = start(DRAINS.replace("60", "1"), "signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    process.send_signal(signal.SIGHUP)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said) == (0, "draining\ndrained\n", "")


@pytest.mark.cluster
def test_after_the_verb_a_signal_ends_the_process_at_once(start: Start) -> None:
    late = "import atexit; atexit.register(lambda: (print('late', flush=True), time.sleep(60)))"
    process, line = start("pass", late)
    assert line == "late\n"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (143, "")
