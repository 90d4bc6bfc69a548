"""Files that hold one network each: by their suffix, how they are read; and the shape that an input is given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.errors import ConfigError
from gennape.jobs.shared.input_files import require_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gennape.search_spaces.graphs.graph import ComputationGraph

_MAX_SIZES, _MAX_DIGITS = 16, 9


@dataclass(frozen=True, slots=True)
class InputShape:
    """The ``sizes`` of a network's input, with or without those of the batch."""

    sizes: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> InputShape:
        """From ``3,224,224``, ``1,3,224,224`` or ``3x224x224``; raises :class:`typer.BadParameter` for other text."""
        parts = re.split("[,x]", re.sub(r"\s", "", text.lower()).strip("()[]"))
        whole = all(re.fullmatch(rf"[0-9]{{1,{_MAX_DIGITS}}}", part) and int(part) > 0 for part in parts)
        if not whole or len(parts) > _MAX_SIZES:
            raise typer.BadParameter(f"{text[:80]!r} is no shape; write whole numbers above 0, as in 3,224,224")
        return cls(tuple(map(int, parts)))

    def __str__(self) -> str:
        return ",".join(map(str, self.sizes))


#: The option of every verb that takes a file of a network.
Shape = Annotated[
    InputShape | None,
    typer.Option(
        "--shape",
        parser=InputShape.parse,
        metavar="C,H,W",
        help="Input shape for files that leave it open, for example 3,224,224.",
    ),
]


def _read_onnx(path: Path, shape: tuple[int, ...] | None) -> ComputationGraph:
    from gennape.search_spaces.importing.onnx import read_onnx

    return read_onnx(path, shape=shape)


def _read_pt2(path: Path, shape: tuple[int, ...] | None) -> ComputationGraph:
    from gennape.search_spaces.importing.pt2 import read_pt2

    return read_pt2(path, shape)


#: How a file of one network is read, by its suffix in lower case.
READERS: Mapping[str, Callable[[Path, tuple[int, ...] | None], ComputationGraph]] = {
    ".onnx": _read_onnx,
    ".pt2": _read_pt2,
}


def holds_network(name: str | Path) -> bool:
    """Whether the suffix, in whatever case, is that of a file of one network."""
    return Path(name).suffix.lower() in READERS


def read_network(path: Path, shape: InputShape | None = None) -> ComputationGraph:
    """The network in a file, of whatever kind its suffix says.

    Raises :class:`ConfigError` for another suffix, :class:`InvalidDataError` for what is missing or no file, and what
    the reader raises.
    """
    require_file(path)
    if not holds_network(path):
        raise ConfigError(f"{path} is no file of a network; those that are read end in {', '.join(READERS)}")
    return READERS[path.suffix.lower()](path, None if shape is None else shape.sizes)


def refuse_file(text: str, suffixes: Sequence[str] = tuple(READERS)) -> None:
    """Raise :class:`ConfigError` for the name of a folder, or of a file without one of the ``suffixes``, where an
    architecture is meant."""
    path = Path(text)
    try:
        there, folder = path.exists(), path.is_dir()
    except (OSError, ValueError):  # too long for a path, or with a null byte
        there = folder = False
    if folder:
        raise ConfigError(f"{text} is a folder; name the files in it, as in {path / '*'}{suffixes[0]}")
    if there or _looks_like_file(text):
        what = "has none" if there else "does not exist, and has none"
        raise ConfigError(f"{text} {what} of the suffixes that are read: {', '.join(suffixes)}")


def _looks_like_file(text: str) -> bool:
    """One word with a suffix, or a path: no architecture is written so."""
    return re.fullmatch(r"[\w./~-]*\.[A-Za-z]\w{1,7}", text) is not None
