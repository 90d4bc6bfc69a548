"""A larger budget for a search, with the result it would have had with that budget from the beginning."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gennape.platform.search.log import count_shards, shard
from gennape.platform.search.runs import config_of, describe_run
from gennape.platform.search.state import STATE, UNCUT, load_state
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from pathlib import Path

#: Folder of the rounds that the smaller budget had cut short.
SUPERSEDED = "superseded"


def extend(folder: Path, evaluations: int) -> None:
    """Give the search in a run folder, which the caller has locked, a larger budget; continue with :func:`run_search`.

    With synchronous islands the result is, bit for bit, that of a search that had the larger budget from the beginning:
    the budget only decides how many networks the last generations evaluate, so the search returns to the state before
    the first generation that was cut short and runs it in full. Its evaluations are made again; the files of these
    generations are kept in ``superseded``. Asynchronous islands, whose result depends on timing, continue from their
    current state, as does a search that was stored by a version that kept no such state.
    """
    config = config_of(folder)
    if not config.asynchronous:
        state = load_state(folder, config, len(family(config.space).genes))
        # In this order, so that a search that is killed in between continues with its former budget.
        if state.uncut:
            os.replace(folder / UNCUT, folder / STATE)
        elif state.uncut == 0:
            (folder / STATE).unlink()
        _supersede(folder, state.rounds if state.uncut is None else state.uncut)
    describe_run(folder, config.model_copy(update={"evaluations": evaluations}))


def _supersede(folder: Path, first: int) -> None:
    """Move shards away, the last one first, so that none is ever missing before another."""
    for number in reversed(range(first, count_shards(folder))):
        path = shard(folder, number)
        (folder / SUPERSEDED).mkdir(exist_ok=True)
        os.replace(path, folder / SUPERSEDED / path.name)
