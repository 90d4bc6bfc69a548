"""Schemas of HTTP requests and answers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from gennape.errors import InvalidGraphError
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import N_COLUMNS, Column, ComputationGraph, pack, validate
from gennape.search_spaces.graphs.parquet import EDGE_COLUMNS, GRAPH_COLUMNS, NODE_COLUMNS, SCALAR_COLUMN
from gennape.search_spaces.graphs.plan import refuse_false_convolutions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gennape.platform.serving.config import RequestLimits
    from gennape.predictors.predictor import Prediction
    from gennape.search_spaces.families.space import Architecture
    from gennape.search_spaces.graphs.graph import PackedGraphs

Int32 = Annotated[int, Field(ge=0, lt=2**31)]


class PredictRequest(BaseModel):
    """One ``architecture`` or a list ``architectures`` of the family ``space``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    space: str
    architecture: Any = None
    architectures: list[Any] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> PredictRequest:
        if len({"architecture", "architectures"} & self.model_fields_set) != 1:
            raise ValueError('give either "architecture" or "architectures"')
        return self

    @property
    def listed(self) -> list[Architecture]:
        """The requested architectures, one or many."""
        return [self.architecture] if self.architectures is None else self.architectures


#: Groups of shared weights. Optional if every node has its own, as older clients send it.
_TIED = NODE_COLUMNS[Column.TIED]


def _kind(column: str) -> Any:
    return list[float] if column == SCALAR_COLUMN else list[Int32]


def _field(column: str) -> Any:
    if column == _TIED:
        return (_kind(column) | None, Field(default=None, alias=column))
    return (_kind(column), Field(alias=column))


if TYPE_CHECKING:
    GraphBody = BaseModel
else:
    #: One computation graph, by the columns of the Parquet layout: a list of one value per node or per edge each.
    GraphBody = create_model(
        "GraphBody",
        __config__=ConfigDict(extra="forbid", strict=True),
        __doc__="A computation graph: one value per node in each `node.` list, one per edge in each `edge.` list.",
        **{name.replace(".", "_"): _field(name) for name in GRAPH_COLUMNS},
    )


class GraphsRequest(BaseModel):
    """Computation graphs of any family or none."""

    model_config = ConfigDict(extra="forbid", strict=True)

    graphs: list[GraphBody] = Field(min_length=1)


class PredictionBody(BaseModel):
    """One network's answer: ``accuracy`` in percent, ``memberships`` summing to 1, ``flops`` = 2 x ``macs``;
    ``deviation`` in percent, how uncertain the accuracy is, left out where the predictor does not tell. Where it has no
    finite answer, null stands for it."""

    accuracy: float | None
    memberships: list[float | None]
    deviation: float | None = None
    flops: int
    macs: int
    params: int


class PredictResponse(BaseModel):
    """Predictions in the order asked, and the SHA-256 of the checkpoint that made them; a ``warning`` where it was
    fine-tuned on another family."""

    predictions: list[PredictionBody]
    checkpoint: str
    warning: str | None = None


class ErrorBody(BaseModel):
    """What is wrong, what was got and how to mend it, and the SHA-256 of the checkpoint that is served."""

    error: str
    checkpoint: str


class HealthResponse(BaseModel):
    """That the predictor answers, and the SHA-256 of the checkpoint that is served."""

    status: str
    checkpoint: str


class SpaceBody(BaseModel):
    """A family and one of its architectures."""

    name: str
    example: Any


class SpacesResponse(BaseModel):
    """The known families."""

    spaces: list[SpaceBody]
    checkpoint: str


def as_columns(graph: ComputationGraph) -> dict[str, list[int] | list[float]]:
    """A graph as ``POST /predict/graphs`` takes it: the lists of one row of the Parquet layout."""
    columns: dict[str, list[int] | list[float]] = dict(zip(NODE_COLUMNS, graph.nodes.T.tolist(), strict=True))
    columns[SCALAR_COLUMN] = graph.scalars.tolist()
    columns.update(zip(EDGE_COLUMNS, graph.edges.T.tolist(), strict=True))
    if not any(columns[_TIED]):
        del columns[_TIED]
    return columns


def graphs_of(bodies: Sequence[BaseModel], limits: RequestLimits) -> PackedGraphs:
    """The validated graphs of a request; raises :class:`InvalidGraphError` for one that is no executable network."""
    graphs = pack([_graph(position, body, limits) for position, body in enumerate(bodies)])
    validate(graphs)
    refuse_false_convolutions(graphs)
    return graphs


def _graph(position: int, body: BaseModel, limits: RequestLimits) -> ComputationGraph:
    lists: dict[str, list[Any]] = body.model_dump(by_alias=True)
    if lists[_TIED] is None:
        lists[_TIED] = [0] * len(lists[SCALAR_COLUMN])
    for companions in ((*NODE_COLUMNS, SCALAR_COLUMN), EDGE_COLUMNS):
        for name in companions:
            if len(lists[name]) != len(lists[companions[0]]):
                raise InvalidGraphError(
                    f"graph {position}: {name} has {len(lists[name])} values and {companions[0]} "
                    f"{len(lists[companions[0]])}; they must have as many"
                )
    n = len(lists[SCALAR_COLUMN])
    if n == 0:
        raise InvalidGraphError(f"graph {position} has no nodes; a network has at least an input and an output")
    _limit_size(position, n, len(lists[EDGE_COLUMNS[0]]), limits)
    edges = np.array([lists[name] for name in EDGE_COLUMNS], np.int32).T
    if edges.size and edges.max() >= n:
        raise InvalidGraphError(f"graph {position}: an edge names node {edges.max()}, but nodes are 0..{n - 1}")
    nodes = np.array([lists[name] for name in NODE_COLUMNS], np.int32).T.reshape(n, N_COLUMNS)
    return ComputationGraph(np.ascontiguousarray(nodes), np.array(lists[SCALAR_COLUMN], np.float64), edges)


def limit_sizes(graphs: PackedGraphs, limits: RequestLimits) -> None:
    """Raise :class:`InvalidGraphError` for a graph with too many nodes, or too many edges for its nodes."""
    sizes = zip(np.diff(graphs.node_offsets).tolist(), np.diff(graphs.edge_offsets).tolist(), strict=True)
    for position, (nodes, edges) in enumerate(sizes):
        _limit_size(position, nodes, edges, limits)


def _limit_size(position: int, nodes: int, edges: int, limits: RequestLimits) -> None:
    if nodes > limits.max_nodes:
        raise InvalidGraphError(
            f"graph {position} has {nodes} nodes, more than the {limits.max_nodes} that are taken here; "
            "divide the network"
        )
    if edges > limits.max_edges_per_node * nodes:
        raise InvalidGraphError(
            f"graph {position} has {edges} edges, more than {limits.max_edges_per_node} for each of its {nodes} nodes; "
            "join what is joined again and again once"
        )


def costs_of(graphs: PackedGraphs) -> dict[str, list[int]]:
    """FLOPs, MACs and parameters of each graph."""
    columns = {"flops": cost.flops(graphs), "macs": cost.macs(graphs), "params": cost.params(graphs)}
    return {key: column.tolist() for key, column in columns.items()}


def rows_of(prediction: Prediction, costs: dict[str, list[int]]) -> list[PredictionBody]:
    """One row per graph, in order."""
    columns = {"accuracy": prediction.accuracy.tolist(), "memberships": prediction.memberships.tolist(), **costs}
    if prediction.deviation is not None:
        columns["deviation"] = [value if math.isfinite(value) else None for value in prediction.deviation.tolist()]
    return [PredictionBody(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
