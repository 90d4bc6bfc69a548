"""Import a network from a program that ``torch.export`` saved: its structure, without its weights."""

from __future__ import annotations

from pathlib import Path

from gennape.search_spaces.graphs.graph import ComputationGraph
from gennape.search_spaces.importing.pt2_nodes.archive import read_archive
from gennape.search_spaces.importing.pt2_nodes.program import Program
from gennape.search_spaces.importing.torch import HANDLERS, SUBSTITUTES, Traced, trace_without_numbers


def read_pt2(path: Path, shape: tuple[int, ...] | None = None) -> ComputationGraph:
    """The computation graph of the program at ``path``; see :func:`import_pt2`."""
    return import_pt2(path, shape).graph


def import_pt2(path: Path, shape: tuple[int, ...] | None = None) -> Traced:
    """The network in a file of ``torch.export.save``, in the form that :func:`torch_import.trace` returns.

    Nothing in the file is executed or unpickled, and weights are skipped. A free first dimension of the input is the
    batch and set to 1. If other dimensions are free, ``shape`` sets them: (1, 3, 224, 224).

    Raises :class:`InvalidDataError` if the file cannot be read or is no program, :class:`OpenShapeError` if ``shape``
    is needed and missing, and :class:`InvalidGraphError` with a list of all calls that no node can express.
    """
    program = Program(read_archive(path), HANDLERS.keys() | SUBSTITUTES.keys())
    return trace_without_numbers(program, program.example(shape))
