"""Signals that end a verb: SIGTERM and SIGHUP do what Ctrl-C does, so that every verb has one way to stop.

Containers, SLURM, systemd and spot machines announce the end by SIGTERM. It raises :class:`Terminated`, a
``KeyboardInterrupt``, in the main thread: what drains, writes its state and says how to go on after Ctrl-C does so
after SIGTERM. The exit status is 128 plus the number of the signal.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)
#: How long a verb may drain. Meanwhile further signals are ignored: `timeout` sends SIGTERM twice at once. After it the
#: process ends with what it has started: where Ray was ended first, there is nothing left to wait for.
DRAIN_S = 45.0
INTERRUPTED_STATUS = 130


class Terminated(KeyboardInterrupt):
    """The process was asked to end."""


class _Received:
    """The first signal that came; Ray may turn :class:`Terminated` into a plain ``KeyboardInterrupt``."""

    number: int | None = None
    ended = False


def end_on_signals() -> None:
    """Let SIGTERM and SIGHUP interrupt the main thread, from which this is called, until :func:`leave`."""
    _Received.number, _Received.ended = None, False
    os.environ["RAY_DISABLE_FAILURE_SIGNAL_HANDLER"] = "1"  # Ray, as it is imported, would print a C++ stack instead
    for number in SIGNALS:
        # What `nohup` makes deaf to SIGHUP stays so.
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def cause() -> str:
    """What interrupted the verb, for people."""
    return "Ctrl-C" if _Received.number is None else signal.Signals(_Received.number).name


def leave(status: Any) -> NoReturn:
    """End the process with the ``status`` of a verb that has ended, or with that of the signal which ended it.

    After a signal at once: what libraries do at the end of Python may crash where their start was cut off. A signal
    that comes from here on ends the process at once, too.
    """
    _Received.ended = True
    if _Received.number is None:
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed by whoever read it
            stream.flush()
    os._exit(128 + _Received.number)


def _interrupt(number: int, _: FrameType | None) -> None:
    if _Received.ended:
        os._exit(128 + number)
    if _Received.number is None:
        _Received.number = number
        threading.Thread(target=_limit, args=[number], name="gennape-limit", daemon=True).start()
        raise Terminated


def _limit(number: int) -> None:
    """End this process, and those that it had started when the signal came, if it has not ended in time."""
    import psutil

    children = psutil.Process().children(recursive=True)
    time.sleep(DRAIN_S)
    sys.stderr.write(f"gennape: not drained {DRAIN_S:g} s after {signal.Signals(number).name}, ended all the same\n")
    for child in children:
        with suppress(psutil.Error):
            child.kill()
    os._exit(128 + number)
