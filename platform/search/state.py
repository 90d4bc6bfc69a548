"""The state of a search between rounds: rebuilt from the log, except for the searchers, whose states are stored."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, Field

from gennape.errors import WorkspaceError
from gennape.platform.search.evaluations import Evaluations, none_evaluated
from gennape.platform.search.failures import Outcome
from gennape.platform.search.front import extend_front, reference_point
from gennape.platform.search.log import chained, count_shards, read_shard
from gennape.search_spaces.files.atomic import atomic_path, atomic_write_bytes, remove_partial_files
from gennape.search_spaces.files.bounded import open_regular

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float64, Int64

    from gennape.platform.search.config import SearchConfig
    from gennape.platform.search.searchers.base import State

#: The last state; and, for a search that its budget has ended, the last one that does not depend on the budget.
STATE, UNCUT = "state.npz", "uncut.npz"
_VERSION = 3


class _Header(BaseModel):
    """The header of a stored state of any version; further fields are ignored."""

    version: int
    generation: int = Field(ge=0)
    evaluations: int = Field(0, ge=0)
    log: str = ""
    steps: list[Annotated[int, Field(ge=0)]] | None = None


@dataclass(slots=True, eq=False)
class SearchState:
    """A search between two rounds, in memory that does not grow with its evaluations.

    A round is one shard of the log; with synchronous islands it is one generation of all islands. ``rounds``: finished
    ones. ``evaluations``: rows in them, of which ``unpredicted`` are INFEASIBLE or TIMEOUT. ``log``: digest of these
    rows. ``stalled``: consecutive rounds without a new network. ``reference``: reference point of the hypervolume,
    minimised; None before the first round. ``searchers``, ``steps`` and ``found``: per island, the state of its
    searcher, its number of generations, and how many networks it was the first to find.
    ``uncut``: rounds before the first one that the budget cut short, if any. ``front`` of all islands. ``news``: rows
    of the last round. ``best_accuracy``: highest so far within the limits, percent. ``violation``: smallest total
    relative violation of the limits so far, 0 once a network is within all of them.
    """

    searchers: list[State | None]
    steps: list[int]
    found: Int64[np.ndarray, " islands"]
    front: Evaluations
    news: Evaluations
    rounds: int = 0
    evaluations: int = 0
    log: str = ""
    stalled: int = 0
    reference: Float64[np.ndarray, " m"] | None = None
    best_accuracy: float = -math.inf
    violation: float = math.inf
    uncut: int | None = None
    unpredicted: dict[str, int] = field(default_factory=lambda: {Outcome.INFEASIBLE: 0, Outcome.TIMEOUT: 0})


def new_state(config: SearchConfig, genes: int) -> SearchState:
    """The state before the first round."""
    nothing, islands = none_evaluated(genes, config.columns), config.islands
    none_found = np.zeros(islands, np.int64)
    return SearchState([None] * islands, [0] * islands, none_found, nothing, nothing)


def absorb(config: SearchConfig, state: SearchState, news: Evaluations) -> None:
    """Add the evaluations of one round, all of them new networks."""
    state.news = news
    state.rounds += 1
    state.evaluations += len(news)
    state.found += np.bincount(news.island, minlength=config.islands)
    state.log = chained(state.log, news)
    state.stalled = 0 if len(news) else state.stalled + 1
    state.front = extend_front(state.front, news, config.directed)
    if state.reference is None and news.finite.any():
        state.reference = reference_point(news, config.directed)
    accuracy = news.column("accuracy")[news.within]
    state.best_accuracy = max(state.best_accuracy, float(accuracy.max(initial=-math.inf)))
    state.violation = min(state.violation, float(news.violation[news.finite].min(initial=math.inf)))
    for outcome in state.unpredicted:
        state.unpredicted[outcome] += int((news.states == outcome).sum())


def save_state(folder: Path, state: SearchState) -> None:
    """Store atomically what the log does not contain, as plain arrays and one JSON text."""
    header = {
        "version": _VERSION,
        "generation": state.rounds,
        "evaluations": state.evaluations,
        "log": state.log,
        "steps": state.steps,
        "uncut": state.uncut,
    }
    named = {f"{i}/{key}": array for i, s in enumerate(state.searchers) for key, array in (s or {}).items()}
    header["arrays"] = {name: [array.dtype.str, array.shape] for name, array in named.items()}
    # In one piece: one member of the file per array and island would take longer than all evaluations.
    content = b"".join(np.ascontiguousarray(array).tobytes() for array in named.values())
    header["digest"] = _digest(header, content)
    arrays = {"header": json.dumps(header).encode(), "content": content}
    with atomic_path(folder / STATE) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: np.frombuffer(b, np.uint8) for name, b in arrays.items()})


def keep_uncut(folder: Path, state: SearchState) -> None:
    """Keep a copy of the state before a round that the budget cuts short, for :func:`extension.extend`."""
    state.uncut = state.rounds
    if state.rounds:  # else there is none: a search with a larger budget starts from the beginning
        atomic_write_bytes(folder / UNCUT, (folder / STATE).read_bytes())


def _digest(header: dict[str, Any], content: bytes) -> str:
    """Digest of everything except the digest itself."""
    text = json.dumps({name: value for name, value in header.items() if name != "digest"}, sort_keys=True)
    return hashlib.blake2b(text.encode() + b"\0" + content, digest_size=16).hexdigest()


def load_state(folder: Path, config: SearchConfig, genes: int) -> SearchState:
    """The last stored state, or a new one if there is none, completed from the log.

    With synchronous islands, searchers are those of the stored round; evaluations that were logged after it are reused
    when that round is run again. With asynchronous islands the whole log is taken in.

    Raises :class:`WorkspaceError` when the state or a shard cannot be read, or the two do not belong together.
    """
    remove_partial_files(folder)
    shards, state = count_shards(folder), new_state(config, genes)
    header: dict[str, Any] = {}
    covered = 0
    if os.path.lexists(folder / STATE):
        header, arrays = _read(folder / STATE)
        covered = header["generation"]
        if covered > shards:
            raise WorkspaceError(
                f"{folder / STATE} is of {covered} rounds, but evaluations of {shards} are there; "
                "restore the missing ones from a copy, or start a new search"
            )
        state.steps = list(header.get("steps", [covered] * config.islands))
        state.uncut = header.get("uncut")
        if len(state.steps) != config.islands:
            raise WorkspaceError(
                f"{folder / STATE} is of {len(state.steps)} islands, the settings of the run say {config.islands}; "
                "restore both from one copy, or start a new search"
            )
        # An asynchronous island may not have finished any step while others did: it starts from the beginning.
        state.searchers = [_part(arrays, i) if steps else None for i, steps in enumerate(state.steps)]
    for number in range(shards if config.asynchronous else covered):
        absorb(config, state, read_shard(folder, number))
        if number + 1 == covered:
            _verify(folder, header, state)
    return state


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with open_regular(path) as opened, np.load(opened, allow_pickle=False) as file:
            if any(member.compress_type for member in file.zip.infolist()):
                raise ValueError("its parts are compressed, which this gennape never does")
            arrays = {key: file[key] for key in file.files}
        header = json.loads(arrays.pop("header").tobytes())
        version = header["version"]
        if version == _VERSION and header.pop("digest") != _digest(header, arrays["content"].tobytes()):
            raise ValueError("it is not what its digest says: it was edited or damaged")
        _Header.model_validate_json(json.dumps(header), strict=True)
        arrays |= _arrays(arrays.pop("content", np.zeros(0, np.uint8)), header.pop("arrays", {}))
    except Exception as error:  # of damaged files zipfile and NumPy raise nearly anything
        raise WorkspaceError(
            f"cannot read {path} ({error}); the run cannot be continued from it: "
            "move it away, and the search is rebuilt from its evaluations"
        ) from error
    if version not in (1, 2, _VERSION):
        raise WorkspaceError(f"{path} has version {version}, this gennape reads 1 to {_VERSION}")
    return header, arrays


def _arrays(content: np.ndarray, kinds: dict[str, tuple[str, list[int]]]) -> dict[str, np.ndarray]:
    arrays, at = {}, 0
    for name, (kind, shape) in kinds.items():
        size = np.dtype(kind).itemsize * math.prod(shape)
        arrays[name] = content[at : at + size].view(kind).reshape(shape)
        at += size
    return arrays


def _verify(folder: Path, header: dict[str, Any], state: SearchState) -> None:
    """Compare the log with its digest in the header. States of version 1 have none."""
    if header.get("log", state.log) != state.log:
        raise WorkspaceError(
            f"the evaluations in {folder} are not those that {STATE} was stored with ({state.evaluations:,} rows, "
            f"expected {header['evaluations']:,}); restore them from a copy, or start a new search"
        )


def _part(arrays: dict[str, np.ndarray], island: int) -> State:
    prefix = f"{island}/"
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
