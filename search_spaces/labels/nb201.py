"""Read files of NAS-Bench-201 and the topology space of NATS-Bench (Dong and Yang, 2020; Dong et al., 2021).

* ``NATS-tss-v1_0-3ffb9-simple``, a folder or its ``.tar``: one ``000123.pickle.pbz2`` per architecture;
* ``NATS-tss-v1_0-3ffb9.pickle.pbz2``: all of them in one file;
* ``NAS-Bench-201-v1_1-096897.pth`` and ``-v1_0-e61699.pth``: the same, written by ``torch.save``.

An architecture is a dictionary from the training recipe, ``"12"`` or ``"200"`` epochs (``less`` and ``full`` in
``.pth`` files), to ``arch_str`` and ``all_results``. Results by (data set, seed) have ``eval_acc1es`` (accuracies in
percent by ``<set>@<epoch>``), ``params`` in millions, ``flop`` in millions of multiply-adds, and ``latency`` in seconds
(https://github.com/D-X-Y/NATS-Bench, ``nats_bench/api_utils.py``).
"""

from __future__ import annotations

import bz2
import math
import re
import sys
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gennape.errors import InvalidDataError
from gennape.search_spaces.families.nb201 import NasBench201
from gennape.search_spaces.files.bounded import BROKEN, Readable, bounded, expected, open_bounded
from gennape.search_spaces.files.restricted_pickle.reader import Rules, read_pickle
from gennape.search_spaces.files.restricted_pickle.torch_file import read_torch
from gennape.search_spaces.labels.labelled import (
    LabelledArchitectures,
    LabelledRow,
    Reader,
    Request,
    gather_like_first,
    readable_rows,
)

_ONE = re.compile(r"[0-9]{6}\.pickle\.pbz2")
#: Usual labels by the number of classes of the family's data set.
_USUAL = {10: ("c10_test200", "c10_test12"), 100: ("c100_test200", "c100_test12"), 120: ("im16_test200", "im16_test12")}
_DATASETS = {"cifar10-valid": "c10valid", "cifar10": "c10", "cifar100": "c100", "ImageNet16-120": "im16"}
_EPOCHS = {"12": "12", "200": "200", "less": "12", "full": "200"}
#: Sets of images. CIFAR-10 is tested on its whole test set, the others on the proposed half.
_SETS = {"x-valid": "val", "x-test": "test"}
_WHOLE_SETS = {"c10": "test", "c10valid": "test", "c100": "valtest", "im16": "valtest"}


def summary(all_results: Any) -> dict[str, dict[str, list[float]]]:
    """Figures after the last epoch by data set, one value per run, of one architecture and recipe.

    It replaces ``all_results`` while reading, as whole files would need tens of gigabytes.
    """
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for key, run in _mapping(all_results).items():
        if not isinstance(key, tuple) or len(key) != 2 or key[0] not in _DATASETS:
            raise InvalidDataError(f"results have the key {str(key)[:60]!r}, must be (data set, seed)")
        dataset, run = _DATASETS[key[0]], _mapping(run)  # noqa: PLW2901 - checked to be a mapping
        last = _integer(run.get("epochs")) - 1
        for name, accuracy in _mapping(run.get("eval_acc1es") or {}).items():
            images, _, epoch = str(name).partition("@")
            if epoch == str(last) and (which := _SETS.get(images) or _WHOLE_SETS[dataset]):
                found[dataset][which].append(_number(accuracy))
        found[dataset]["train"].append(_number(_mapping(run.get("train_acc1es") or {}).get(last)))
        found[dataset]["params"].append(1e6 * _number(run.get("params")))
        found[dataset]["macs"].append(1e6 * _number(run.get("flop")))
        latencies = run.get("latency")
        times = [_number(time) for time in latencies if _number(time) > 0] if isinstance(latencies, list) else []
        found[dataset]["latency"] += [sum(times) / len(times)] if times else []
    return {dataset: dict(figures) for dataset, figures in found.items()}


RULES = Rules({}, shrink={"all_results": summary})


def _mapping(value: object) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise InvalidDataError(f"results are a {type(value).__name__}, must be a dict; not a file of NAS-Bench-201")
    return value


def _integer(value: object) -> int:
    if type(value) is not int:
        raise InvalidDataError(f"a count is a {type(value).__name__}, must be an int; not a file of NAS-Bench-201")
    return value


def _number(value: object) -> float:
    """A finite number, or nan for anything else, which is then left out."""
    return float(value) if isinstance(value, int | float) and abs(value) < sys.float_info.max else math.nan


def architecture_row(recipes: object, where: str) -> LabelledRow:
    """The row of one architecture: ``c100_test200`` is the mean CIFAR-100 test accuracy of the runs of 200 epochs."""
    values: dict[str, float] = {}
    text = None
    for name, state in _mapping(recipes).items():
        state, epochs = _mapping(state), _EPOCHS.get(str(name))  # noqa: PLW2901 - checked to be a mapping
        text = state.get("arch_str", text)
        if epochs is None:
            continue
        for dataset, figures in _mapping(state.get("all_results")).items():
            for figure, numbers in _mapping(figures).items():
                measured = [
                    number
                    for number in map(_number, numbers if isinstance(numbers, list) else ())
                    if not math.isnan(number)
                ]
                if measured:
                    values[_column(dataset, figure, epochs)] = sum(measured) / len(measured)
    if not isinstance(text, str):
        raise InvalidDataError(f"{where}: the architecture lacks its arch_str")
    return LabelledRow(where, text, values)


def _column(dataset: str, figure: str, epochs: str) -> str:
    """The column of a figure: accuracies depend on the recipe; costs and parameters do not."""
    if figure in ("params", "macs"):
        return figure if dataset == "c10" else f"{dataset}_{figure}"
    return f"{dataset}_{figure}" if figure == "latency" else f"{dataset}_{figure}{epochs}"


# The forms ------------------------------------------------------------------------------------------------------------


Load = Callable[[], object]


def _folder(path: Path) -> Iterator[tuple[str, Load]]:
    """The files of a folder, one per architecture."""
    for file in sorted(path.iterdir()):
        if _ONE.fullmatch(file.name):
            yield str(file), partial(_read, file)


def _read(path: Path) -> object:
    with open_bounded(path) as stream:
        return read_pickle(stream, str(path), RULES)


def _tar(path: Path) -> Iterator[tuple[str, Load]]:
    """The files of an archive, read in order without unpacking it."""
    try:
        with tarfile.open(path, "r|") as archive:
            for member in archive:
                content = archive.extractfile(member) if _ONE.fullmatch(Path(member.name).name) else None
                if content is not None:
                    yield (where := f"{path}/{member.name}"), partial(_read_member, content, where, member.size)
    except BROKEN as error:
        raise InvalidDataError(f"{path}: the archive is incomplete: {error}; fetch it again") from error


def _read_member(content: Readable, where: str, size: int) -> object:
    try:
        with bz2.BZ2File(content) as plain:  # type: ignore[call-overload]
            return read_pickle(bounded(plain, where, expected(size)), where, RULES)
    except tarfile.TarError as error:
        raise InvalidDataError(f"{where}: {error}; fetch the archive again") from error


def _whole(path: Path) -> Iterator[tuple[str, Load]]:
    """All architectures of a single file."""
    content = _mapping(read_torch(path, RULES) if path.name.endswith(".pth") else _read(path))
    if "arch2infos" not in content:
        yield str(path), lambda: content
        return
    for index, recipes in _mapping(content["arch2infos"]).items():
        yield f"{path}, architecture {str(index)[:60]}", lambda found=recipes: found  # type: ignore[misc]


def _is_tar(path: Path) -> bool:
    """Whether name and magic number are those of a tar; ``tarfile.is_tarfile`` would decompress archives to check."""
    if not path.is_file() or not path.name.endswith(".tar"):
        return False
    with path.open("rb") as file:
        return file.read(262)[257:] == b"ustar"


_FORMS = ((Path.is_dir, _folder), (_is_tar, _tar), (Path.is_file, _whole))


def recognises(path: Path) -> bool:
    """Whether this is a folder of numbered files, or a file with the suffix of a released one."""
    if path.is_dir():
        return any(_ONE.fullmatch(file.name) for file in path.iterdir())
    return (path.is_file() and path.name.endswith((".pickle.pbz2", ".pth"))) or _is_tar(path)


def blocks(path: Path, request: Request) -> Iterator[LabelledArchitectures]:
    """Blocks of architectures; damaged ones are rejected."""
    form = next(form for fits, form in _FORMS if fits(path))
    usual = _USUAL[request.space.classes] if isinstance(request.space, NasBench201) else ()
    loads = (partial(_row, load, where) for where, load in form(path))
    yield from gather_like_first(path, readable_rows(loads, request), usual, request)


def _row(load: Load, where: str) -> LabelledRow:
    return architecture_row(load(), where)


READER = Reader(
    "NAS-Bench-201 and NATS-Bench",
    "NATS-tss-v1_0-3ffb9-simple (folder or .tar), NATS-tss-v1_0-3ffb9.pickle.pbz2, NAS-Bench-201-v1_1-096897.pth",
    recognises,
    blocks,
    (NasBench201,),
)
