"""Keep this program's signal handlers when it uses Ray."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def keep_own_signals() -> None:
    """Keep this program's handler of SIGTERM. Call it before Ray is started or joined.

    ``ray.init`` would replace the handler by one that exits silently. Ray's processes also get process groups of their
    own: a signal to the whole group, as `timeout` or a shell sends it, would otherwise end them before this process,
    which would wait for them in vain. (They end with this process, however it ends.) Without a handler nothing changes.
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
    """Delay signals until the end of the block, since Ray's core crashes when its start is interrupted."""
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
    """Replacement of Ray's function that sets a handler; it does nothing."""
