"""``gennape predict``: accuracy and cost of networks that are given."""

from __future__ import annotations

import json
import math
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.errors import ConfigError, GennapeError
from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.network_files import READERS, InputShape, Shape, holds_network, read_network, refuse_file
from gennape.jobs.shared.own_code import space_option
from gennape.jobs.shared.visible_text import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from jaxtyping import Float64, Int64

    from gennape.predictors.evaluation.scale import AccuracyScale, SpaceScale
    from gennape.predictors.model.fuzzy_ensemble import FuzzyEnsemble
    from gennape.search_spaces.families.space import SearchSpace
    from gennape.search_spaces.graphs.graph import ComputationGraph

#: Graphs that are held in memory and predicted at a time.
_AT_ONCE = 1024
#: Bad rows of a file that are shown; the others are counted.
_SHOWN = 5
_HEAD = ("RANK", "ACCURACY", "DEVIATION", "FLOPS", "MACS", "PARAMETERS", "MEMBERSHIPS", "NETWORK")
_RIGHT = frozenset(_HEAD[:6])


@dataclass(frozen=True, slots=True)
class _NetworkArguments:
    """The arguments, sorted by what they are: files of a network, files of architectures, architectures as written."""

    files: dict[int, Path] = field(default_factory=dict)
    lists: dict[int, Path] = field(default_factory=dict)
    written: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Predicted:
    """One row per network in ``names``, which were given as ones of ``spaces`` or of none, with accuracies on
    ``scales``; units as in :class:`Prediction`."""

    names: list[str]
    spaces: list[str | None]
    scales: list[SpaceScale]
    accuracy: Float64[np.ndarray, " n"]
    deviation: Float64[np.ndarray, " n"] | None
    memberships: Float64[np.ndarray, "n c"]
    macs: Int64[np.ndarray, " n"]
    params: Int64[np.ndarray, " n"]


@one_document
def predict(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="NETWORK",
            help="ONNX files, PyTorch programs (.pt2), architectures of --space (as JSON or as its benchmark writes "
            "them), or files of architectures (.csv, .csv.gz or .parquet with a column `architecture`, or .json with "
            "a list).",
            show_default=False,
        ),
    ],
    space: Annotated[str | None, space_option("Search space of the architectures.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Folder of a predictor checkpoint.", show_default="the shipped one")
    ] = None,
    shape: Shape = None,
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot", help="Leave the checkpoint's calibrations on public labels out.")
    ] = False,
) -> Result:
    """Predict accuracy and cost of networks and list the best first.

    Needs no training and no Ray.
    """
    failures: list[str] = []
    given = _without_missing(_sorted(networks, space, shape), failures)
    if not any((given.files, given.lists, given.written)):
        _report(failures)
        raise typer.Exit(1)
    from gennape.predictors.evaluation.scale import scale_of
    from gennape.predictors.model.checkpoint import load_checkpoint, provenance_of
    from gennape.search_spaces.families.registry import family

    of = None if space is None else family(space)
    scale, predictor = scale_of(provenance_of(checkpoint), zero_shot), load_checkpoint(checkpoint, zero_shot)
    graphs = _graphs(given, of, shape, failures)
    predicted = _predicted(predictor, scale, graphs, show_progress=bool(given.lists))
    if predicted is not None:
        if warning := scale.warning(set(predicted.spaces)):
            typer.echo(f"gennape: warning: {warning}", err=True)
        _print_table(predicted)
        _tell_scales(predicted.scales)
    _report(failures)
    rows = [] if predicted is None else _rows(predicted)
    return Result({"scale": scale.name, "networks": rows, "errors": failures}, int(bool(failures or not rows)))


def _tell_scales(scales: Sequence[SpaceScale]) -> None:
    several = list(dict.fromkeys(scales))
    for scale in several:
        typer.echo(scale.sentence, err=True)
    if len(several) > 1:
        typer.echo(
            f"gennape: warning: these accuracies are on {len(several)} scales; compare networks of one scale only",
            err=True,
        )


def _report(failures: Sequence[str]) -> None:
    for failure in failures:
        typer.echo(f"gennape: error: {visible(failure)}", err=True)


def _without_missing(given: _NetworkArguments, failures: list[str]) -> _NetworkArguments:
    """What is left without files that cannot be read at all, before anything that takes time."""
    from gennape.jobs.shared.input_files import require_file

    kept = _NetworkArguments(written=given.written)
    for all_, left in ((given.files, kept.files), (given.lists, kept.lists)):
        for place, path in all_.items():
            try:
                require_file(path)
            except GennapeError as error:
                failures.append(str(error))
            else:
                left[place] = path
    return kept


def _sorted(networks: Sequence[str], space: str | None, shape: InputShape | None) -> _NetworkArguments:
    """What every argument is, by its place; raises :class:`ConfigError` for what cannot be read in any way."""
    from gennape.search_spaces.labels.architectures import ARCHITECTURE_SUFFIXES, holds_architectures

    found = _NetworkArguments()
    for place, text in enumerate(networks):
        if holds_network(text):
            found.files[place] = Path(text)
        elif holds_architectures(Path(text)):
            found.lists[place] = Path(text)
        else:
            found.written[place] = text
    for text in found.written.values():
        refuse_file(text, (*READERS, *ARCHITECTURE_SUFFIXES))
        if space is None:
            raise ConfigError(f"{text[:200]!r} is no file; if it is an architecture, give its family with --space")
    if found.lists and space is None:
        raise ConfigError(
            f"{next(iter(found.lists.values()))} does not say the search space of its architectures. Give --space"
        )
    if shape is not None and not found.files:
        raise ConfigError(f"--shape is for files of a network ({', '.join(READERS)}), and none is given; leave it out")
    return found


def _graphs(
    networks: _NetworkArguments, space: SearchSpace | None, shape: InputShape | None, failures: list[str]
) -> Iterator[tuple[str, str | None, ComputationGraph]]:
    """Name, family and graph of every network, in the order of the arguments; what cannot be read goes to
    ``failures``."""
    for place in sorted({*networks.files, *networks.lists, *networks.written}):
        try:
            if path := networks.files.get(place):
                yield str(path), None, read_network(path, shape)
            elif space is not None and place in networks.lists:
                yield from _listed(networks.lists[place], space, failures)
            elif space is not None:
                yield _written(networks.written[place], space)
        except GennapeError as error:
            where = networks.files.get(place) or networks.lists.get(place)
            named = where is None or str(where) in str(error)
            failures.append(str(error) if named else f"{where}: {error}")


def _listed(path: Path, space: SearchSpace, failures: list[str]) -> Iterator[tuple[str, str | None, ComputationGraph]]:
    from gennape.search_spaces.labels.architectures import read_architectures

    rejected: list[str] = []
    empty = True
    try:
        for found in read_architectures(path, space, rejected.append):
            empty = False
            yield found.text, space.name, space.graph(found.genome)
    finally:
        failures += rejected[:_SHOWN]
        if len(rejected) > _SHOWN:
            failures.append(f"{path}: and {len(rejected) - _SHOWN} more rows that cannot be read")
    if empty and not rejected:
        failures.append(f"{path} holds no architectures")


def _written(text: str, space: SearchSpace) -> tuple[str, str | None, ComputationGraph]:
    from gennape.jobs.shared.network import parse_architecture

    return text, space.name, space.graph(space.decode(parse_architecture(text)))


def _predicted(
    predictor: FuzzyEnsemble,
    scale: AccuracyScale,
    networks: Iterator[tuple[str, str | None, ComputationGraph]],
    show_progress: bool,
) -> _Predicted | None:
    """The predictions, the best first and equal ones in their order; None of no networks."""
    import numpy as np

    from gennape.jobs.shared.progress import progress_bar
    from gennape.search_spaces.graphs.cost import macs, params
    from gennape.search_spaces.graphs.graph import pack

    names, spaces, scales, parts = [], [], [], []
    # Whoever reads the messages of a script wants none of how far it is.
    with progress_bar("Predicting", None) if show_progress and sys.stderr.isatty() else nullcontext() as advance:
        while some := list(islice(networks, _AT_ONCE)):
            packed = pack([graph for _, _, graph in some])
            answer = predictor.predict(packed)
            names += [name for name, _, _ in some]
            spaces += [space for _, space, _ in some]
            if answer.calibration is None:
                scales += [scale.of(space) for _, space, _ in some]
            else:  # a file's network may be one of a space that is known
                known = [one.space for one in predictor.calibrations]
                which = answer.calibration.tolist()
                found = [known[i] if i >= 0 else space for i, (_, space, _) in zip(which, some, strict=True)]
                scales += [scale.of(space) for space in found]
            deviation = np.full(len(some), np.nan) if answer.deviation is None else answer.deviation
            parts.append((answer.accuracy, deviation, answer.memberships, macs(packed), params(packed)))
            if advance is not None:
                advance(len(some))
    if not parts:
        return None
    accuracy, deviation, memberships, n_macs, n_params = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.argsort(-accuracy, kind="stable")
    return _Predicted(
        [names[i] for i in order], [spaces[i] for i in order], [scales[i] for i in order], accuracy[order],
        None if np.isnan(deviation).all() else deviation[order], memberships[order], n_macs[order], n_params[order],
    )  # fmt: skip


def _rows(predicted: _Predicted) -> list[dict[str, object]]:
    """One document a network, the best first."""
    return [
        {
            "network": name,
            "space": predicted.spaces[i],
            "accuracy": float(predicted.accuracy[i]),
            "deviation": _known(predicted.deviation, i),
            "flops": 2 * int(predicted.macs[i]),
            "macs": int(predicted.macs[i]),
            "params": int(predicted.params[i]),
            "unit": predicted.scales[i].unit,
            "scale": predicted.scales[i].name,
        }
        for i, name in enumerate(predicted.names)
    ]


def _known(deviation: Float64[np.ndarray, " n"] | None, i: int) -> float | None:
    """The deviation of a network, None where it is unknown."""
    value = math.nan if deviation is None else float(deviation[i])
    return value if math.isfinite(value) else None


def _print_table(predicted: _Predicted) -> None:
    """One row a network, the best first."""
    from gennape.jobs.shared.text_table import text_table
    from gennape.search_spaces.drawing.summary import quantity

    rows = []
    for i, name in enumerate(predicted.names):
        known = _known(predicted.deviation, i)
        deviation = "-" if known is None else f"{known:.2f} %"
        n_macs = int(predicted.macs[i])
        costs = (quantity(2 * n_macs), quantity(n_macs), quantity(int(predicted.params[i])))
        memberships = " ".join(f"{value:.2f}" for value in predicted.memberships[i])
        shown = name if name.isprintable() else json.dumps(name)  # a file may hold what a terminal would obey
        accuracy = predicted.scales[i].shown(predicted.accuracy[i])
        rows.append((str(i + 1), accuracy, deviation, *costs, memberships, shown))
    sys.stdout.write(text_table(_HEAD, rows, _RIGHT))
