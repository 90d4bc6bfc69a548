"""What a search remembers between generations, stored so that it continues exactly."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gennape.errors import WorkspaceError
from gennape.platform.archive import Archive, Evaluations, none_evaluated, read_shards
from gennape.platform.front import front_of
from gennape.platform.objectives import NAMES
from gennape.platform.workspace import atomic_path, remove_partial_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Float64

    from gennape.platform.config import SearchConfig
    from gennape.platform.objectives import Objective
    from gennape.platform.searchers.searcher import State

STATE = "state.npz"
_VERSION = 1


@dataclass(slots=True, eq=False)
class SearchState:
    """A search between two generations.

    ``generation``: the next to run. ``idle``: generations in a row without a new network. ``reference``: reference
    point of the hypervolume, minimised; None before the first generation. ``searchers``: a state per island.
    ``news``: what the last generation added, which the islands have yet to hear of. ``best_accuracy``: highest so far.
    """

    generation: int
    idle: int
    reference: Float64[np.ndarray, " m"] | None
    searchers: Sequence[State | None]
    archive: Archive
    front: Evaluations
    news: Evaluations
    best_accuracy: float


def new_state(config: SearchConfig, genes: int) -> SearchState:
    """Before the first generation."""
    nothing = none_evaluated(genes)
    return SearchState(0, 0, None, [None] * config.islands, Archive(genes), nothing, nothing, -math.inf)


def save_state(folder: Path, state: SearchState) -> None:
    """Store all but the evaluations (their shards come first) atomically: plain arrays and one JSON text."""
    reference = None if state.reference is None else state.reference.tolist()
    header = {"version": _VERSION, "generation": state.generation, "idle": state.idle, "reference": reference}
    arrays = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
    for i, searcher in enumerate(state.searchers):
        arrays |= {f"{i}/{key}": array for key, array in (searcher or {}).items()}
    with atomic_path(folder / STATE) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_state(folder: Path, config: SearchConfig, genes: int) -> SearchState:
    """The last stored state, or a new one if none was; whatever was written after it is deleted.

    Raises :class:`WorkspaceError` when the state or a shard it needs cannot be read.
    """
    objectives: Sequence[Objective] = config.directed
    remove_partial_files(folder)
    if not (folder / STATE).exists():
        read_shards(folder, 0, genes)
        return new_state(config, genes)
    try:
        with np.load(folder / STATE, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        header = json.loads(arrays.pop("header").tobytes())
        version, generation, reference = header["version"], int(header["generation"]), header["reference"]
    except (OSError, ValueError, KeyError) as error:
        raise WorkspaceError(f"cannot read {folder / STATE} ({error}); the run cannot be continued") from error
    if version != _VERSION:
        raise WorkspaceError(f"{folder / STATE} has version {version}, this gennape reads {_VERSION}")
    archive = Archive(genes)
    archive.add(read_shards(folder, generation, genes))
    everything = archive.all()
    searchers = [_part(arrays, i) for i in range(config.islands)]
    point = None if reference is None else np.array(reference, np.float64)
    front, nothing = front_of(everything, objectives), none_evaluated(genes)
    return SearchState(
        generation, int(header["idle"]), point, searchers, archive, front, nothing, best_accuracy(everything)
    )


def best_accuracy(evaluations: Evaluations) -> float:
    """Highest finite accuracy; minus infinity of none."""
    return float(evaluations.values[evaluations.finite, NAMES.index("accuracy")].max(initial=-math.inf))


def _part(arrays: dict[str, np.ndarray], island: int) -> State:
    prefix = f"{island}/"
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
