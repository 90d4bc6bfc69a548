"""Read labelled architectures from any known format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gennape.errors import InvalidDataError
from gennape.search_spaces.families.registry import families, family
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.files.nearby import missing
from gennape.search_spaces.labels import gennape_cache, json_families, nb101, nb201, nb301, table
from gennape.search_spaces.labels.labelled import (
    LabelledArchitectures,
    Reader,
    Rejected,
    Request,
    concatenate,
    split,
)

__all__ = ["READERS", "LabelledArchitectures", "families_of", "label_blocks", "read_labels", "reader_of", "split"]

#: The known formats; the first that recognises a file reads it.
READERS: tuple[Reader, ...] = (
    table.READER,
    nb101.READER,
    nb201.READER,
    nb301.READER,
    json_families.READER,
    gennape_cache.READER,
)


def reader_of(path: Path) -> Reader:
    """The format of a file or folder; raises :class:`InvalidDataError` with the known ones if it is another."""
    if not path.exists():
        said = missing(path)
        raise InvalidDataError(
            said if said.endswith("?") else f"{said}; `gennape data` lists sources of labelled files"
        )
    if path.is_file() and path.stat().st_size == 0:
        raise InvalidDataError(f"cannot read {path}: it is empty; write or fetch it again")
    for reader in READERS:
        try:
            if reader.recognises(path):
                return reader
        except OSError as error:
            raise InvalidDataError(f"cannot read {path}: {error.strerror or error}") from error
    known = "; ".join(f"{reader.name}: {reader.reads}" for reader in READERS)
    raise InvalidDataError(f"{path} has none of the known formats: {known}")


def families_of(reader: Reader) -> list[SearchSpace]:
    """The families whose architectures a format can hold."""
    return [space for space in families() if isinstance(space, reader.families or SearchSpace)]


def label_blocks(
    path: Path, space: SearchSpace, column: str | None = None, rejected: Rejected | None = None
) -> Iterator[LabelledArchitectures]:
    """Labelled rows of ``space`` in blocks of a few thousand, so that large files need little memory.

    ``column`` is the label, by default the format's usual accuracy (in percent). ``rejected`` is called with each bad
    row; without it the first bad row raises :class:`InvalidDataError` with its position and the reason.
    """
    reader = reader_of(path)
    if not isinstance(space, reader.families or SearchSpace):
        holds = " or ".join(known.name for known in families_of(reader))
        raise InvalidDataError(f"{path} holds architectures of {holds}, not of {space.name}")
    return reader.blocks(path, Request(space, column, rejected))


def read_labels(
    path: str | Path, space: str | SearchSpace, column: str | None = None, rejected: Rejected | None = None
) -> LabelledArchitectures:
    """Read the labelled architectures of a search space from a file of any known format.

    `gennape data` lists the formats. `gennape.search_spaces.labels.labels.label_blocks` reads a large file in blocks.

    Args:
        path: The file or folder.
        space: The search space of the rows: its name, or the object.
        column: The column of the label; None takes the usual accuracy of the format.
        rejected: Called with each row that cannot be read; None raises at the first one.

    Returns:
        ``genomes`` int64 [n, g]; ``accuracy`` float64 [n], in percent, or in the unit of ``column``; ``identity``, a
        hash that equal architectures share; ``table``, a data frame of all columns; and which rows were sampled at
        random or picked by an optimiser.

    Raises:
        InvalidDataError: The file is missing or empty, has none of the known formats, holds another search space, or,
            if ``rejected`` is None, has a row that cannot be read.

    Example:
        >>> import gennape as gp
        >>> rows = ['architecture,acc', '"[""hiaml_z"",""hiaml_a22"",""hiaml_b23"",""hiaml_l20""]",92.31']
        >>> _ = (folder / "labels.csv").write_text("\\n".join(rows))
        >>> labels = gp.read_labels(folder / "labels.csv", gp.family("hiaml"))
        >>> labels.accuracy
        array([92.31])
        >>> len(gp.family("hiaml").graphs(labels.genomes))
        1
    """
    return concatenate(label_blocks(Path(path), family(space), column, rejected), Path(path))
