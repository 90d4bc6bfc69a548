"""Settings of a search that are checked: at the border, and against those that are stored with a run."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gennape.errors import ConfigError
from gennape.platform.search.searchers.registry import searcher
from gennape.platform.search.settings import SearchConfig
from gennape.search_spaces.families.registry import family

if TYPE_CHECKING:
    from gennape.search_spaces.families.space import SearchSpace

__all__ = ["SearchConfig", "genes_sha256", "refuse_contradictions", "search_config"]


def search_config(**settings: Any) -> SearchConfig:
    """Validate settings and the names in them.

    Raises :class:`ConfigError` naming the setting, its value and the values it accepts.
    """
    try:
        config = SearchConfig(**settings)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(problem) for problem in error.errors())) from None
    _refuse_unknown(config)
    return config.model_copy(update={"objectives": ",".join(map(str, config.directed))})


def genes_sha256(space: SearchSpace) -> str:
    """Hash of the names and values of a space's genes, which give its genomes their meaning."""
    described = json.dumps([[gene.name, [str(value) for value in gene.values]] for gene in space.genes])
    return hashlib.sha256(described.encode()).hexdigest()


def _refuse_unknown(config: SearchConfig) -> None:
    """Raise :class:`ConfigError` for unknown names, and for an own space that has changed since the run began."""
    for kind, find, came in (("space", family, config.space_from), ("searcher", searcher, config.searcher_from)):
        name = getattr(config, kind)
        try:
            find(name)
        except ConfigError as error:
            if not came:
                raise
            raise ConfigError(
                f"the {kind} {name!r} of this search is your own; give it again: --{kind} {came}"
            ) from error
    if config.space_sha256 and genes_sha256(family(config.space)) != config.space_sha256:
        raise ConfigError(
            f"the genes of {config.space!r} are not those that the search began with; put the former class back, or "
            "start a new search"
        )


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
