"""gennape: neural architecture search across families.

    import gennape as gp

    gp.search("ofa_mbv3", evaluations=2000).front      # the Pareto front, a data frame
    gp.load_pretrained().predict(graphs).accuracy      # percent
    gp.from_torch(module, (3, 224, 224))               # any network as a computation graph

Names are imported when they are first used, so that ``import gennape`` takes no time.

The folders ``search_spaces/``, ``predictors/``, ``platform/`` and ``jobs/`` of the repository are the sub-packages
``gennape.search_spaces`` and so on; each may import only the ones named before it.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from gennape.lazy import face
from gennape.moved import install

if TYPE_CHECKING:
    from gennape.errors import GennapeError as GennapeError
    from gennape.jobs.shared.evaluating import evaluate as evaluate
    from gennape.jobs.shared.searching import search as search
    from gennape.networks import flops as flops
    from gennape.networks import from_onnx as from_onnx
    from gennape.networks import macs as macs
    from gennape.networks import params as params
    from gennape.networks import to_module as to_module
    from gennape.networks import to_onnx as to_onnx
    from gennape.platform.evaluation.results import Evaluation as Evaluation
    from gennape.platform.search.driver import SearchResult as SearchResult
    from gennape.platform.search.measures import Measure as Measure
    from gennape.platform.search.registration import register as register
    from gennape.platform.search.searchers.base import Searcher as Searcher
    from gennape.predictors.model.checkpoint import load_checkpoint as load_checkpoint
    from gennape.predictors.model.checkpoint import load_pretrained as load_pretrained
    from gennape.predictors.model.latency import LatencyPredictor as LatencyPredictor
    from gennape.search_spaces.families.registry import families as families
    from gennape.search_spaces.families.registry import family as family
    from gennape.search_spaces.families.space import Gene as Gene
    from gennape.search_spaces.families.space import SearchSpace as SearchSpace
    from gennape.search_spaces.graphs.blocks import conv_bn as conv_bn
    from gennape.search_spaces.graphs.blocks import conv_bn_relu as conv_bn_relu
    from gennape.search_spaces.graphs.blocks import fragment as fragment
    from gennape.search_spaces.graphs.builder import GraphBuilder as GraphBuilder
    from gennape.search_spaces.graphs.geometric import from_batch as from_batch
    from gennape.search_spaces.graphs.geometric import from_data as from_data
    from gennape.search_spaces.graphs.geometric import to_batch as to_batch
    from gennape.search_spaces.graphs.geometric import to_data as to_data
    from gennape.search_spaces.graphs.graph import ComputationGraph as ComputationGraph
    from gennape.search_spaces.graphs.graph import PackedGraphs as PackedGraphs
    from gennape.search_spaces.graphs.graph import pack as pack
    from gennape.search_spaces.importing.torch import from_torch as from_torch
    from gennape.search_spaces.labels.labels import read_labels as read_labels

#: The module of each public name.
_HOMES = {
    "ComputationGraph": "search_spaces.graphs.graph",
    "Evaluation": "platform.evaluation.results",
    "Gene": "search_spaces.families.space",
    "GennapeError": "errors",
    "GraphBuilder": "search_spaces.graphs.builder",
    "LatencyPredictor": "predictors.model.latency",
    "Measure": "platform.search.measures",
    "PackedGraphs": "search_spaces.graphs.graph",
    "Searcher": "platform.search.searchers.base",
    "SearchResult": "platform.search.driver",
    "SearchSpace": "search_spaces.families.space",
    "conv_bn": "search_spaces.graphs.blocks",
    "conv_bn_relu": "search_spaces.graphs.blocks",
    "evaluate": "jobs.shared.evaluating",
    "families": "search_spaces.families.registry",
    "family": "search_spaces.families.registry",
    "flops": "networks",
    "fragment": "search_spaces.graphs.blocks",
    "from_batch": "search_spaces.graphs.geometric",
    "from_data": "search_spaces.graphs.geometric",
    "from_onnx": "networks",
    "from_torch": "search_spaces.importing.torch",
    "load_checkpoint": "predictors.model.checkpoint",
    "load_pretrained": "predictors.model.checkpoint",
    "macs": "networks",
    "pack": "search_spaces.graphs.graph",
    "params": "networks",
    "read_labels": "search_spaces.labels.labels",
    "register": "platform.search.registration",
    "search": "jobs.shared.searching",
    "to_batch": "search_spaces.graphs.geometric",
    "to_data": "search_spaces.graphs.geometric",
    "to_module": "networks",
    "to_onnx": "networks",
}

__all__ = [  # noqa: PLE0604 (all of them are text)
    "__version__",
    *_HOMES,
]

try:
    __version__ = version("gennape")
except PackageNotFoundError:  # a source tree on the path, without an installation
    __version__ = "0+source"


__getattr__ = face(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


install()
