"""Read the caches that GENNAPE published (Mills et al., 2023): ``gpi_<family>_comp_graph_cache.pkl``.

Each is a pickled list of dictionaries: ``compute graph``, ``acc`` (a fraction), ``flops``, ``n_params`` and ``original
config``, from which the architecture is read. The graph, an object of a GENNAPE class, is skipped
(https://github.com/Ascend-Research/GENNAPE, ``model_src/predictor/gpi_family_data_manager.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gennape.errors import InvalidDataError
from gennape.search_spaces.families.nb101 import NasBench101
from gennape.search_spaces.families.nb201 import NasBench201
from gennape.search_spaces.families.nb301 import NasBench301
from gennape.search_spaces.families.ofa_mbv3 import OfaMobileNetV3
from gennape.search_spaces.families.ofa_resnet import OfaResNet
from gennape.search_spaces.families.proxylessnas import ProxylessNAS
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.files.bounded import open_bounded
from gennape.search_spaces.files.restricted_pickle.reader import FORGOTTEN, Record, Rules, read_pickle
from gennape.search_spaces.labels.labelled import (
    LabelledArchitectures,
    LabelledRow,
    Reader,
    Request,
    choose_column,
    gather,
)

_GRAPH = "model_src.comp_graph.tf_comp_graph"
_GENOTYPE = "model_src.darts.model_darts.Genotype"
RECORDS = frozenset({f"{_GRAPH}.{name}" for name in ("ComputeGraph", "RegularNode", "WeightedNode")} | {_GENOTYPE})
_GENOTYPE_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_USUAL = ("acc",)
#: Most values in one configuration, with shared ones counted each time.
_MAX_VALUES = 4096

Config = Callable[[Any], Any]


def _pass_over(_: object) -> None:
    """Replace a graph by None: 50,000 graphs would need about ten gigabytes."""


RULES = Rules({}, records=RECORDS, shrink={"compute graph": _pass_over})


def plain(config: object) -> Any:
    """A configuration as plain JSON values: tuples, ranges and arrays become lists, genotypes objects."""
    left = [_MAX_VALUES]

    def convert(value: Any) -> Any:
        left[0] -= 1
        size = value.size if isinstance(value, np.ndarray) else len(value) if isinstance(value, range) else 0
        if left[0] < 0 or size > _MAX_VALUES:
            raise InvalidDataError(f"a configuration of more than {_MAX_VALUES} values")
        if isinstance(value, np.ndarray):
            return convert(value.tolist())
        if isinstance(value, Record) and value.key == _GENOTYPE and len(value.args) == len(_GENOTYPE_FIELDS):
            return {name: convert(part) for name, part in zip(_GENOTYPE_FIELDS, value.args, strict=True)}
        if isinstance(value, list | tuple | range):
            return [convert(part) for part in value]
        if isinstance(value, dict):
            return {str(key): convert(part) for key, part in value.items()}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        what = "a part that was skipped" if value is FORGOTTEN else f"a {type(value).__name__}"
        raise InvalidDataError(f"{what} in a configuration")

    return convert(config)


# From the plain configuration to the family's architecture; None if it belongs to another family ----------------------


def _pair(config: Any) -> list[Any]:
    if not isinstance(config, list) or len(config) != 2:
        raise InvalidDataError(f"a configuration of two parts expected, got {str(config)[:80]}")
    return config


def _cell(config: Any) -> Any:
    ops, matrix = _pair(config)
    return {"matrix": matrix, "ops": ops}


def _units(prefix: str) -> Config:
    """Two OFA families share one cache; the prefix of their layers' names separates them."""

    def convert(config: Any) -> Any:
        _, units = _pair(config)
        first = units[0][0] if isinstance(units, list) and units and isinstance(units[0], list) and units[0] else ""
        return config if str(first).startswith(prefix) else None

    return convert


def _resnet(config: Any) -> Any:
    resolution, fields = _pair(config)
    if not isinstance(fields, dict):
        raise InvalidDataError(f"a configuration of d, e and w expected, got {str(fields)[:80]}")
    return {**{key: fields.get(key) for key in "dew"}, "resolution": resolution}


def _as_it_is(config: Any) -> Any:
    return config


_CONFIGS: Mapping[type[SearchSpace], Config] = {
    NasBench101: _cell,
    NasBench201: _as_it_is,
    NasBench301: _as_it_is,
    OfaMobileNetV3: _units("mbconv3"),
    ProxylessNAS: _units("mbconv2"),
    OfaResNet: _resnet,
}


def recognises(path: Path) -> bool:
    """Whether the suffix is that of a pickle."""
    return path.is_file() and path.name.endswith((".pkl", ".pickle"))


def blocks(path: Path, request: Request) -> Iterator[LabelledArchitectures]:
    """Blocks of rows of the requested family; entries without a usable configuration are rejected by number."""
    with open_bounded(path) as stream:
        entries = read_pickle(stream, str(path), RULES)
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "original config" in e for e in entries):
        raise InvalidDataError(f"{path}: not a list of labelled graphs with their configurations")
    numbers = sorted({str(name) for entry in entries[:1] for name in _values(entry)})
    column = choose_column(path, request.column, _USUAL, numbers)
    yield from gather(_rows(entries, path, request), column, request)


def _rows(entries: list[dict[str, Any]], path: Path, request: Request) -> Iterator[LabelledRow]:
    convert = next(convert for kind, convert in _CONFIGS.items() if isinstance(request.space, kind))
    for number, entry in enumerate(entries):
        try:
            architecture = convert(plain(entry["original config"]))
        except InvalidDataError as error:
            request.reject(f"{path}, entry {number}: {error}")
            continue
        if architecture is not None:
            yield LabelledRow(f"{path}, entry {number}", architecture, _values(entry))


def _values(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy in percent, and costs as published: NAS-Bench-201's ``flops`` are scaled to 0..1."""
    found = {name: entry[name] for name in ("acc", "flops", "n_params") if name in entry}
    if isinstance(accuracy := found.get("acc"), int | float):
        found["acc"] = 100 * accuracy
    return found


READER = Reader(
    "GENNAPE caches",
    "gpi_<family>_comp_graph_cache.pkl",
    recognises,
    blocks,
    tuple(_CONFIGS),
)
