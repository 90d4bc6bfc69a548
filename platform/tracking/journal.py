"""The journal of a run: what is to be recorded, on disk before MLflow has it, and how much of it MLflow has taken.

A folder of segments of JSON lines. One process appends, and never returns to a segment it has left; one process reads,
notes how far MLflow has got, and deletes what is done. So neither waits for the other, whatever is killed.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gennape.errors import WorkspaceError
from gennape.platform.workspace.files import RUNS
from gennape.platform.workspace.hints import command, workspace_option
from gennape.platform.workspace.run_files import read_json
from gennape.search_spaces.files.atomic import atomic_write_bytes, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import IO

#: Folder of journals: of a search in its run's folder, of others in the workspace.
FOLDER = "tracking"
#: Which run it is and where it is recorded; how far that has got; what MLflow refused for good.
RECORD, SENT, REFUSED = "run.json", "sent.json", "refused.jsonl"
#: Pictures that are to be sent.
IMAGES = "images"
SEGMENT_BYTES = 4 * 2**20
_SEGMENTS = "journal-*.jsonl"
_TRIES = 100
log = logging.getLogger(__name__)


@dataclass(slots=True)
class JournalRecord:
    """Which run a journal is of: ``server`` None for the workspace's store; ``run_id`` None before MLflow has one.

    ``token`` is a tag of the run: whether a run was made although its answer was lost can be asked by it.
    """

    server: str | None
    token: str
    run_id: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class Offset:
    """A position in a journal: the number of a segment, and bytes of it (``offset``)."""

    segment: int = 0
    offset: int = 0


def journal_folder(workspace: Path, run_name: str) -> Path:
    """Where the journal of a run is: in the run's folder where it has one."""
    run = workspace / RUNS / run_name
    return run / FOLDER if run.is_dir() else workspace / FOLDER / run_name


def run_name(folder: Path) -> str:
    """Of which run a folder is the journal."""
    return folder.name if folder.parent.name == FOLDER else folder.parent.name


def new_name(workspace: Path, verb: str, end: str = "") -> str:
    """A name for a run of a verb, ``<verb>-<date>-<time><end>``; a second one of a second gets ``-2``, and so on.

    The folder of its journal is made, and so the name is taken. Raises :class:`WorkspaceError` where it cannot be.
    """
    base, root = f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}{end}", workspace / FOLDER
    for number in range(1, 1000):
        name = base if number == 1 else f"{base}-{number}"
        try:
            root.mkdir(parents=True, exist_ok=True)
            (root / name).mkdir()
        except (FileExistsError, FileNotFoundError):  # the latter where the last of the other journals has just ended
            continue
        except OSError as error:
            raise WorkspaceError(f"cannot make a folder in {root} ({error.strerror or error})") from error
        return name
    send = command("ui", workspace=workspace_option(workspace))
    raise WorkspaceError(f"{root} already holds 999 journals called {base}; `{send}` sends what they hold")


def journals(workspace: Path) -> list[Path]:
    """All folders that hold a journal with something in it."""
    found = [*(workspace / RUNS).glob(f"*/{FOLDER}"), *(workspace / FOLDER).glob("*")]
    return sorted(folder for folder in found if segments(folder))


def segments(folder: Path) -> list[Path]:
    """The segments of a journal, in order."""
    return sorted(folder.glob(_SEGMENTS), key=_number)


def _number(segment: Path) -> int:
    return int(segment.stem.partition("-")[2])


@contextmanager
def lock_journal(folder: Path) -> Iterator[None]:
    """Be the only one who appends to a journal or catches up; raises :class:`WorkspaceError` when another does."""
    try:
        with _lock_file(folder) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WorkspaceError(f"{folder} is at work in another process; wait for it or stop it") from None
            yield
    finally:
        if folder.parent.name == FOLDER:
            for empty in (folder, folder.parent):
                with suppress(OSError):  # neither is empty as a rule
                    empty.rmdir()


def _lock_file(folder: Path) -> IO[str]:
    """Open it; tried again, since the last journal to end removes the folder that all share."""
    for _ in range(_TRIES):
        with suppress(FileNotFoundError, FileExistsError):
            folder.mkdir(parents=True, exist_ok=True)
            return (folder / ".lock").open("w")
    raise WorkspaceError(f"cannot make the folder {folder}; is a file in its place?")


def read_record(folder: Path) -> JournalRecord | None:
    """What a journal says it is of; None for a new one."""
    return JournalRecord(**read_json(folder / RECORD)) if (folder / RECORD).exists() else None


def write_record(folder: Path, record: JournalRecord) -> None:
    """Remember it, atomically."""
    write_json(folder / RECORD, asdict(record))


def new_token() -> str:
    """Not random in the sense of a search: it only must never come twice."""
    return uuid.uuid4().hex


class Journal:
    """The end that is written. A journal may be appended to by one process at a time, see :func:`lock_journal`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = max([read_offset(folder).segment, *map(_number, segments(folder))])
        self._file: int | None = None
        self._size = 0

    @property
    def position(self) -> Offset:
        """The end of what is written."""
        return Offset(self._number, self._size)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Append one entry, of plain JSON. Raises :class:`OSError`; a later call may succeed again.

        The operating system has it when this returns: it survives the death of this process.
        """
        line = (json.dumps(entry, separators=(",", ":")) + "\n").encode()
        file = self._open() if self._file is None or self._size > SEGMENT_BYTES else self._file
        try:
            written = os.write(file, line)
            if written != len(line):
                raise OSError("the disk took a part of a line; is it full?")
        except OSError:
            self.close()  # a torn line may only be the last of a segment
            raise
        self._size += len(line)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        self.close()
        self._number, self._size = self._number + 1, 0
        path = self._folder / f"journal-{self._number:06d}.jsonl"
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o644)
        return self._file


def entries(folder: Path, position: Offset) -> Iterator[tuple[dict[str, Any], Offset]]:
    """The entries after a place, each with the place after it, up to the last that is written whole."""
    for segment in segments(folder):
        number = _number(segment)
        if number < position.segment:
            continue
        offset = position.offset if number == position.segment else 0
        with segment.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):  # being written, or torn when its writer died
                    break
                offset += len(line)
                try:
                    entry = json.loads(line)
                except ValueError:
                    log.warning("a line of %s is damaged and left out", segment)
                    continue
                yield entry, Offset(number, offset)


def values_after(folder: Path, position: Offset) -> int:
    """How many values of metrics a journal holds after a place."""
    return sum(len(entry.get("metrics", ())) for entry, _ in entries(folder, position))


def read_offset(folder: Path) -> Offset:
    """How far MLflow has got."""
    return Offset(**read_json(folder / SENT)) if (folder / SENT).exists() else Offset()


def write_offset(folder: Path, position: Offset) -> None:
    """Remember how far MLflow has got, then delete the segments before it."""
    write_json(folder / SENT, asdict(position))
    for segment in segments(folder):
        if _number(segment) < position.segment:
            segment.unlink()


def flush(folder: Path) -> None:
    """Bring what was written last to the disk itself, whoever wrote it: it survives a power cut."""
    for segment in segments(folder)[-2:]:
        with segment.open("rb") as file:
            os.fsync(file.fileno())


def refuse(folder: Path, entry: Mapping[str, Any], reason: str) -> None:
    """Keep what MLflow will never take, with why."""
    with (folder / REFUSED).open("a") as file:
        file.write(json.dumps({**entry, "refused": reason}) + "\n")


def keep_image(folder: Path, path: Path, name: str) -> None:
    """Copy a picture into a journal, which holds it until it is sent."""
    (folder / IMAGES).mkdir(exist_ok=True)
    atomic_write_bytes(folder / IMAGES / name, path.read_bytes())


def clear(folder: Path, finished: bool) -> None:
    """Remove the journal of a run that MLflow has taken wholly; of a finished one outside a run's folder, all.

    The folder itself goes when its lock is let go of: on some network file systems a file that is open cannot be
    deleted. What cannot be removed holds up nobody: it goes in such an order that what is left is no journal any more.
    """
    try:
        for path in (*segments(folder), folder / SENT):
            path.unlink(missing_ok=True)
        shutil.rmtree(folder / IMAGES, ignore_errors=True)
        if finished and folder.parent.name == FOLDER and not (folder / REFUSED).exists():
            (folder / RECORD).unlink(missing_ok=True)
            shutil.rmtree(folder)
    except OSError as error:
        log.info("%s is not removed wholly: %s", folder, error)
