"""Local Rays are started one after another."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from gennape.platform.cluster import start as ray_start
from gennape.platform.cluster.signals import uninterrupted
from gennape.platform.cluster.start import turn_to_start

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event
    from pathlib import Path


def _hold(path: str, held: Event, let_go: Event) -> None:
    ray_start.LOCK = path
    with turn_to_start():
        held.set()
        let_go.wait(60)


def test_a_command_waits_until_another_has_started_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_start, "LOCK", str(tmp_path / ".ray" / "lock"))
    spawn = multiprocessing.get_context("spawn")
    held, let_go = spawn.Event(), spawn.Event()
    other = spawn.Process(target=_hold, args=(ray_start.LOCK, held, let_go))
    other.start()
    assert held.wait(120)
    began = time.monotonic()
    monkeypatch.setattr(ray_start, "MAX_WAIT_S", 0.5)
    with turn_to_start():
        assert 0.5 <= time.monotonic() - began < 30
    monkeypatch.setattr(ray_start, "MAX_WAIT_S", 60.0)
    other.kill()  # the system lets go of its lock
    other.join()
    began = time.monotonic()
    with turn_to_start():
        assert time.monotonic() - began < 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_until_ray_has_started(number: signal.Signals) -> None:
    before, done = signal.getsignal(number), []
    signal.signal(number, signal.default_int_handler)

    def start() -> None:
        with uninterrupted():
            for _ in range(2):
                os.kill(os.getpid(), number)
                time.sleep(0.01)
                done.append("started")

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert done == ["started", "started"]


def test_where_no_lock_can_be_kept_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "file" / "lock", tmp_path / "link"):
        monkeypatch.setattr(ray_start, "LOCK", str(path))
        with turn_to_start():
            pass
    assert not (tmp_path / "elsewhere").exists()
