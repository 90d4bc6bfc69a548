"""Ray in a program that has its own way to end on a signal."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def keep_own_signals() -> None:
    """Leave SIGTERM to the handler that this program has set; call it before Ray is started or joined.

    ``ray.init`` would replace the handler by one that exits without a word. And what `timeout` or a shell sends to the
    whole group of processes would end Ray's before this one, which then waits in vain for them: they get groups of
    their own. (They end with this process, however it ends.) In a program without a handler Ray may do as it likes.
    """
    if signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.SIG_IGN, None):
        return
    import ray._private.utils  # noqa: PLC0415 (Ray reads its environment as it is imported)
    from ray._private import services  # noqa: PLC0415

    ray._private.utils.set_sigterm_handler = _leave
    if not isinstance(services.ConsolePopen, partial):
        services.ConsolePopen = partial(services.ConsolePopen, process_group=0)  # type: ignore[misc, assignment]


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that end this program wait for the end of the block: Ray's core crashes when its start is cut off."""
    ours = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if callable(handler := signal.getsignal(number))
    }
    if threading.current_thread() is not threading.main_thread():
        ours = {}
    came: list[int] = []
    for number in ours:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _leave(_handler: object) -> None:
    """Instead of Ray's function that sets a handler."""
