"""Inputs of a conversion: a sample of a family, a labelled file, or a folder of ONNX files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from gennape.errors import InvalidDataError
from gennape.platform.conversion.parts import Architectures, OnnxPart, SampledPart
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.files.nearby import missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Int64, Shaped

    from gennape.platform.conversion.parts import Part


class Inputs(Protocol):
    """Rows that can be split into parts. It lives in the driver, so it is kept small."""

    @property
    def shard_size(self) -> int:
        """Default number of rows per shard."""
        ...

    @property
    def unread(self) -> Sequence[tuple[str, str]]:
        """Sources and reasons of what could not be read as a row."""
        ...

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def describe(self) -> dict[str, Any]:
        """A JSON description that decides the result: inputs with equal descriptions give equal shards."""
        ...

    def part(self, index: int, rows: range) -> Part:
        """The rows of shard ``index``."""
        ...


@dataclass(frozen=True, slots=True)
class FamilySample:
    """``n`` sampled architectures of a family. The shards of a seed are drawn independently."""

    space: str
    n: int
    seed: int
    published: bool = False
    shard_size: int = 4096
    unread: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return self.n

    def describe(self) -> dict[str, Any]:
        """Family, number and seed."""
        return {"space": self.space, "sample": self.n, "seed": self.seed, "published": self.published}

    def part(self, index: int, rows: range) -> Part:
        """The part, which only holds the seed of its own generator."""
        return SampledPart(self.space, self.seed, index, rows, self.published)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledFile:
    """The rows of a labelled file (genomes, ``accuracy``, other numeric columns), and its unreadable rows."""

    space: str
    path: Path
    column: str
    genomes: Int64[np.ndarray, "n g"]
    labels: dict[str, Shaped[np.ndarray, " n"]]
    unread: tuple[tuple[str, str], ...]
    published: bool = False
    shard_size: int = 4096

    def __len__(self) -> int:
        return len(self.genomes)

    def describe(self) -> dict[str, Any]:
        """Family, the file's name and hash (of a folder: of names and sizes), and the column of the accuracy."""
        if self.path.is_dir():
            digest = _names_and_sizes(self.path, [p.relative_to(self.path).as_posix() for p in self.path.rglob("*")])
        else:
            digest = sha256_of(self.path)
        what = {"space": self.space, "labels": self.path.name, "sha256": digest, "column": self.column}
        return what | {"published": self.published}

    def part(self, index: int, rows: range) -> Part:  # noqa: ARG002
        """Genomes and labels of the rows."""
        chosen = slice(rows.start, rows.stop)
        labels = {name: values[chosen] for name, values in self.labels.items()}
        return Architectures(self.space, self.path.name, self.genomes[chosen], labels, rows, self.published)


def labelled_file(path: Path, space: str, column: str | None = None, published: bool = False) -> LabelledFile:
    """Read a labelled file in any format of :mod:`labels`. Unreadable rows are kept for the report.

    Raises :class:`InvalidDataError` for a file without any architecture of the family.
    """
    from gennape.search_spaces.labels.labels import read_labels  # noqa: PLC0415 (workers do without pandas)

    unread: list[str] = []
    read = read_labels(path, family(space), column, unread.append)
    labels = {"accuracy": read.accuracy} | {
        f"label.{name}": _numbers(read.table[name])
        for name in read.table.select_dtypes(include=["number", "bool"]).columns
    }
    reasons = tuple((path.name, reason) for reason in unread)
    return LabelledFile(space, path, read.column or column or "", read.genomes, labels, reasons, published)


def _numbers(series: Any) -> Shaped[np.ndarray, " n"]:
    """A column as NumPy numbers; nullable types become floats with NaN."""
    return series.to_numpy() if isinstance(series.dtype, np.dtype) else series.to_numpy(np.float64, na_value=np.nan)


@dataclass(frozen=True, slots=True)
class OnnxFolder:
    """Every ``*.onnx`` in a folder and its subfolders, sorted by name."""

    folder: Path
    names: tuple[str, ...]
    max_bytes: int
    shape: tuple[int, ...] | None = None
    shard_size: int = 256
    unread: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def describe(self) -> dict[str, Any]:
        """The number of files, and a hash of names and sizes, since hashing gigabytes of weights would take minutes."""
        found = _names_and_sizes(self.folder, self.names)
        shape = {} if self.shape is None else {"shape": list(self.shape)}
        return {"onnx": len(self.names), "names_and_sizes": found, "max_bytes": self.max_bytes, **shape}

    def part(self, index: int, rows: range) -> Part:  # noqa: ARG002
        """The names of the rows."""
        return OnnxPart(self.folder, self.names[rows.start : rows.stop], rows, self.max_bytes, self.shape)


def onnx_folder(folder: Path, max_bytes: int = 2**31 - 1, shape: tuple[int, ...] | None = None) -> OnnxFolder:
    """The ONNX files of a folder; raises :class:`InvalidDataError` when it holds none.

    Files above ``max_bytes`` will be rejected; the default is the limit of the format. ``shape``: input shape for files
    that leave it open.
    """
    if not folder.is_dir():
        what = f"{folder} is a file; name the folder that it is in" if folder.exists() else missing(folder)
        raise InvalidDataError(what)
    found = (path for path in folder.rglob("*") if path.suffix.lower() == ".onnx" and not path.is_dir())
    names = tuple(sorted(path.relative_to(folder).as_posix() for path in found))
    if not names:
        raise InvalidDataError(f"{folder} holds no *.onnx file; name the folder that does")
    return OnnxFolder(folder.absolute(), names, max_bytes, shape)


def _names_and_sizes(folder: Path, names: Iterable[str]) -> str:
    """Hash of a folder's file names and sizes; -1 stands for the size of an unreadable file."""
    digest = hashlib.sha256()
    for name in sorted(names):
        try:
            size = (folder / name).stat().st_size
        except OSError:
            size = -1
        digest.update(f"{name} {size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
