"""Measures of networks: what a search records of each, whichever of them it optimises or limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from gennape.errors import ConfigError, ConformanceError
from gennape.platform.search.objectives import LATENCY, NAMES
from gennape.registry import Registry, require_name
from gennape.search_spaces.families.nb201 import NasBench201
from gennape.search_spaces.files.own_code import place_of
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.memory import peak_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jaxtyping import Float64

    from gennape.predictors.predictor import Prediction
    from gennape.search_spaces.graphs.graph import PackedGraphs

#: Columns of evaluations and fronts that are no measures.
RESERVED = (
    *("index", "hash", "architecture", "island", "generation", "genome", "memberships", "state", "deviation"),
    *("violation", "accuracy"),
)
#: Larger values would be taken for penalties of networks beyond the limits.
_MAX_VALUE = 1e29


class Measure(ABC):
    """A quantity of every network that follows from its graph, such as a cost on a device of yours.

    A subclass gives ``name``, ``unit`` and ``values``. After :func:`gennape.register`, its name may stand in
    objectives, constraints and the further measures of a search. On the command line: ``--measure file.py:MyMeasure``.

    Example:
        >>> import gennape as gp
        >>> class Depth(gp.Measure):
        ...     name = "depth"
        ...     unit = "convolutions"
        ...     def values(self, graphs):
        ...         return np.bincount(graphs.graph_index[graphs.nodes[:, 0] == 3], minlength=len(graphs))
        >>> depth = gp.register(Depth())
        >>> space = gp.family("nb201")
        >>> depth.values(space.graphs(space.sample(np.random.default_rng(0), 2))).shape
        (2,)
    """

    #: Key in objectives, constraints and columns.
    name: str
    #: Unit of the values, for people.
    unit: str = ""

    @abstractmethod
    def values(self, graphs: PackedGraphs) -> np.ndarray:
        """One finite number per graph [g]; the number of a graph does not depend on the other graphs."""


class _Cost(Measure):
    """A whole number that is counted on the graph."""

    def __init__(self, name: str, unit: str, count: Callable[[PackedGraphs], np.ndarray]) -> None:
        self.name = name
        self.unit = unit
        self._count = count

    def values(self, graphs: PackedGraphs) -> np.ndarray:
        """What is counted on each graph."""
        return self._count(graphs)


#: What is counted exactly, as whole numbers.
COSTS = (
    _Cost("flops", "operations", cost.flops),
    _Cost("macs", "multiply-accumulates", cost.macs),
    _Cost("params", "parameters", cost.params),
    _Cost("memory", "bytes", peak_memory),
)


def _well_formed(thing: object) -> Measure:
    """An own measure, made where it is a class without arguments, once it has measured some networks."""
    if isinstance(thing, type) and issubclass(thing, Measure):
        kind = thing
        try:
            thing = kind()
        except TypeError as error:
            raise ConformanceError(f"{kind.__name__} cannot be made ({error}); give an object of it") from error
    if not isinstance(thing, Measure):
        raise ConformanceError(f"got {thing!r}, which is no measure; give a subclass of Measure, or an object of one")
    require_name(thing, type(thing), "energy")
    if not isinstance(thing.unit, str):
        raise ConformanceError(f"{type(thing).__name__}.unit is {thing.unit!r}; must be a text such as 'mJ'")
    space = NasBench201()
    graphs = space.graphs(space.sample(np.random.default_rng(0), 4))
    whole = _own_values(thing, graphs)
    if not np.isfinite(whole).all():
        raise ConformanceError(f"{thing.name} gives {whole.tolist()} for four networks of {space.name}; must be finite")
    alone = np.concatenate([_own_values(thing, graphs.take(np.array([i]))) for i in range(len(graphs))])
    if not np.allclose(whole, alone, rtol=1e-9):
        raise ConformanceError(
            f"{thing.name} gives {whole.tolist()} for four networks together, but {alone.tolist()} one by one; the "
            "number of a network must not depend on the others"
        )
    return thing


def _own_values(measure: Measure, graphs: PackedGraphs) -> Float64[np.ndarray, " g"]:
    """What an own measure says, NaN where it is no number that objectives can have."""
    try:
        values = np.asarray(measure.values(graphs), np.float64)
    except Exception as error:
        raise ConformanceError(
            f"the measure {measure.name!r} fails: {type(error).__name__}: {error}{place_of(error)}"
        ) from error
    if values.shape != (len(graphs),):
        raise ConformanceError(
            f"the measure {measure.name!r} gives numbers of shape {list(values.shape)} for {len(graphs)} networks; "
            f"must be [{len(graphs)}]"
        )
    return np.where(np.abs(values) <= _MAX_VALUE, values, np.nan)


REGISTRY: Registry[Measure] = Registry(
    "measure",
    COSTS,
    "gennape.measures",
    _well_formed,
    "your own is given as --measure file.py:Class, or by gp.register",
)
#: Measures that are read from predictions.
PREDICTED: Mapping[str, Callable[[Prediction], np.ndarray]] = {"accuracy": lambda prediction: prediction.accuracy}
_UNITS = {"accuracy": "percent", **{one.name: one.unit for one in COSTS}}


def register_measure(measure: Measure | type[Measure]) -> Measure:
    """Make a measure of your own known by its name, in this process and in those that it starts.

    Raises:
        ConformanceError: It gives no finite number for each network, or one that depends on other networks.
        ConfigError: A measure that ships has its name.
    """
    name = getattr(measure, "name", None)
    if name in RESERVED:
        raise ConfigError(f"a column called {name!r} is in every run; give your measure another name")
    return REGISTRY.add(measure)


def unit_of(name: str) -> str:
    """The unit of a measure, empty where it is unknown."""
    own = {one.name: one.unit for one in REGISTRY.registered}
    return _UNITS.get(name) or own.get(name) or ("ms" if name.startswith(LATENCY) else "")


def is_whole(name: str) -> bool:
    """Whether a measure is counted in whole numbers."""
    return any(name == one.name for one in COSTS)


def measure(graphs: PackedGraphs, prediction: Prediction, names: Sequence[str] = NAMES) -> Float64[np.ndarray, "g k"]:
    """The measures called ``names`` of every graph, each in its natural unit; columns in the order of the names."""
    return np.stack([np.asarray(_column(name, graphs, prediction), np.float64) for name in names], axis=1)


def _column(name: str, graphs: PackedGraphs, prediction: Prediction) -> np.ndarray:
    if name in PREDICTED:
        return PREDICTED[name](prediction)
    if prediction.heads is not None and name in prediction.heads:
        return prediction.heads[name]
    found = REGISTRY.find(name)
    return found.values(graphs) if found in COSTS else _own_values(found, graphs)
