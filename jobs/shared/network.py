"""The one network that a verb is about: a point of a run's front, an architecture of a family, or an ONNX file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gennape.errors import ConfigError
from gennape.jobs.shared.network_files import InputShape, read_network
from gennape.jobs.shared.own_code import refuse_another_space, typed

if TYPE_CHECKING:
    from gennape.search_spaces.graphs.graph import ComputationGraph


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """``name`` of the family or file; ``architecture`` as JSON, or the file's path; the graph; the ``options`` that
    name the network on the command line."""

    name: str
    architecture: str
    graph: ComputationGraph
    options: tuple[str, ...]

    @property
    def title(self) -> str:
        """What it is, in one line."""
        return self.architecture if self.architecture.endswith(self.name) else f"{self.name}: {self.architecture}"

    @property
    def document(self) -> object:
        """The architecture as JSON has it; of a file its path, as text."""
        return self.architecture if self.architecture.endswith(self.name) else json.loads(self.architecture)


def chosen_network(
    *,
    run: str | None,
    index: int | None,
    space: str | None,
    architecture: str | None,
    onnx: Path | None,
    workspace: Path | None,
    published: bool = False,
    shape: InputShape | None = None,
) -> Network:
    """The network that exactly one of (run, index), (space, architecture) and onnx names; a run may name its space too.

    ``published`` asks for the graph that was published of a family's network. Raises :class:`ConfigError` for any
    other combination and for text that is no JSON, and what reading a run, an architecture or a file raises.
    """
    named = {"run": run, "index": index, "space": space, "architecture": architecture, "onnx": onnx}
    given = {name: str(value) for name, value in named.items() if value is not None}
    again = given if space is None else given | {"space": typed(space)}
    options = tuple(word for name, value in again.items() for word in (f"--{name}", value))
    if shape is not None and onnx is None:
        raise ConfigError("--shape is for the input of an ONNX file; leave it out, or name such a file")
    if run is not None and index is not None and set(given) <= {"run", "index", "space"}:
        name, point = _point_of_front(workspace, run, index)
        refuse_another_space(name, run, space)
        return _of_family(name, point, published, options)
    if space is not None and architecture is not None and len(given) == 2:
        return _of_family(space, parse_architecture(architecture), published, options)
    if onnx is not None and len(given) == 1 and not published:
        shaped = () if shape is None else ("--shape", str(shape))
        return Network(onnx.name, str(onnx), read_network(onnx, shape), (*options, *shaped))
    if onnx is not None and len(given) == 1:
        raise ConfigError("only networks of a family have a published graph; leave --published out with an ONNX file")
    if run is not None and set(given) <= {"run", "space"}:
        raise ConfigError("--run needs --index, a number of the column index of front.csv")
    raise ConfigError(
        "name one network: either --run and --index, or --space and an architecture, or an ONNX file; "
        f"got {', '.join(f'--{name}' for name in given) or 'none of them'}"
    )


def _of_family(name: str, architecture: object, published: bool, options: tuple[str, ...]) -> Network:
    from gennape.search_spaces.families.registry import family

    found = family(name)
    graph = found.graph(found.decode(architecture), published)
    return Network(name, json.dumps(architecture), graph, options)


def _point_of_front(workspace: Path | None, run: str, index: int) -> tuple[str, object]:
    from gennape.platform.search.run_report import caution, read_front
    from gennape.platform.search.runs import config_of, find_run
    from gennape.platform.workspace.files import find_workspace

    folder = find_run(find_workspace(workspace), run)
    points = {point["index"]: point["architecture"] for point in read_front(folder)}
    if not points:
        raise ConfigError(f"the front of {folder.name} is empty; search with more evaluations")
    if index not in points:
        raise ConfigError(f"the front of {folder.name} has points {min(points)} to {max(points)}, got --index {index}")
    if note := caution(folder):
        typer.echo(note, err=True)
    return config_of(folder).space, points[index]


def parse_architecture(text: str) -> object:
    """An architecture as typed: JSON; or, where it does not begin like JSON, a benchmark's own string as it is."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        shown = text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
        raise ConfigError(f"the architecture must be JSON, got {shown!r}: {error}") from error
