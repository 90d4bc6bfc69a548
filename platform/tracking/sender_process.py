"""The process that holds MLflow's client: a child of the process that records, beside which it imports and sends.

It is asked in lines of JSON on its standard input and answers on its standard output. It ends with its parent, however
that ends: the system closes the pipe then.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gennape.platform.tracking.journal import Offset
from gennape.platform.tracking.sender import Sender, State
from gennape.platform.tracking.store import brief

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO

#: What the child runs: with the parent's search path, since the package may not be installed where it looks itself.
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from gennape.platform.tracking.sender_process import serve; serve()"
)
_END_S = 5.0


class SenderLostError(Exception):
    """The process of the sender has ended or does not answer."""


class SenderProcess:
    """A sender in a process of its own, from the side of the parent. For one thread.

    A process that cannot be started, or has ended, raises :class:`SenderLostError` when it is asked.
    """

    def __init__(self, folder: Path, workspace: Path) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._why = ""
        try:
            # -P: nothing in the current folder may stand in for a module. A session of its own: Ctrl-C, and a signal to
            # the whole group, end the parent, which then ends this process once it has sent the rest.
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter and code)
                [sys.executable, "-P", "-c", _CODE, json.dumps(sys.path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            self._send({"folder": str(folder), "workspace": str(workspace)})
        except (OSError, SenderLostError) as error:
            self._why = brief(error)

    def state(self, timeout_s: float) -> State:
        """How far it has got."""
        answer = self._ask({"call": "state"}, timeout_s)
        position = answer["position"]
        return State(**{**answer, "position": None if position is None else Offset(**position)})

    def send_now(self) -> None:
        """Let it try now instead of after its wait."""
        self._send({"call": "send_now"})

    def abandon(self, status: str, timeout_s: float) -> None:
        """Let it end the run without the journal, which is gone."""
        answer = self._ask({"call": "abandon", "status": status}, timeout_s)
        if answer["error"]:
            raise SenderLostError(answer["error"])

    @property
    def pid(self) -> int | None:
        """Of the process, if it could be started."""
        return None if self._process is None else self._process.pid

    def lost(self) -> str:
        """Why there is no such process any more; empty while there is one."""
        if self._process is None:
            return self._why
        code = self._process.poll()
        return "" if code is None else f"its process ended with status {code}"

    def end(self) -> None:
        """End the process."""
        if (process := self._process) is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise SenderLostError(self._why)
        return self._process

    def _ask(self, question: dict[str, str], timeout_s: float) -> dict[str, Any]:
        self._send(question)
        answer: dict[str, Any] = json.loads(self._line(timeout_s))
        return answer

    def _send(self, question: dict[str, str]) -> None:
        try:
            os.write(_descriptor(self._started().stdin), (json.dumps(question) + "\n").encode())
        except (OSError, ValueError) as error:
            raise SenderLostError(self.lost() or brief(error)) from error

    def _line(self, timeout_s: float) -> bytes:
        output, deadline = _descriptor(self._started().stdout), time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            if not select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self.end()  # else a late answer would be taken for that of the next question
                raise SenderLostError(f"no answer in {timeout_s:.0f} s")
            if not (read := os.read(output, 65536)):
                self.end()
                raise SenderLostError(self.lost())
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        return line


def _descriptor(pipe: IO[bytes] | None) -> int:
    return cast("IO[bytes]", pipe).fileno()


def serve() -> None:
    """What the child does: send the journal until the run has ended, and answer until the parent has."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints is no answer
    first = json.loads(sys.stdin.buffer.readline() or "null")
    if first is None:
        return
    sender = Sender(Path(first["folder"]), Path(first["workspace"]))
    threading.Thread(target=_answer, args=[sender, answers], name="gennape-answers", daemon=True).start()
    sender.run()
    threading.Event().wait()  # the other thread ends the process


def _answer(sender: Sender, answers: IO[bytes]) -> None:
    calls: dict[str, Callable[[dict[str, str]], dict[str, Any] | None]] = {
        "state": lambda _: asdict(sender.state()),
        "send_now": lambda _: sender.send_now(),
        "abandon": lambda question: {"error": _abandoned(sender, question["status"])},
    }
    for line in sys.stdin.buffer:
        question = json.loads(line)
        if (answer := calls[question["call"]](question)) is not None:
            with suppress(OSError):  # the parent has gone, and the next line is the end
                answers.write((json.dumps(answer) + "\n").encode())
    # At once: from now on another process may send this journal.
    os._exit(0)


def _abandoned(sender: Sender, status: str) -> str:
    try:
        sender.abandon(status)
    except Exception as error:  # noqa: BLE001 (whatever MLflow raises: the parent is told)
        return brief(error)
    return ""
