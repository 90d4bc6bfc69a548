"""Checks that every :class:`SearchSpace` must pass, as functions that raise AssertionError with a message.

:mod:`.testing` runs them as tests; registration runs a short form of them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int64

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families.malformed import junk, malformed
from gennape.search_spaces.families.space import Architecture, SearchSpace, shown
from gennape.search_spaces.graphs import cost, graph
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.graph import Column, pack
from gennape.search_spaces.graphs.ops import Op

#: Maximum malformed architectures per check.
_MAX_WRONG = 3000


def check_search_space(space: SearchSpace, seed: int = 0, n: int = 64) -> None:
    """Run every check once on ``n`` architectures drawn from ``seed``; raises AssertionError that names what failed."""
    check_samples(space, seed, n)
    check_canonical(space, seed, n)
    check_variation(space, seed, n)
    check_bad_genomes(space, seed)
    check_bad_architectures(space, seed)
    check_graphs(space, seed, min(n, 8))
    check_module(space, seed, n)


def check_samples(space: SearchSpace, seed: int, n: int) -> None:
    """Samples are valid, canonical, repeatable, and survive a round trip through JSON."""
    genomes = space.sample(np.random.default_rng(seed), n)
    _require(genomes.shape == (n, len(space.genes)), f"sample({n}) has shape {genomes.shape}")
    _require(genomes.dtype == np.int64, f"genomes are {genomes.dtype}, must be int64")
    _valid(space, genomes, "samples")
    again = space.sample(np.random.default_rng(seed), n)
    _require(np.array_equal(genomes, again), "two samples from one seed differ")
    for genome in genomes:
        text = json.dumps(space.encode(genome), allow_nan=False)
        decoded = space.decode(json.loads(text))
        _require(decoded.dtype == np.int64, f"decode gives {decoded.dtype}, must be int64")
        if decoded.shape != genome.shape or not np.array_equal(decoded, genome):
            raise AssertionError(_difference(space, genome, decoded, text))


def _difference(space: SearchSpace, genome: Int64[np.ndarray, " g"], decoded: np.ndarray, text: str) -> str:
    """What decode made of what encode wrote."""
    if decoded.shape != genome.shape:
        return f"decode of {text} has shape {list(decoded.shape)}, must be [{len(genome)}]"
    gene = int(np.flatnonzero(decoded != genome)[0])
    return (
        f"decode is not the inverse of encode: gene {space.genes[gene].name!r} was {genome[gene]} and became "
        f"{decoded[gene]} through {text}"
    )


def check_canonical(space: SearchSpace, seed: int, n: int) -> None:
    """``canonical`` leaves its argument as it is, changes no canonical genome, and no graph where ``emit`` takes the
    genome as it was drawn."""
    raw = space._draw(np.random.default_rng(seed), n)
    raw = raw[space.feasible(raw)]
    kept = raw.copy()
    canonical = space.canonical(raw)
    _require(np.array_equal(raw, kept), "canonical changes the genomes that it is given; give it a copy")
    _require(np.array_equal(space.canonical(canonical), canonical), "canonical is not idempotent")
    changed = np.flatnonzero((raw != canonical).any(1))[:8]
    for before, after in zip(raw[changed], canonical[changed], strict=True):
        try:
            drawn = space.graph(before)
        except Exception:  # noqa: BLE001, S112 (emit need not take what is not canonical)
            continue
        first, second = canonical_hashes(pack([drawn, space.graph(after)]))
        gene = int(np.flatnonzero(before != after)[0])
        _require(
            first == second,
            f"canonical sets gene {space.genes[gene].name!r} of {before.tolist()} to {after[gene]}, but the graph is "
            "another one then; only genes that do not matter may be set to 0",
        )


def check_variation(space: SearchSpace, seed: int, n: int) -> None:
    """Mutants and children are valid, canonical and repeatable; parents are unchanged; mutation changes genomes."""
    first, second = np.split(space.sample(np.random.default_rng(seed), 2 * n), 2)
    kept = first.copy(), second.copy()
    mutants = space.mutate(first, np.random.default_rng(seed))
    children = space.crossover(first, second, np.random.default_rng(seed))
    _require(np.array_equal(first, kept[0]) and np.array_equal(second, kept[1]), "parents were changed in place")
    _valid(space, mutants, "mutants")
    _valid(space, children, "children")
    _require(mutants.shape == children.shape == first.shape, "there is not one child per parent")
    # Only a genome without a neighbour may stay the same.
    changed = (mutants != first).any(axis=1)
    _require(2 * changed.sum() >= n, f"only {changed.sum()} of {n} mutants differ from their parents")
    _require(np.array_equal(mutants, space.mutate(first, np.random.default_rng(seed))), "mutation is not repeatable")
    again = space.crossover(first, second, np.random.default_rng(seed))
    _require(np.array_equal(children, again), "crossover is not repeatable")
    clones = space.crossover(first, first, np.random.default_rng(seed))
    _require(np.array_equal(clones, first), "a genome crossed with itself becomes another")


def check_bad_genomes(space: SearchSpace, seed: int) -> None:
    """``validate`` refuses wrong shapes, real numbers and genes out of range."""
    rng = np.random.default_rng(seed)
    genomes = space.sample(rng, 3)
    gene = int(rng.integers(len(space.genes)))
    low, high = genomes.copy(), genomes.copy()
    low[1, gene], high[2, gene] = -1, len(space.genes[gene].values)
    bad = {
        "a single genome, not [n, g]": genomes[0],
        "a missing gene": genomes[:, 1:],
        "a gene too many": np.concatenate([genomes, genomes[:, :1]], axis=1),
        "real numbers": genomes.astype(np.float64),
        f"gene {gene} below 0": low,
        f"gene {gene} beyond its values": high,
    }
    for what, wrong in bad.items():
        _require(_refuses(space.validate, wrong), f"validate accepts {what}")


def check_bad_architecture(space: SearchSpace, architecture: Architecture) -> None:
    """``decode`` of any JSON raises InvalidArchitectureError or gives a valid genome."""
    given = copy.deepcopy(architecture)
    try:
        genome = space.decode(architecture)
    except InvalidArchitectureError as error:
        _require(bool(str(error)), f"decode refuses {shown(given)} without a message")
        return
    except Exception as error:
        raise AssertionError(
            f"{space.name}: decode of {shown(given)} raises {type(error).__name__}: {error}; it must raise "
            "InvalidArchitectureError that says what is wrong"
        ) from error
    _valid(space, genome[None], f"the decoding of {shown(given)}")


def check_bad_architectures(space: SearchSpace, seed: int) -> None:
    """:func:`check_bad_architecture` of values of every kind: alone, in place of every part of an architecture, under
    single keys of it, and of architectures that lack a part or hold one twice."""
    rng = np.random.default_rng(seed)
    for value in junk():
        check_bad_architecture(space, value)
    example = json.loads(json.dumps(space.encode(space.sample(rng, 1)[0])))
    keys = [*example, "depth"] if isinstance(example, dict) else ["depth"]
    for key in keys:
        for value in (*junk(), *([example[key]] if key in example and isinstance(example, dict) else [])):
            check_bad_architecture(space, {key: value})
    wrong = list(malformed(example))
    for i in rng.permutation(len(wrong))[:_MAX_WRONG].tolist():
        check_bad_architecture(space, wrong[i]())


def check_graphs(space: SearchSpace, seed: int, n: int) -> None:
    """Graphs are executable and repeatable; their cost is positive; their hash does not depend on node order."""
    rng = np.random.default_rng(seed)
    genomes = space.sample(rng, n)
    packed = space.graphs(genomes)
    graph.validate(packed)
    for i, genome in enumerate(genomes):
        _require(packed[i] == space.graph(genome), f"two graphs of {genome} differ")
    _require((cost.macs(packed) > 0).all() and (cost.params(packed) > 0).all(), "a network costs nothing")
    _require(np.array_equal(cost.flops(packed), 2 * cost.macs(packed)), "FLOPs are not 2 x MACs")
    shuffled = pack([packed[i].relabel(rng.permutation(packed[i].n_nodes)) for i in range(n)])
    _require(canonical_hashes(packed) == canonical_hashes(shuffled), "a hash depends on the order of nodes")


def check_module(space: SearchSpace, seed: int, n: int) -> None:
    """The cheapest of ``n`` samples compiles, with the parameters and the output shape of its graph."""
    import torch  # noqa: PLC0415 (the other checks take a tenth of the time that it takes)

    from gennape.search_spaces.graphs.module import compile_graph  # noqa: PLC0415

    genomes = space.sample(np.random.default_rng(seed), n)
    packed = space.graphs(genomes)
    cheapest = int(np.argmin(cost.macs(packed)))
    module = compile_graph(packed[cheapest]).eval()
    params = sum(parameter.numel() for parameter in module.parameters())
    _require(params == cost.params(packed)[cheapest], "the module and its graph count different parameters")
    nodes = packed[cheapest].nodes
    shape = nodes[nodes[:, Column.OP] == Op.OUTPUT][0, Column.C_OUT : Column.W_OUT + 1].tolist()
    with torch.inference_mode():
        result = module(torch.zeros(2, *module.image_shape))
    _require(
        result.flatten(1).shape == (2, np.prod(shape)), f"the module gives {list(result.shape)}, its graph {shape}"
    )
    _require(bool(torch.isfinite(result).all()), "the module gives values that are not finite")


def _valid(space: SearchSpace, genomes: Int64[np.ndarray, "n g"], what: str) -> None:
    try:
        space.validate(genomes)
    except InvalidArchitectureError as error:
        raise AssertionError(f"{space.name}: {what} are not valid: {error}") from error
    _require(np.array_equal(space.canonical(genomes), genomes), f"{what} are not canonical")


def _refuses(function: Callable[[Any], object], value: Any) -> bool:
    try:
        function(value)
    except InvalidArchitectureError:
        return True
    return False


def _require(condition: bool | np.bool_, message: str) -> None:
    if not condition:
        raise AssertionError(message)
