"""Parts of a conversion: all that a worker needs to make one shard of graphs."""

from __future__ import annotations

import faulthandler
import json
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from gennape.errors import GennapeError, OpenShapeError
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.cost import macs, params
from gennape.search_spaces.graphs.graph import ComputationGraph, PackedGraphs, pack
from gennape.search_spaces.graphs.parquet import GRAPH_COLUMNS
from gennape.search_spaces.graphs.spectrum import laplacian_spectra

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import BinaryIO

    from jaxtyping import Int64, Shaped

_MAX_REASON = 1000  # characters; names in ONNX files may have any length
_BLOCK = 1024  # graphs hashed at once; their 64-bit copies dominate memory


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row without a graph: INVALID, TIMEOUT, FAILED (its worker died) or BUG, and the reason."""

    source: str
    row: int
    reason: str


def rejection(source: str, row: int, reason: str) -> Rejection:
    """A rejection that can be written as text. Reasons are shortened, since they may quote foreign files."""
    cut = reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]} ..."
    return Rejection(_as_text(source), row, _as_text(cut))


def _as_text(name: str) -> str:
    """A file name as text; bytes that are not UTF-8 are escaped with backslashes."""
    return name.encode(errors="backslashreplace").decode()


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """Graphs with their columns, in the order of their rows, and the rejected rows."""

    graphs: PackedGraphs
    columns: dict[str, pa.Array]
    rejected: list[Rejection]


@dataclass(frozen=True, slots=True)
class Watch:
    """Time limit of ONNX files: the current row is written to ``note``, and a process that exceeds the limit exits."""

    note: Path
    seconds: float


class Part(Protocol):
    """Consecutive rows of the input."""

    @property
    def rows(self) -> range:
        """Positions in the whole input."""
        ...

    def convert(self, spectrum: int, watch: Watch, skip: Mapping[int, str]) -> Converted:
        """The graphs of all rows except those in ``skip``, which are rejected for the reasons given there."""
        ...


# Architectures of a family -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SampledPart:
    """A sample that is drawn by the worker, from a generator of its own, independent of other parts."""

    space: str
    seed: int
    index: int
    rows: range
    published: bool

    def convert(self, spectrum: int, watch: Watch, skip: Mapping[int, str]) -> Converted:  # noqa: ARG002
        """Draw and build, unless all rows are skipped."""
        known, n = family(self.space), len(self.rows)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.index,)))
        genomes = known.sample(rng, n) if len(skip) < n else np.zeros((n, len(known.genes)), np.int64)
        architectures = Architectures(self.space, f"seed {self.seed}", genomes, {}, self.rows, self.published)
        return convert_architectures(architectures, spectrum, skip)


@dataclass(frozen=True, slots=True, eq=False)
class Architectures:
    """Architectures with their labels (``accuracy`` and others), one value per row."""

    space: str
    source: str
    genomes: Int64[np.ndarray, "n g"]
    labels: Mapping[str, Shaped[np.ndarray, " n"]]
    rows: range
    published: bool

    def convert(self, spectrum: int, watch: Watch, skip: Mapping[int, str]) -> Converted:  # noqa: ARG002
        """Build."""
        return convert_architectures(self, spectrum, skip)


def convert_architectures(part: Architectures, spectrum: int, skip: Mapping[int, str]) -> Converted:
    """Graphs and columns. Genomes that the family refuses are rejected; equal genomes are built once."""
    rejected = {row: skip[row] for row in part.rows if row in skip}
    wanted = np.array([i for i, row in enumerate(part.rows) if row not in rejected], np.int64)
    distinct, which = np.unique(part.genomes[wanted], axis=0, return_inverse=True)
    graphs, texts, refused = _build(part, distinct)
    built = np.full(len(distinct), -1)
    built[[i for i in range(len(distinct)) if i not in refused]] = np.arange(len(graphs))
    own = _columns([part.space] * len(graphs), texts, graphs, spectrum)
    chosen = built[which.ravel()]
    rejected |= {part.rows[wanted[i]]: refused[int(which.ravel()[i])] for i in np.flatnonzero(chosen < 0).tolist()}
    kept, chosen = wanted[chosen >= 0], chosen[chosen >= 0]
    columns = {
        "source": pa.array([part.source] * len(kept), pa.string()),
        "row": pa.array(part.rows.start + kept),
        **{name: values.take(pa.array(chosen)) for name, values in own.items()},
        **{name: pa.array(values[kept]) for name, values in part.labels.items()},
    }
    refusals = [rejection(part.source, row, why) for row, why in sorted(rejected.items())]
    return Converted(graphs.take(chosen), columns, refusals)


def _build(part: Architectures, genomes: Int64[np.ndarray, "n g"]) -> tuple[PackedGraphs, list[str], dict[int, str]]:
    """Graphs and JSON of valid genomes; positions and reasons of the others."""
    space = family(part.space)
    graphs, texts, refused = [], [], {}
    for index, genome in enumerate(genomes):
        try:
            text, graph = json.dumps(space.encode(genome)), space.graph(genome, part.published)
        except GennapeError as error:
            refused[index] = f"INVALID: {error}"
        else:
            texts.append(text)
            graphs.append(graph)
    return pack(graphs), texts, refused


# ONNX files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OnnxPart:
    """ONNX files, by their names within ``folder``."""

    folder: Path
    names: tuple[str, ...]
    rows: range
    max_bytes: int
    shape: tuple[int, ...] | None = None

    def convert(self, spectrum: int, watch: Watch, skip: Mapping[int, str]) -> Converted:
        """Read one file after another, each within the time limit."""
        graphs, kept, rejected = [], [], []
        columns = [_columns([], [], pack([]), spectrum)]
        with watch.note.open("wb", buffering=0) as note:
            for row, name in zip(self.rows, self.names, strict=True):
                if row in skip:
                    rejected.append(rejection(name, row, skip[row]))
                    continue
                with _deadline(note, row, watch.seconds):
                    try:
                        graph = _read(self.folder / name, self.max_bytes, self.shape)
                        columns.append(_columns([None], [None], pack([graph]), spectrum))
                    except GennapeError as error:
                        rejected.append(self._rejection(name, row, f"INVALID: {error}"))
                        continue
                    except Exception as error:  # noqa: BLE001 (one file must not end thousands; BUGs are counted apart)
                        rejected.append(self._rejection(name, row, f"BUG: {type(error).__name__}: {error}"))
                        continue
                graphs.append(graph)
                kept.append((name, row))
        watch.note.unlink(missing_ok=True)
        own = {
            "source": pa.array([_as_text(name) for name, _ in kept], pa.string()),
            "row": pa.array([row for _, row in kept], pa.int64()),
        }
        measured = {name: pa.concat_arrays([c[name] for c in columns]) for name in columns[0]}
        return Converted(pack(graphs), own | measured, rejected)

    def _rejection(self, name: str, row: int, reason: str) -> Rejection:
        """A message without the folder's path, which is private and would make the shards differ between machines."""
        return rejection(name, row, reason.replace(str(self.folder / name), name))


def _read(path: Path, max_bytes: int, shape: tuple[int, ...] | None) -> ComputationGraph:
    """Import the network of a file. ``shape``: input shape if the file leaves it open."""
    from gennape.search_spaces.importing.onnx import read_onnx  # noqa: PLC0415 (other inputs do without ONNX)

    try:
        return read_onnx(path, max_bytes)
    except OpenShapeError:
        if shape is None:
            raise
        return read_onnx(path, max_bytes, shape)


@contextmanager
def _deadline(note: BinaryIO, row: int, seconds: float) -> Iterator[None]:
    """Note the current row, and end the process if the block exceeds the time limit, even if it hangs in C code.

    The watchdog thread is C code, too: it appends the traceback to the note and calls ``_exit``.
    """
    note.seek(0)
    note.truncate()
    note.write(f"{row}\n".encode())
    faulthandler.dump_traceback_later(seconds, exit=True, file=note)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def read_note(note: Path) -> tuple[int | None, bool]:
    """The row that a worker was reading when it died (None if it reads no files), and whether it timed out."""
    lines = note.read_text(errors="replace").splitlines() if note.is_file() else []
    row = int(lines[0]) if lines and lines[0].isdigit() else None
    return row, row is not None and any(line.startswith("Timeout") for line in lines[1:])


def _columns(
    families: Sequence[str | None], architectures: Sequence[str | None], graphs: PackedGraphs, spectrum: int
) -> dict[str, pa.Array]:
    """The columns of every graph. Spectra are single precision, since they are used to about 1e-3."""
    hashes: list[str] = []
    costs = [np.zeros((2, 0), np.int64)]
    for start in range(0, len(graphs), _BLOCK):
        block = graphs.take(np.arange(start, min(start + _BLOCK, len(graphs))))
        hashes += canonical_hashes(block)
        costs.append(np.stack([macs(block), params(block)]))
    multiplications, parameters = np.concatenate(costs, axis=1)
    spectra = laplacian_spectra(graphs, spectrum).astype(np.float32)
    return {
        "family": pa.array(families, pa.string()),
        "architecture": pa.array(architectures, pa.string()),
        "hash": pa.array(hashes, pa.string()),
        "macs": pa.array(multiplications),
        "params": pa.array(parameters),
        "spectrum": pa.FixedSizeListArray.from_arrays(pa.array(spectra.ravel()), spectrum),
    }


#: Columns of every shard.
COLUMNS = ("source", "row", *_columns([], [], pack([]), 1), *GRAPH_COLUMNS)
