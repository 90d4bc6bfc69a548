"""Check families against reference measurements: architectures with parameters, MACs, layers and logits.

A file ``<family>.jsonl`` holds one network per line: its ``config`` and what the reference code measured of it under
weights that a counter generates. See :func:`check_row` for what must agree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from gennape.errors import GennapeError, InvalidDataError
from gennape.search_spaces.families import nb101, nb201, nb301
from gennape.search_spaces.families.oracle import fill_weights, measure, uniform
from gennape.search_spaces.families.registry import families
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.files.bounded import read_regular
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import pack
from gennape.search_spaces.published.rows import check_published, is_published_row

__all__ = ["check_row", "fill_weights", "fixture_files", "measure", "read_rows", "space_of", "uniform"]

#: Other names of families in fixture files.
ALIASES = {"pn": "proxylessnas"}
#: Relative tolerance of logits, in units of the norm of the expected logits.
TOLERANCE = 1e-6
_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "params": int,
    "macs": int,
    "out_shape": list,
    "conv_linear_sha256": str,
    "logits8": list,
    "logits_l2": (int, float),
}


@dataclass(frozen=True, slots=True)
class FixtureRow:
    """One line of a fixture file: its identity and content, or why it cannot be read."""

    identity: str
    content: Mapping[str, Any]
    problem: str | None = None


# Reading --------------------------------------------------------------------------------------------------------------


def fixture_files(directory: Path) -> list[Path]:
    """The ``<family>.jsonl`` files directly in ``directory`` and in its folder ``graphs``, sorted.

    Raises :class:`InvalidDataError` where the folder is missing, unreadable or has none.
    """
    if not directory.is_dir():
        raise InvalidDataError(f"{directory} is not a folder; give one that holds <family>.jsonl files")
    try:
        folders = [folder for folder in (directory, directory / "graphs") if folder.is_dir()]
        files = [path for folder in folders for path in sorted(folder.glob("*.jsonl")) if path.is_file()]
    except OSError as error:
        raise InvalidDataError(f"cannot read the folder {directory}: {error.strerror}") from None
    if not files:
        raise InvalidDataError(f"{directory} holds no <family>.jsonl file; nothing can be checked")
    return files


#: Maximum size of a fixture file, bytes.
_MAX_BYTES = 1 << 30


def space_of(path: Path) -> SearchSpace | None:
    """The search space that a fixture file is named after, None where there is no such family here."""
    key = ALIASES.get(path.stem, path.stem)
    return next((space for space in families() if space.name == key), None)


def read_rows(path: Path) -> list[FixtureRow]:
    """Every line of a fixture file; a line or file that cannot be read is a row with a problem."""
    try:
        lines = read_regular(path, _MAX_BYTES).decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        return [FixtureRow("file", {}, f"cannot be read: {error}")]
    rows = [_parse(line, number) for number, line in enumerate(lines, 1) if line.strip()]
    return rows or [FixtureRow("file", {}, "holds no rows")]


def _parse(line: str, number: int) -> FixtureRow:
    try:
        content = json.loads(line)
    except ValueError as error:
        return FixtureRow(f"line {number}", {}, f"is not JSON: {error}")
    if not isinstance(content, dict):
        return FixtureRow(f"line {number}", {}, f"is not an object but {type(content).__name__}")
    return FixtureRow(str(content.get("id", f"line {number}")), content)


# Checking -------------------------------------------------------------------------------------------------------------


def check_row(space: SearchSpace, row: FixtureRow) -> list[str]:
    """Differences between a row and the networks that ``space`` makes of its ``config``; empty if all agree.

    Compared exactly: parameters and MACs of the module (and of the graph), output shape, hash of the executed layers,
    and what the family itself can tell (:data:`EXTRA`). Compared in float64 to 1e-6 of their norm: logits. A row that
    holds measurements under several settings of the family (:data:`SETTINGS`) is checked under each. A row that counts
    the operations of a published graph is checked against that graph.
    """
    if row.problem:
        return [row.problem]
    family = str(row.content.get("family", space.name))
    if ALIASES.get(family, family) != space.name:
        return [f"belongs to family {family!r}, but its file is named after {space.name}"]
    try:
        if is_published_row(row.content):
            genome = space.decode(_architecture(space, row.content))
            return check_published(space.graph(genome, published=True), row.content)
        settings = SETTINGS[space.name](space, row.content) if space.name in SETTINGS else [Setting(space, row.content)]
        return [setting.label + problem for setting in settings for problem in _check(setting)]
    except GennapeError as error:
        return [str(error)]


@dataclass(frozen=True, slots=True)
class Setting:
    """What was measured of an architecture as a member of ``space``.

    ``unseen`` parameters are those of layers that only training runs; ``label`` tells settings of one row apart.
    """

    space: SearchSpace
    content: Mapping[str, Any]
    unseen: int = 0
    label: str = ""


def _check(setting: Setting) -> list[str]:
    space, content = setting.space, setting.content
    if problems := _malformed(content):
        return problems
    genome = space.decode(_architecture(space, content))
    graph = space.graph(genome)
    measured, packed = measure(graph), pack([graph])
    exact: dict[str, tuple[Any, Any]] = {
        key: (getattr(measured, key), content[key]) for key in ("macs", "out_shape", "conv_linear_sha256")
    }
    exact["params"] = (measured.params + setting.unseen, content["params"])
    exact["params of the graph"] = (int(cost.params(packed)[0]), measured.params)
    exact["macs of the graph"] = (int(cost.macs(packed)[0]), measured.macs)
    differ = [f"{key} is {got}, expected {wanted}" for key, (got, wanted) in exact.items() if got != wanted]
    extra = EXTRA.get(space.name)
    return differ + _logits_differ(measured.logits, content) + (extra(genome, content) if extra else [])


def _malformed(content: Mapping[str, Any]) -> list[str]:
    if missing := [key for key in ("config", *_REQUIRED) if key not in content]:
        return [f"lacks {', '.join(missing)}"]
    problems = [
        f"{key} is {content[key]!r}, not {kind.__name__ if isinstance(kind, type) else 'a number'}"
        for key, kind in _REQUIRED.items()
        if not isinstance(content[key], kind) or isinstance(content[key], bool)
    ]
    if not problems and not all(type(value) in (int, float) for value in content["logits8"]):
        problems.append(f"logits8 is {content['logits8']!r}, not numbers")
    return problems


def _architecture(space: SearchSpace, content: Mapping[str, Any]) -> Any:
    """The row's config; its input size is the row's, which counts where the two differ."""
    config = content.get("config")
    sized = any(gene.name == "resolution" for gene in space.genes)
    if sized and isinstance(config, dict) and "resolution" in content:
        return {**config, "resolution": content["resolution"]}
    return config


def _logits_differ(logits: Float64[np.ndarray, " classes"], content: Mapping[str, Any]) -> list[str]:
    expected, norm = np.array(content["logits8"], np.float64), float(content["logits_l2"])
    got, got_norm = logits[: len(expected)], float(np.linalg.norm(logits))
    limit = TOLERANCE * norm
    problems = []
    if got.shape != expected.shape or not np.abs(got - expected).max(initial=0.0) <= limit:
        problems.append(f"logits8 is {got.tolist()}, expected {expected.tolist()} to {limit:.3g}")
    if not abs(got_norm - norm) <= limit:
        problems.append(f"logits_l2 is {got_norm!r}, expected {norm!r} to {limit:.3g}")
    return problems


def _check_nb101(genome: Int64[np.ndarray, " g"], content: Mapping[str, Any]) -> list[str]:
    problems = []
    if "hash_md5" in content and (got := nb101.graph_hash(genome)) != content["hash_md5"]:
        problems.append(f"hash_md5 is {got}, expected {content['hash_md5']}")
    if "vertex_channels" in content:
        matrix = np.array(nb101.NasBench101().encode(genome)["matrix"])
        successors = tuple(tuple(np.flatnonzero(row).tolist()) for row in matrix)
        sizes = ((128, 128), (128, 256), (256, 256), (256, 512), (512, 512))
        channels = [list(nb101.vertex_channels(c_in, c_out, successors)) for c_in, c_out in sizes]
        if channels != content["vertex_channels"]:
            problems.append(f"vertex_channels is {channels}, expected {content['vertex_channels']}")
    return problems


def _check_nb201(genome: Int64[np.ndarray, " g"], content: Mapping[str, Any]) -> list[str]:
    got = {"unique_str": nb201.isomorphism_string(genome), "valid": nb201.reaches_output(genome)}
    return [
        f"{key} is {value!r}, expected {content[key]!r}"
        for key, value in got.items()
        if key in content and content[key] != value
    ]


#: Checks of what a family knows besides its graph: (genome, row) -> differences.
EXTRA: dict[str, Callable[[Int64[np.ndarray, " g"], Mapping[str, Any]], list[str]]] = {
    "nb101": _check_nb101,
    "nb201": _check_nb201,
}


def _settings_nb301(space: SearchSpace, content: Mapping[str, Any]) -> list[Setting]:
    """One for each ``c<channels>_l<cells>_<aux or noaux>`` of the row, and one where it is itself a measurement."""
    settings = []
    for key, measured in content.items():
        match = _MACRO.fullmatch(key)
        if isinstance(measured, dict) and (match or not _REQUIRED.keys().isdisjoint(measured)):
            if match is None:
                raise InvalidDataError(f"{key} is not a setting such as c32_l8_noaux; rename or remove it")
            channels, cells = int(match[1]), int(match[2])
            unseen = nb301.auxiliary_params(channels) if match[3] == "aux" else 0
            row = {"config": content.get("config"), **measured}
            settings.append(Setting(nb301.NasBench301(channels, cells), row, unseen, f"{key}: "))
        elif match:
            raise InvalidDataError(f"{key} is {measured!r}, not an object of measurements")
    itself = not settings or not _REQUIRED.keys().isdisjoint(content)
    return [*settings, Setting(space, content)] if itself else settings


#: How the rows of a family hold measurements under several settings of it.
SETTINGS: dict[str, Callable[[SearchSpace, Mapping[str, Any]], list[Setting]]] = {"nb301": _settings_nb301}
_MACRO = re.compile(r"c([0-9]{1,4})_l([0-9]{1,3})_(aux|noaux)")
