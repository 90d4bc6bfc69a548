from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from example_counts import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gennape.errors import InvalidDataError, WorkspaceError
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.graphs.graph import Column, PackedGraphs, concatenate, pack
from gennape.search_spaces.graphs.ops import Op
from gennape.search_spaces.graphs.parquet import (
    GRAPH_COLUMNS,
    SCHEMA_KEY,
    read_graphs,
    read_notes,
    write_graphs,
    write_shards,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gennape.search_spaces.graphs.graph import ComputationGraph


def _same(a: PackedGraphs, b: PackedGraphs) -> bool:
    names = ("nodes", "scalars", "edges", "node_offsets", "edge_offsets")
    return all(
        getattr(a, name).dtype == getattr(b, name).dtype and np.array_equal(getattr(a, name), getattr(b, name))
        for name in names
    )


@pytest.fixture
def graphs() -> PackedGraphs:
    space = family("nb101")
    return space.graphs(space.sample(np.random.default_rng(0), 5))


@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seeds=st.lists(st.integers(0, 10_000), max_size=6))
def test_round_trip(seeds: list[int], random_graph: Callable[[int], ComputationGraph], tmp_path: Path) -> None:
    packed = pack([random_graph(seed) for seed in seeds])
    path = tmp_path / "graphs.parquet"
    write_graphs(path, packed, {"seed": np.array(seeds, np.int64), "name": [str(seed) for seed in seeds]})
    read, table = read_graphs(path)
    assert _same(packed, read)
    assert table.column("seed").to_pylist() == seeds
    assert table.column_names == ["seed", "name"]


def test_families_in_shards(tmp_path: Path) -> None:
    parts = [space.graphs(space.sample(np.random.default_rng(1), 3)) for space in FAMILIES]
    packed = concatenate(parts)
    names = [space.name for space in FAMILIES for _ in range(3)]
    folder = tmp_path / "shards"
    folder.mkdir()
    paths = write_shards(folder, packed, {"family": names, "accuracy": pa.array(np.linspace(80, 90, len(names)))}, 7)
    assert [path.name for path in paths] == [f"part-{i:05d}.parquet" for i in range(-(-len(names) // 7))]
    read, table = read_graphs(folder)
    assert _same(packed, read)
    assert table.column("family").to_pylist() == names
    with pytest.raises(InvalidDataError, match="already holds"):
        write_shards(folder, packed, {})


def test_files_are_compact(tmp_path: Path) -> None:
    """A cell-based network of a hundred nodes and 23 attributes takes some hundred bytes, not ten thousand."""
    space = family("nb101")
    packed = space.graphs(space.sample(np.random.default_rng(0), 1000))
    write_graphs(tmp_path / "graphs.parquet", packed, {})
    assert (tmp_path / "graphs.parquet").stat().st_size / 1000 < 300


def test_columns_must_fit(graphs: PackedGraphs, tmp_path: Path) -> None:
    path = tmp_path / "graphs.parquet"
    with pytest.raises(InvalidDataError, match="accuracy has 2 values for 5 graphs"):
        write_graphs(path, graphs, {"accuracy": [1.0, 2.0]})
    with pytest.raises(InvalidDataError, match="choose another name"):
        write_graphs(path, graphs, {"node.op": [1] * 5})
    with pytest.raises(InvalidDataError, match="cannot be stored"):
        write_graphs(path, graphs, {"mixed": [1, "a", 2, 3, 4]})
    assert list(tmp_path.iterdir()) == []


def test_writing_replaces_all_or_nothing(graphs: PackedGraphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "graphs.parquet"
    write_graphs(path, graphs, {})
    before = path.read_bytes()

    def half(_table: pa.Table, where: Path, **_: object) -> None:
        where.write_bytes(b"PAR1 half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(KeyboardInterrupt):
        write_graphs(path, graphs, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    with pytest.raises(WorkspaceError, match="cannot write"):
        write_graphs(tmp_path / "missing" / "graphs.parquet", graphs, {})


def _rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def _replace(name: str, values: list[list[int] | None]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        kind = table.schema.field(name).type
        return table.set_column(table.schema.get_field_index(name), name, pa.array(values, kind))

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t.replace_schema_metadata({SCHEMA_KEY: b"1"}), "version 1 of the graph layout, this reads 2"),
        (lambda t: t.replace_schema_metadata({}), "no version"),
        (lambda t: t.drop_columns(["node.stride_h"]), "node.stride_h must be list"),
        (lambda t: t.set_column(0, "node.op", pa.array([1] * len(t))), "node.op must be list"),
        (_replace("node.bias", [[0]] * 5), "row 0 the list node.bias differs in length"),
        (_replace("edge.source", [[0]] * 5), "row 0 the list edge.target differs in length"),
        (_replace("node.op", [None] * 5), "node.op has missing values"),
        (_replace("node.op", [[None]] * 5), "node.op has missing values"),
    ],
)
def test_other_layouts_are_refused(
    change: Callable[[pa.Table], pa.Table], match: str, graphs: PackedGraphs, tmp_path: Path
) -> None:
    path = tmp_path / "graphs.parquet"
    write_graphs(path, graphs, {})
    _rewrite(path, change)
    with pytest.raises(InvalidDataError, match=match):
        read_graphs(path)


def test_graphs_that_cannot_run_are_refused(graphs: PackedGraphs, tmp_path: Path) -> None:
    path = tmp_path / "graphs.parquet"
    for wrong in (-1, 10**6):
        write_graphs(path, graphs, {})
        sources = [[*graphs[i].edges[:-1, 0].tolist(), wrong] for i in range(5)]
        _rewrite(path, _replace("edge.source", sources))
        with pytest.raises(InvalidDataError, match=r"graphs\.parquet: "):
            read_graphs(path)


def test_convolutions_of_no_network_are_refused(graphs: PackedGraphs, tmp_path: Path) -> None:
    """Their sizes fit those of their neighbours, and their costs would be those of nothing."""
    nodes = graphs.nodes.copy()
    (first, *_) = np.flatnonzero(nodes[:, Column.OP] == Op.CONV)
    nodes[first, Column.GROUPS] = 7
    false = PackedGraphs(nodes, graphs.scalars, graphs.edges, graphs.node_offsets, graphs.edge_offsets)
    path = tmp_path / "false.parquet"
    write_graphs(path, false, {})
    with pytest.raises(InvalidDataError, match=r"false\.parquet: graph 0, node \d+: .*groups"):
        read_graphs(path)


def test_unreadable_paths(graphs: PackedGraphs, tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="holds no"):
        read_graphs(tmp_path)
    with pytest.raises(InvalidDataError, match="cannot read"):
        read_graphs(tmp_path / "missing.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(InvalidDataError, match="cannot read"):
        read_graphs(tmp_path / "broken.parquet")
    (tmp_path / "broken.parquet").unlink()
    write_graphs(tmp_path / "a.parquet", graphs, {"accuracy": [1.0] * 5})
    write_graphs(tmp_path / "b.parquet", graphs, {})
    with pytest.raises(InvalidDataError, match="mixed data sets"):
        read_graphs(tmp_path)


def test_every_attribute_has_a_column() -> None:
    assert len(set(GRAPH_COLUMNS)) == len(GRAPH_COLUMNS)
    assert {"node.op", "node.kernel_h", "node.offset_w", "node.scalar", "edge.source"} <= set(GRAPH_COLUMNS)


def test_notes_are_read_without_the_graphs(graphs: PackedGraphs, tmp_path: Path) -> None:
    path = tmp_path / "graphs.parquet"
    write_graphs(path, graphs, {"name": list("abcde")}, {"of": "Zürich, 1st"})
    rows, notes = read_notes(path)
    assert (rows, notes["of"]) == (5, "Zürich, 1st")
    assert read_graphs(path)[1].schema.metadata is None
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InvalidDataError, match="cannot read"):
        read_notes(path)
