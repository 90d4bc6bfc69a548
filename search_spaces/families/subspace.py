"""A part of a search space: some of its genes are fixed to some of their values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from gennape.errors import ConfigError, InvalidArchitectureError
from gennape.search_spaces.families.space import Architecture, Gene, SearchSpace, shown
from gennape.search_spaces.files.bounded import read_regular
from gennape.search_spaces.files.nearby import did_you_mean, missing
from gennape.search_spaces.graphs.builder import GraphBuilder, Value
from gennape.search_spaces.graphs.graph import ComputationGraph, PackedGraphs

_MAX_JSON = 1 << 24
#: Genes whose names are listed where a pattern matches none.
_LISTED = 12
#: Networks sampled from the whole space for each one that is wanted, before values are replaced.
_TRIES = 4
_SUBJECTS = re.compile(r"\(([^()]+)\)(.*)")


@dataclass(frozen=True, slots=True)
class Fix:
    """Genes, by name or pattern, and the only values that they may take, written ``kernel*=3,5``."""

    pattern: str
    values: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.pattern}={','.join(self.values)}"


def parse_fix(text: str) -> Fix:
    """Read ``resolution=224`` or ``kernel*=3,5``; commas within parentheses do not part values.

    Raises :class:`ConfigError` for another form.
    """
    pattern, equals, values = text.partition("=")
    listed = tuple(_key(value) for value in re.split(r",(?![^()\[\]]*[)\]])", values))
    if not equals or not pattern.strip() or not all(listed):
        raise ConfigError(f"cannot read {text!r}; write a gene or a pattern, = and its values, as in 'kernel*=3,5'")
    return Fix(pattern.strip(), listed)


def read_fixes(path: Path) -> tuple[Fix, ...]:
    """The contents of a JSON file that gives the allowed values by gene or pattern: ``{"kernel*": [3, 5]}``.

    Raises :class:`ConfigError` for a file that cannot be read or holds something else.
    """
    if not path.is_file():
        raise ConfigError(missing(path) if not path.exists() else f"{path} is no file; name a JSON file")
    try:
        found = json.loads(read_regular(path, _MAX_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"cannot read {path} as JSON: {error}") from error
    if not isinstance(found, dict) or not found:
        raise ConfigError(f"{path} holds {shown(found)}; must be an object of values by gene, as {{'kernel*': [3, 5]}}")
    return _fixes(found, str(path))


def _fixes(found: Mapping[str, Any], where: str) -> tuple[Fix, ...]:
    fixes = []
    for pattern, values in found.items():
        listed = values if isinstance(values, list) else [values]
        if not listed or any(isinstance(value, dict) or value is None for value in listed):
            raise ConfigError(f"{where}: {pattern!r} is {shown(values)}; must be a list of values")
        fixes.append(Fix(pattern, tuple(_key(_text(value)) for value in listed)))
    return tuple(fixes)


def fixed_genes(fix: Mapping[str, Any] | Iterable[str], file: str | Path | None = None) -> tuple[str, ...]:
    """What is fixed, as texts of :func:`parse_fix`: by a file, then by an object of values by gene or by texts."""
    texts = list(map(str, read_fixes(Path(file)))) if file is not None else []
    if isinstance(fix, Mapping):
        return (*texts, *(str(one) for one in _fixes(fix, "fix")))
    return (*texts, *map(str, map(parse_fix, fix)))


def _text(value: object) -> str:
    return f"({','.join(map(_text, value))})" if isinstance(value, list | tuple) else str(value)


def _key(text: str) -> str:
    """A value as text, so that 224, 224.0 and ``(3, 5)``, ``[3,5]`` are written alike."""
    plain = re.sub(r"\s", "", text).replace("[", "(").replace("]", ")")
    try:
        return f"{float(plain):.12g}" if "_" not in plain else plain
    except ValueError:
        return plain.lower() if plain in ("True", "False") else plain


def subspace(space: SearchSpace, fixes: Iterable[Fix]) -> SearchSpace:
    """The part of a space in which genes keep to some values; the space itself where nothing is fixed.

    Raises :class:`ConfigError` for a pattern that matches no gene, a value that no gene matched has, values that leave
    a gene none, and a part that holds no architecture.
    """
    fixed = tuple(fixes)
    if not fixed:
        return space
    part = Subspace(space, fixed)
    try:
        part.sample(np.random.default_rng(0), 1)
    except InvalidArchitectureError as error:
        raise ConfigError(
            f"no architecture of {space.name} was found with {', '.join(map(str, fixed))}; allow more values"
        ) from error
    return part


class Subspace(SearchSpace):
    """A part of a search space, whose genomes are genomes of the whole space.

    Sampling, mutation and crossover stay inside; a gene that does not matter may have any value, and is 0 in canonical
    genomes as in the whole space.

    Args:
        whole: The search space.
        fixes: Genes, by name or pattern, and their values. Where a gene decides several things, as ``(expansion,
            kernel) of unit 1, layer 1`` does, ``kernel of unit 1, layer 1`` is one of them and can be fixed alone.
    """

    def __init__(self, whole: SearchSpace, fixes: Sequence[Fix]) -> None:
        self.whole = whole
        self.fixes = tuple(fixes)
        self.name = whole.name
        allowed = _allowed(whole, fixes)
        self.genes = tuple(
            replace(gene, sampled=allowed[i]) if i in allowed else gene for i, gene in enumerate(whole.genes)
        )
        self._may = np.ones((len(self.genes), max(len(gene.values) for gene in self.genes)), bool)
        for i, indices in allowed.items():
            self._may[i] = np.isin(np.arange(self._may.shape[1]), indices)
        self._first = np.array([min(allowed[i]) if i in allowed else 0 for i in range(len(self.genes))])
        self._left = math.prod(len(allowed[i]) if i in allowed else len(g.values) for i, g in enumerate(self.genes))

    def __repr__(self) -> str:
        """What is fixed, and how much is left."""
        every = math.prod(len(gene.values) for gene in self.genes)
        fixed = ", ".join(map(str, self.fixes))
        return f"Subspace({self.name!r} with {fixed}: {_number(self._left)} of {_number(every)} genomes)"

    def encode(self, genome: Int64[np.ndarray, " g"]) -> Architecture:
        """As the whole space."""
        return self.whole.encode(genome)

    def decode(self, architecture: Architecture) -> Int64[np.ndarray, " g"]:
        """As the whole space; an architecture outside the part is refused."""
        genome = self.whole.decode(architecture)
        if not self._inside(genome[None])[0]:
            outside = np.flatnonzero(~self._keeps(genome[None])[0])
            raise InvalidArchitectureError(
                f"{self.name}: {self.genes[outside[0]].name} is {shown(self.whole.values(genome)[outside[0]])}, which "
                f"is outside of {', '.join(map(str, self.fixes))}"
            )
        return genome

    def emit(self, b: GraphBuilder, genome: Int64[np.ndarray, " g"]) -> Value:
        """As the whole space."""
        return self.whole.emit(b, genome)

    def graph(self, genome: Int64[np.ndarray, " g"], published: bool = False) -> ComputationGraph:
        """As the whole space."""
        return self.whole.graph(genome, published)

    def graphs(self, genomes: Int64[np.ndarray, "n g"]) -> PackedGraphs:
        """As the whole space."""
        return self.whole.graphs(genomes)

    def canonical(self, genomes: Int64[np.ndarray, "n g"]) -> Int64[np.ndarray, "n g"]:
        """As the whole space, once values outside, as of genes that begin to matter, are the first inside."""
        return self.whole.canonical(np.where(self._keeps(genomes), genomes, self._first))

    def feasible(self, genomes: Int64[np.ndarray, "n g"]) -> Bool[np.ndarray, " n"]:
        """Which genomes are architectures of the whole space and inside the part."""
        found: Bool[np.ndarray, " n"] = self.whole.feasible(genomes)
        found = found.copy()
        found[found] = self._inside(self.whole.canonical(genomes[found]))
        return found

    def sample(self, rng: np.random.Generator, n: int) -> Int64[np.ndarray, "n g"]:
        """``n`` canonical genomes; where the whole space has a sampler of its own, drawn by that as far as possible."""
        own = type(self.whole).sample is not SearchSpace.sample
        return self._redraw(lambda k: self._sampled(rng, k) if own else self._draw(rng, k), n)

    def _sampled(self, rng: np.random.Generator, n: int) -> Int64[np.ndarray, "n g"]:
        """Those of a sample of the whole space that are inside, and others with values outside replaced."""
        drawn = self.whole.sample(rng, _TRIES * n)
        inside = self.feasible(drawn)
        others = drawn[~inside][: max(n - int(inside.sum()), 0)]
        moved = np.where(self._keeps(others), others, self._draw(rng, len(others)))
        return np.concatenate([drawn[inside][:n], moved])

    def _keeps(self, genomes: Int64[np.ndarray, "n g"]) -> Bool[np.ndarray, "n g"]:
        """Which genes have a value inside the part."""
        kept: Bool[np.ndarray, "n g"] = self._may[np.arange(len(self.genes)), genomes]
        return kept

    def _inside(self, canonical: Int64[np.ndarray, "n g"]) -> Bool[np.ndarray, " n"]:
        """Which canonical genomes keep to the values in every gene that matters."""
        same: Bool[np.ndarray, " n"] = (self.canonical(canonical) == canonical).all(1)
        return same


def _number(size: int) -> str:
    return f"{size:,}" if size < 10**6 else f"{Decimal(size):.1e}"


def _subjects(gene: Gene) -> dict[str, list[str]]:
    """What a gene decides, by name, and its values as texts: the gene, and each of several things in its name."""
    subjects = {gene.name: [_key(_text(value)) for value in gene.values]}
    found = _SUBJECTS.fullmatch(gene.name)
    parts = found[1].split(",") if found else []
    if found and all(isinstance(value, tuple) and len(value) == len(parts) for value in gene.values):
        columns: Any = zip(*gene.values, strict=True)
        for part, column in zip(parts, columns, strict=True):
            subjects[f"{part.strip()}{found[2]}"] = [_key(_text(value)) for value in column]
    return subjects


def _allowed(space: SearchSpace, fixes: Iterable[Fix]) -> dict[int, tuple[int, ...]]:
    """The indices of the values that each fixed gene may take."""
    allowed: dict[int, tuple[int, ...]] = {}
    for fix in fixes:
        matched = _matched(space, fix)
        known = dict.fromkeys(text for texts in matched.values() for text in texts)
        if unknown := [value for value in fix.values if value not in known]:
            raise ConfigError(f"{fix}: no gene has the value {unknown[0]}; known are {', '.join(known)}")
        for (i, name), texts in matched.items():
            before = allowed.get(i, range(len(texts)))
            allowed[i] = tuple(index for index in before if texts[index] in fix.values)
            if not allowed[i]:
                raise ConfigError(
                    f"{fix} leaves {name!r} of {space.name} no value; it has {', '.join(dict.fromkeys(texts))}"
                    + (", of which others are ruled out before" if len(before) < len(texts) else "")
                )
    return allowed


def _matched(space: SearchSpace, fix: Fix) -> Mapping[tuple[int, str], list[str]]:
    """The genes that a pattern names, with the texts of their values."""
    subjects = {(i, name): texts for i, gene in enumerate(space.genes) for name, texts in _subjects(gene).items()}
    exact = {key: texts for key, texts in subjects.items() if key[1] == fix.pattern}
    matched = exact or {key: t for key, t in subjects.items() if fnmatchcase(key[1].lower(), fix.pattern.lower())}
    if not matched:
        names = list(dict.fromkeys(name for _, name in subjects))
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        raise ConfigError(
            f"{fix}: {space.name} has no gene {fix.pattern!r}{did_you_mean(fix.pattern, names)}. Its genes are "
            f"{'; '.join(names[:_LISTED])}{more}; * stands for any text"
        )
    return matched
