"""Settings of a search that are checked: at the border, and against those that are stored with a run."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from gennape.errors import ConfigError
from gennape.platform.search.limits import parse_limits
from gennape.platform.search.measures import REGISTRY as MEASURES
from gennape.platform.search.objectives import FURTHER, NAMES, parse_objectives
from gennape.platform.search.searchers.registry import searcher
from gennape.platform.search.settings import SearchConfig
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.families.subspace import Subspace, parse_fix, subspace
from gennape.search_spaces.files.nearby import did_you_mean
from gennape.search_spaces.graphs.canonical import canonical_hashes

if TYPE_CHECKING:
    from gennape.search_spaces.families.space import SearchSpace

#: Networks whose graphs tell whether a search space has changed.
_PROBES = 8

__all__ = ["SearchConfig", "refuse_contradictions", "search_config", "space_sha256"]


def search_config(**settings: Any) -> SearchConfig:
    """Validate settings and the names in them.

    Raises :class:`ConfigError` naming the setting, its value and the values it accepts.
    """
    try:
        config = SearchConfig(**settings)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(problem) for problem in error.errors())) from None
    _refuse_unknown(config)
    space = space_of(config)
    # Own measures of a stored run need not be there for it to be read, see require_measures.
    stored = config.measures if config.measures_from else ()
    known = (*NAMES, *FURTHER, *config.heads, *(one.name for one in MEASURES.registered), *stored)
    if unknown := [name for name in config.measures if name not in known]:
        raise ConfigError(
            f"unknown measure {unknown[0]!r}; known are {', '.join(known)}{did_you_mean(unknown[0], known)}"
        )
    objectives, limits = parse_objectives(config.objectives, known), parse_limits(config.constraints, known)
    # Those of a stored run come first and keep the order of its columns.
    aims = (*(one.name for one in objectives), *(limit.name for limit in limits))
    named = (*config.measures, *config.heads, *aims)
    texts = {
        "objectives": ",".join(map(str, objectives)),
        "constraints": tuple(map(str, limits)),
        "measures": tuple(name for name in dict.fromkeys(named) if name not in NAMES),
        "fixed": tuple(map(str, space.fixes)) if isinstance(space, Subspace) else (),
    }
    return config.model_copy(update=texts)


def space_of(config: SearchConfig) -> SearchSpace:
    """The search space of a search, or the part of it that the search keeps to."""
    return subspace(family(config.space), map(parse_fix, config.fixed))


def space_sha256(space: SearchSpace) -> str:
    """Hash of what a space's genomes mean: names and values of its genes, and the graphs of some networks."""
    genes = [[gene.name, [str(value) for value in gene.values]] for gene in space.genes]
    graphs = canonical_hashes(space.graphs(space.sample(np.random.default_rng(0), _PROBES)))
    return hashlib.sha256(json.dumps([genes, graphs]).encode()).hexdigest()


def _refuse_unknown(config: SearchConfig) -> None:
    """Raise :class:`ConfigError` for unknown names, and for an own space that has changed since the run began."""
    for kind, find, came in (("space", family, config.space_from), ("searcher", searcher, config.searcher_from)):
        try:
            find(getattr(config, kind))
        except ConfigError as error:
            if not came:
                raise
            raise ConfigError(
                f"the {kind} {getattr(config, kind)!r} of this search is your own; {_again(config)}"
            ) from error
    if config.space_sha256 and space_sha256(family(config.space)) != config.space_sha256:
        raise ConfigError(
            f"the search space {config.space!r} is not what the search began with: its genes or its graphs have "
            "changed; put the former class back, or start a new search"
        )


def _again(config: SearchConfig) -> str:
    """How a run is given again what is not part of gennape."""
    own = [("space", config.space_from), ("searcher", config.searcher_from)]
    own += [("measure", address) for address in config.measures_from]
    return "give what is your own again: " + " ".join(f"--{option} {address}" for option, address in own if address)


def require_measures(config: SearchConfig) -> None:
    """Raise :class:`ConfigError` if a measure of a search, which is the user's own, is not known here."""
    there = (*FURTHER, *config.heads, *(one.name for one in MEASURES.registered))
    if absent := [name for name in config.measures if name not in there]:
        raise ConfigError(f"the measure {absent[0]!r} of this search is your own; {_again(config)}")


def as_stored(config: SearchConfig, given: dict[str, Any]) -> dict[str, Any]:
    """Settings given anew for a stored search, written as a configuration stores them, so that they can be compared.

    Measures that the search records anyway are left out.
    """
    if set(given.get("measures", ())) <= set(config.measures):
        given = {name: value for name, value in given.items() if name != "measures"}
    written = search_config(**config.model_dump() | given)
    return {name: getattr(written, name) for name in given}


def refuse_contradictions(config: SearchConfig, given: dict[str, Any]) -> None:
    """Raise :class:`ConfigError` naming every given setting that differs from the stored configuration."""
    stored = config.model_dump()
    differing = [
        f"{name} is {stored[name]!r}, got {value!r}"
        for name, value in given.items()
        if value is not None and stored[name] != value
    ]
    if differing:
        raise ConfigError(
            f"a resumed search keeps its settings: {'; '.join(differing)}. "
            "Leave these options out, or start a new search"
        )


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {name!r}; known are {', '.join(SearchConfig.model_fields)}"
    if problem["type"] == "missing":
        return f"setting {name!r} is required"
    return f"setting {name!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}"
