"""Measures of a search that are learnt from a table of measured networks, such as latencies on a device."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gennape.errors import ConfigError, InvalidDataError, WorkspaceError
from gennape.platform.search.measures import REGISTRY, RESERVED
from gennape.platform.search.objectives import LATENCY
from gennape.search_spaces.files.atomic import atomic_write_bytes
from gennape.search_spaces.files.bounded import read_regular
from gennape.search_spaces.files.nearby import missing
from gennape.search_spaces.labels.labels import read_labels
from gennape.search_spaces.labels.table import SUFFIXES, tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gennape.platform.search.config import SearchConfig
    from gennape.predictors.model.fuzzy_ensemble import FuzzyEnsemble
    from gennape.search_spaces.families.space import SearchSpace
    from gennape.search_spaces.labels.labelled import LabelledArchitectures

#: The file of a run that holds what was learnt.
FILE = "heads.safetensors"
#: Fewer measured networks would teach next to nothing.
MIN_NETWORKS = 10
_SHOWN = 3
_MAX_BYTES = 1 << 30
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class MeasuredTable:
    """A measure to learn: its ``name``, the ``path`` of the table, and the ``column``, empty for a usual one."""

    name: str
    path: Path
    column: str = ""

    def __str__(self) -> str:
        return f"{self.name}={self.path}{':' if self.column else ''}{self.column}"


def parse_source(text: str, prefix: str = "") -> MeasuredTable:
    """Read ``npu=FILE`` or ``npu=FILE:column``; the measure is called ``prefix`` and the name.

    Raises :class:`ConfigError` for another form, a name that is taken, and a file that does not exist.
    """
    name, equals, rest = text.partition("=")
    if not equals or not rest or not _NAME.fullmatch(name.strip()):
        raise ConfigError(
            f"cannot read {text!r}; write a name, = and a table, as in npu=measured.csv or npu=FILE:column"
        )
    name = f"{prefix}{name.strip()}"
    if name in RESERVED or name in (one.name for one in (*REGISTRY.shipped, *REGISTRY.registered)):
        raise ConfigError(f"a measure called {name!r} is there already; give that of {rest} another name")
    path, colon, column = rest.rpartition(":")
    if Path(rest).exists() or not colon:
        path, column = rest, ""
    if not Path(path).is_file():
        raise ConfigError(f"{text}: {missing(Path(path)) if not Path(path).exists() else f'{path} is no file'}")
    return MeasuredTable(name, Path(path), column)


def split_sources(given: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[MeasuredTable, ...]]:
    """The settings of a search without tables, and the tables that ``latency`` and ``measures`` name."""
    others = {name: value for name, value in given.items() if name != "latency"}
    measures = given.get("measures", ())
    sources = [parse_source(text, LATENCY) for text in given.get("latency", ())]
    sources += [parse_source(text) for text in measures if "=" in text]
    if "measures" in given:
        others["measures"] = [text for text in measures if "=" not in text]
    return others, tuple(sources)


def read_source(source: MeasuredTable, space: SearchSpace) -> LabelledArchitectures:
    """The measured networks of a table, all of them.

    Raises :class:`InvalidDataError`, which names rows, for architectures of another space, values that are not finite
    and above 0, repeated architectures, and too few rows.
    """
    rejected: list[str] = []
    labels = _labels(source, space, rejected)
    if rejected:
        more = f" (and {len(rejected) - _SHOWN} more)" if len(rejected) > _SHOWN else ""
        raise InvalidDataError(
            f"{source.path} cannot be used for {source.name}, rows to mend: {len(rejected)}; "
            f"{'; '.join(rejected[:_SHOWN])}{more}. Remove them, or name the right --space or column"
        )
    low = np.flatnonzero(labels.accuracy <= 0)
    if len(low):
        raise InvalidDataError(
            f"{source.path}, row {low[0] + 1}: {labels.column} is {labels.accuracy[low[0]]:g}; must be above 0"
        )
    _refuse_repeated(source, labels)
    if len(labels.accuracy) < MIN_NETWORKS:
        raise InvalidDataError(
            f"{source.path} holds {len(labels.accuracy)} measured networks; {source.name} needs {MIN_NETWORKS} or "
            "more, 50 do much"
        )
    return labels


def _labels(source: MeasuredTable, space: SearchSpace, rejected: list[str]) -> LabelledArchitectures:
    column = source.column or _usual_column(source)
    try:
        return read_labels(source.path, space, column, rejected.append)
    except InvalidDataError as error:
        if not rejected:
            raise
        raise InvalidDataError(
            f"{source.path} holds no architecture of {space.name} with a value of {column}: {rejected[0]}. Name the "
            "search space and the column of these networks"
        ) from error


def _usual_column(source: MeasuredTable) -> str:
    """The column of a table that holds a measure, by its name."""
    short = source.name.removeprefix(LATENCY)
    usual = (short, source.name, f"latency_{short}", f"latency_{short}_ms", f"{short}_ms", "latency", "latency_ms")
    if not source.path.name.lower().endswith(SUFFIXES):
        raise ConfigError(f"{source.path} is no table; name the column, as in {source}:COLUMN")
    table = next(tables(source.path), pd.DataFrame())
    found = next((name for name in usual if name in table.columns), None)
    if found is None:
        numeric = [str(name) for name in table.columns if pd.api.types.is_numeric_dtype(table[name])]
        known = f"its columns of numbers are {', '.join(numeric)}" if numeric else "none of its columns holds numbers"
        raise ConfigError(
            f"{source.path} has no column {short!r}; {known}. Name one, as in {source}:{(numeric or ['COLUMN'])[0]}"
        )
    return found


def _refuse_repeated(source: MeasuredTable, labels: LabelledArchitectures) -> None:
    first: dict[str, int] = {}
    for row, identity in enumerate(labels.identity):
        if first.setdefault(identity, row) != row:
            raise InvalidDataError(
                f"{source.path}, row {row + 1} is the same architecture as row {first[identity] + 1}; keep one row of "
                "each, for example with the median of its measurements"
            )


def learn(sources: Iterable[MeasuredTable], space: SearchSpace, ensemble: FuzzyEnsemble) -> bytes:
    """What an ensemble learns of all sources, as the bytes of :data:`FILE`; raises as :func:`read_source`."""
    from gennape.predictors.model.heads import fit_heads, pack_heads  # noqa: PLC0415 (torch)

    read = {source.name: read_source(source, space) for source in sources}  # all of them before the first is learnt
    measured = {name: (space.graphs(labels.genomes), labels.accuracy) for name, labels in read.items()}
    return pack_heads(fit_heads(ensemble, measured))


def settings_of(sources: Sequence[MeasuredTable], learnt: bytes) -> dict[str, object]:
    """The settings of a search that say what was learnt."""
    names = [source.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is given more than once; each measure is learnt from one table")
    return {
        "heads": tuple(names),
        "heads_from": tuple(map(str, sources)),
        "heads_sha256": hashlib.sha256(learnt).hexdigest() if sources else "",
    }


def write_learnt(folder: Path, learnt: bytes) -> None:
    """Store what was learnt in the folder of a run."""
    atomic_write_bytes(folder / FILE, learnt)


def read_learnt(folder: Path, config: SearchConfig) -> bytes:
    """What a run learnt, empty where it learnt nothing; raises :class:`WorkspaceError` if it is not what it was."""
    if not config.heads:
        return b""
    try:
        learnt = read_regular(folder / FILE, _MAX_BYTES)
    except OSError as error:
        raise WorkspaceError(f"cannot read {folder / FILE} ({error.strerror}); restore it from a copy") from error
    if hashlib.sha256(learnt).hexdigest() != config.heads_sha256:
        raise WorkspaceError(f"{folder / FILE} is not what the search began with; restore it from a copy")
    return learnt
