"""Own search spaces at the border: what is refused before a search, a conversion or a training relies on it."""

from __future__ import annotations

import numpy as np

from gennape.errors import ConformanceError, GennapeError
from gennape.registry import require_name
from gennape.search_spaces.families import checks
from gennape.search_spaces.families.malformed import junk
from gennape.search_spaces.families.space import Gene, SearchSpace, shown
from gennape.search_spaces.files.own_code import place_of

#: Architectures that are tried; the conformance suite tries many more.
_SAMPLES, _BUILT = 16, 4
_GIVES = "a search space gives name, genes and emit; see docs/families.md"


def well_formed(thing: object) -> SearchSpace:
    """A search space of somebody's own, given as its class or as an object, once a short form of the suite has passed.

    Args:
        thing: A subclass of :class:`SearchSpace` that is made without arguments, or an object of one.

    Raises:
        ConformanceError: It is something else, or breaks a promise; the message is the suite's sentence.
    """
    space = _made(thing)
    owner = type(space).__name__
    require_name(space, type(space), "tinynet")
    genes = getattr(space, "genes", None)
    if not isinstance(genes, tuple) or not genes or not all(isinstance(gene, Gene) for gene in genes):
        raise ConformanceError(f"{owner}.genes is {shown(genes)}; must be a tuple of Gene, at least one")
    for gene in genes:
        _refuse_gene(owner, gene)
    try:
        checks.check_samples(space, 0, _SAMPLES)
        checks.check_canonical(space, 0, _SAMPLES)
        checks.check_bad_genomes(space, 0)
        for value in junk():
            checks.check_bad_architecture(space, value)
        checks.check_graphs(space, 0, _BUILT)
        if sum(len(gene.drawn) > 1 for gene in genes):
            checks.check_variation(space, 0, _SAMPLES)
    except AssertionError as error:
        raise ConformanceError(f"{owner} is not a search space yet: {error}") from error
    except Exception as error:
        said = str(error) if isinstance(error, GennapeError) else f"{type(error).__name__}: {error}"
        raise ConformanceError(f"{owner} is not a search space yet: {said}{place_of(error)}") from error
    return space


def _made(thing: object) -> SearchSpace:
    if isinstance(thing, type) and issubclass(thing, SearchSpace):
        missing = sorted(thing.__abstractmethods__)
        if missing:
            raise ConformanceError(f"{thing.__name__} leaves out {', '.join(missing)}; {_GIVES}")
        try:
            return thing()
        except Exception as error:
            raise ConformanceError(
                f"{thing.__name__}() raises {type(error).__name__}: {error}{place_of(error)}; register an object, as "
                f"in gp.register({thing.__name__}(...)), or let it be made without arguments"
            ) from error
    if not isinstance(thing, SearchSpace):
        raise ConformanceError(f"got {shown(thing)}, which is no SearchSpace; {_GIVES}")
    return thing


def _refuse_gene(owner: str, gene: Gene) -> None:
    if not isinstance(gene.values, tuple) or not gene.values:
        raise ConformanceError(
            f"{owner}: the gene {gene.name!r} has the values {shown(gene.values)}; give a tuple of at least one"
        )
    twice = [value for i, value in enumerate(gene.values) if value in gene.values[:i]]
    if twice:
        raise ConformanceError(f"{owner}: the gene {gene.name!r} holds {shown(twice[0])} twice; give each value once")
    drawn = np.asarray(gene.drawn)
    if (
        drawn.ndim != 1
        or drawn.dtype.kind != "i"
        or not len(drawn)
        or not set(drawn.tolist()) <= set(range(len(gene.values)))
    ):
        raise ConformanceError(
            f"{owner}: the gene {gene.name!r} samples {shown(gene.sampled)}; must be indices of its "
            f"{len(gene.values)} values"
        )
