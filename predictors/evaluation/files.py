"""Which labelled files an evaluation reads: those of known names in a folder, or any that a family is given for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from gennape.errors import ConfigError, InvalidDataError
from gennape.predictors.evaluation.rows import BENCHMARKS, OWN, Benchmark
from gennape.search_spaces.families.registry import families, family
from gennape.search_spaces.labels.table import SUFFIXES, tables


def benchmarks_in(data: Path, space: str | None = None, column: str | None = None) -> tuple[Path, list[Benchmark]]:
    """The folder, and what is read of the files in it.

    Without ``space``: the files of known names in the folder ``data``, and other tables there that say their family; or
    the one that ``data`` is. With ``space``: the
    file ``data``, or every table in that folder, as architectures of this family; ``column`` is the label, by default
    the usual one. Of several rows of an architecture the mean is its label there.
    Raises :class:`InvalidDataError` where there is nothing to read, :class:`ConfigError` for a family that is unknown
    or missing.
    """
    if data.is_dir():
        if space is None and column is not None:
            raise ConfigError("--column is for files of a family that you name; give it with --space")
        return data, _known(data) if space is None else _tables(data, space, column)
    if space is None and column is None and (found := _of_name(data.name)):
        return data.parent, [found]
    if space is None:
        raise ConfigError(f"{data} does not say the search space of its architectures. Give --space")
    found = _of_name(data.name)
    if found is not None and found.family == space and column in (None, found.column):
        return data.parent, [found]
    return data.parent, [_own(data.name, space, column)]


def _own(name: str, space: str, column: str | None) -> Benchmark:
    return Benchmark(name, name, family(space).name, column, averaged=True)


def _known(folder: Path) -> list[Benchmark]:
    """Those whose file is in the folder, with whatever suffix of a table; and every other table that says its family.

    A table says it by its name, as ``tinynet.csv`` does, or by a column ``family``, as `gennape label` writes.
    """
    files = [path.name for path in folder.iterdir() if path.is_file()]
    present = []
    for benchmark in (*BENCHMARKS, *OWN):
        same = [name for name in files if _stem(name) == _stem(benchmark.file)]
        if benchmark.file in same:
            present.append(benchmark)
        elif same:
            present.append(replace(benchmark, file=min(same)))
    taken = {_stem(one.file) for one in (*BENCHMARKS, *OWN)}
    others = {name: _family_of(folder / name) for name in sorted(files) if _stem(name) not in (None, *taken)}
    present += [_own(name, space, None) for name, space in others.items() if space is not None]
    if not present:
        known = [benchmark.file for benchmark in (*BENCHMARKS, *OWN)]
        raise InvalidDataError(
            f"{folder} holds none of {known}; name the folder that does, or give the family of its files with --space"
        )
    return present


def _family_of(path: Path) -> str | None:
    """The family that a table says its architectures are of; None where it says none that is known."""
    names = {space.name for space in families()}
    if (stem := _stem(path.name)) in names:
        return stem
    try:
        said = next(tables(path), pd.DataFrame()).get("family", pd.Series(dtype=str)).unique()
    except InvalidDataError:  # whatever it is, it was not named
        return None
    return said[0] if len(said) == 1 and said[0] in names else None


def _tables(folder: Path, space: str, column: str | None) -> list[Benchmark]:
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and _stem(path.name) is not None)
    if not names:
        raise InvalidDataError(f"{folder} holds no labelled table ({', '.join(SUFFIXES)}); name the folder that does")
    return [_own(name, space, column) for name in names]


def _of_name(name: str) -> Benchmark | None:
    """The benchmark that a file is called after, read from this file."""
    known = next((one for one in (*BENCHMARKS, *OWN) if _stem(one.file) == _stem(name)), None)
    return None if known is None else replace(known, file=name)


def _stem(name: str) -> str | None:
    """A table's name without its suffix; None for what is no table."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), None)
    return None if suffix is None else name[: -len(suffix)]
