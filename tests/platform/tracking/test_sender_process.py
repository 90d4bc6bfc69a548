"""The process that sends: it lives as long as its parent, and what is asked of a lost one is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from gennape.platform.tracking.journal import Journal, JournalRecord, write_record
from gennape.platform.tracking.sender_process import SenderLostError, SenderProcess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.cluster
PATIENCE_S = 120
PROGRAM = """
import sys, time
from pathlib import Path
from gennape.platform.tracking.tracker import track
with track(Path(sys.argv[1]), "run", {}) as tracker:
    tracker.metrics(0, {"hypervolume": 1.0})
    print(tracker._sender.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_its_parent_and_not_by_a_signal_to_the_group(tmp_path: Path, number: signal.Signals) -> None:
    """After Ctrl-C, which the whole group gets, the parent still sends the rest through it."""
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as parent:
        try:
            assert parent.stdout is not None
            sender = psutil.Process(int(parent.stdout.readline()))
            os.killpg(parent.pid, number)
            parent.wait(PATIENCE_S)
            sender.wait(PATIENCE_S)
        finally:
            parent.kill()
    left = list((tmp_path / "tracking").glob("run/journal-*.jsonl"))
    assert bool(left) == (number == signal.SIGKILL)


def test_a_lost_one_says_so_to_whoever_asks(tmp_path: Path) -> None:
    write_record(tmp_path, JournalRecord(None, "token"))
    Journal(tmp_path)
    sender = SenderProcess(tmp_path, tmp_path)
    assert sender.state(PATIENCE_S).run_id == ""
    assert sender.lost() == ""
    psutil.Process(sender.pid).kill()
    with pytest.raises(SenderLostError, match="its process ended with status -9"):
        sender.state(PATIENCE_S)
    sender.end()


def test_one_that_cannot_be_started_is_lost_from_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
    sender = SenderProcess(tmp_path, tmp_path)
    assert "no python" in sender.lost()
    with pytest.raises(SenderLostError, match="no python"):
        sender.state(1.0)
    sender.end()
