"""Networks as graphs, the short way: read them, run them, write them, price them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from gennape.search_spaces.exporting import onnx as onnx_export
from gennape.search_spaces.graphs import cost
from gennape.search_spaces.graphs.graph import ComputationGraph, PackedGraphs, pack
from gennape.search_spaces.graphs.module import compile_graph
from gennape.search_spaces.importing.onnx import read_onnx

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from jaxtyping import Int64
    from torch import nn

    from gennape.search_spaces.graphs.module import GraphModule


def from_onnx(path: str | Path, shape: tuple[int, ...] | None = None) -> ComputationGraph:
    """Read the network in an ONNX file (opset 11 to 28) as a computation graph.

    Only the structure is read, never weights or external data.

    Args:
        path: The file.
        shape: Sizes of the input, for a file that leaves them open: (channels, height, width), or with the batch of 1.

    Returns:
        The graph.

    Raises:
        InvalidDataError: The file cannot be read, is too large, or is not ONNX.
        InvalidGraphError: A computation graph cannot express some operators; all are listed.
        OpenShapeError: The file leaves the shape of its input open, and ``shape`` is not given.

    Example:
        >>> import gennape as gp
        >>> graph = gp.family("nb201").graphs(gp.family("nb201").sample(np.random.default_rng(0), 1))[0]
        >>> gp.to_onnx(graph, folder / "network.onnx")
        >>> gp.flops(gp.from_onnx(folder / "network.onnx")) == gp.flops(graph)
        True
    """
    return read_onnx(Path(path), shape=shape)


def to_module(graph: ComputationGraph) -> GraphModule:
    """The executable PyTorch network of a graph, with PyTorch's default initial weights.

    It takes images [n, c, h, w] and gives [n, classes], or maps [n, c, h, w].

    Args:
        graph: The network.

    Returns:
        A ``torch.nn.Module``.

    Raises:
        InvalidGraphError: The graph holds an operation that can be priced but not executed.

    Example:
        >>> import gennape as gp
        >>> import torch
        >>> graph = gp.family("nb201").graphs(gp.family("nb201").sample(np.random.default_rng(0), 1))[0]
        >>> gp.to_module(graph).eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    return compile_graph(graph)


def to_onnx(graph: ComputationGraph, path: str | Path, module: nn.Module | None = None, opset: int = 18) -> None:
    """Write a network as ONNX: ``image`` in, ``result`` out, any batch size.

    Args:
        graph: The network.
        path: The file, which appears whole or not at all.
        module: What :func:`to_module` made of the graph, with the weights to write; None writes initial weights.
        opset: The version of ONNX's operators, 13 to 23.

    Raises:
        ConfigError: The opset is another one, or the module computes in another type than float32 or float64.
        InvalidGraphError: The graph holds an operation that can be priced but not executed.
        WorkspaceError: The file cannot be written.

    Example:
        >>> import gennape as gp
        >>> graph = gp.family("nb201").graphs(gp.family("nb201").sample(np.random.default_rng(0), 1))[0]
        >>> gp.to_onnx(graph, folder / "network.onnx")
    """
    onnx_export.to_onnx(graph, compile_graph(graph) if module is None else module, Path(path), opset)


@overload
def macs(networks: ComputationGraph) -> int: ...
@overload
def macs(networks: PackedGraphs) -> Int64[np.ndarray, " g"]: ...
def macs(networks: ComputationGraph | PackedGraphs) -> int | Int64[np.ndarray, " g"]:
    """Multiply-accumulates for one image: of convolutions, fully connected layers and matrix products.

    Args:
        networks: One graph, or g packed graphs.

    Returns:
        A number, or int64 [g].

    Example:
        >>> import gennape as gp
        >>> graphs = gp.family("nb201").graphs(gp.family("nb201").sample(np.random.default_rng(0), 3))
        >>> gp.macs(graphs[0]) == int(gp.macs(graphs)[0])
        True
    """
    return _counted(cost.macs, networks)


@overload
def flops(networks: ComputationGraph) -> int: ...
@overload
def flops(networks: PackedGraphs) -> Int64[np.ndarray, " g"]: ...
def flops(networks: ComputationGraph | PackedGraphs) -> int | Int64[np.ndarray, " g"]:
    """Floating-point operations for one image: two for each multiply-accumulate.

    Args:
        networks: One graph, or g packed graphs.

    Returns:
        A number, or int64 [g].

    Example:
        >>> import gennape as gp
        >>> graphs = gp.family("nb201").graphs(gp.family("nb201").sample(np.random.default_rng(0), 3))
        >>> gp.flops(graphs[0]) == 2 * gp.macs(graphs[0])
        True
    """
    return _counted(cost.flops, networks)


@overload
def params(networks: ComputationGraph) -> int: ...
@overload
def params(networks: PackedGraphs) -> Int64[np.ndarray, " g"]: ...
def params(networks: ComputationGraph | PackedGraphs) -> int | Int64[np.ndarray, " g"]:
    """Learnt parameters; weights that several layers share count once.

    Args:
        networks: One graph, or g packed graphs.

    Returns:
        A number, or int64 [g].

    Example:
        >>> import gennape as gp
        >>> graph = gp.family("nb201").graphs(gp.family("nb201").sample(np.random.default_rng(0), 1))[0]
        >>> gp.params(graph) == sum(p.numel() for p in gp.to_module(graph).parameters())
        True
    """
    return _counted(cost.params, networks)


def _counted(count: Callable[[PackedGraphs], Any], networks: ComputationGraph | PackedGraphs) -> Any:
    return int(count(pack([networks]))[0]) if isinstance(networks, ComputationGraph) else count(networks)
