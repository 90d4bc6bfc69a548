"""Data sets of computation graphs as Parquet: one row per graph, Arrow list columns, any number of shards.

Every attribute of the nodes is a list column ``node.<attribute>`` (int32), their real parameter ``node.scalar``
(float64), the edges ``edge.source`` and ``edge.target`` (int32, indices within the graph). Columns of the user, such as
family, architecture or accuracy, stand beside them. The version of this layout is in the file's metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, Shaped

from gennape.errors import InvalidDataError, InvalidGraphError
from gennape.search_spaces.files.atomic import replacing
from gennape.search_spaces.files.bounded import require_regular
from gennape.search_spaces.files.parquet_pages import MAX_VALUES, UNREADABLE, read_batches
from gennape.search_spaces.graphs.graph import Column, PackedGraphs, concatenate, offsets_of, validate
from gennape.search_spaces.graphs.plan import refuse_false_convolutions

SCHEMA_KEY = b"gennape.graph.schema"
SCHEMA_VERSION = b"3"
#: Columns by the version that introduced them; they read as 0 from files of earlier versions.
_ADDED = {b"2": (f"node.{Column.TIED.name.lower()}",), SCHEMA_VERSION: ()}
NODE_COLUMNS = tuple(f"node.{column.name.lower()}" for column in Column)
SCALAR_COLUMN = "node.scalar"
EDGE_COLUMNS = ("edge.source", "edge.target")
GRAPH_COLUMNS = (*NODE_COLUMNS, SCALAR_COLUMN, *EDGE_COLUMNS)
_TYPES = {name: pa.list_(pa.float64() if name == SCALAR_COLUMN else pa.int32()) for name in GRAPH_COLUMNS}


def write_graphs(
    path: Path, graphs: PackedGraphs, columns: Mapping[str, Any], notes: Mapping[str, str] | None = None
) -> None:
    """Write one file of graphs and further columns; ``path`` is replaced atomically.

    ``columns`` are Arrow arrays, NumPy arrays or lists of one value per graph; their names must not be those of graph
    columns. ``notes`` are texts about the whole file, stored in its footer.
    Raises :class:`InvalidDataError` for columns that do not fit, :class:`WorkspaceError` where ``path`` cannot be
    written.
    """
    fields = {name: _user_column(name, values, len(graphs)) for name, values in columns.items()}
    node_offsets, edge_offsets = _arrow_offsets(graphs.node_offsets), _arrow_offsets(graphs.edge_offsets)
    for index, name in enumerate(NODE_COLUMNS):
        fields[name] = pa.ListArray.from_arrays(node_offsets, np.ascontiguousarray(graphs.nodes[:, index]))
    fields[SCALAR_COLUMN] = pa.ListArray.from_arrays(node_offsets, graphs.scalars)
    local = graphs.edges - np.repeat(graphs.node_offsets[:-1], np.diff(graphs.edge_offsets))[:, None]
    for index, name in enumerate(EDGE_COLUMNS):
        fields[name] = pa.ListArray.from_arrays(edge_offsets, np.ascontiguousarray(local[:, index], np.int32))
    footer = {name.encode(): text.encode() for name, text in (notes or {}).items()} | {SCHEMA_KEY: SCHEMA_VERSION}
    with replacing(path) as temporary:
        _write_table(pa.table(fields).replace_schema_metadata(footer), temporary)


def _write_table(table: pa.Table, path: Path) -> None:
    """Bytes per graph count: attributes of nodes repeat (dictionaries), edges advance in small steps (differences)."""
    plain = [field.name for field in table.schema if not pa.types.is_nested(field.type)]
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=9,
        row_group_size=8192,
        data_page_size=8 * 2**20,
        write_statistics=plain,
        use_dictionary=[*plain, *(f"{name}.list.element" for name in (*NODE_COLUMNS, SCALAR_COLUMN))],
        column_encoding={f"{name}.list.element": "DELTA_BINARY_PACKED" for name in EDGE_COLUMNS},
    )


def write_shards(
    folder: Path, graphs: PackedGraphs, columns: Mapping[str, Any], graphs_per_shard: int = 16384
) -> list[Path]:
    """Write a data set as ``part-00000.parquet``, ``part-00001.parquet``, ... in ``folder``; returns their paths.

    Raises as :func:`write_graphs` does, and :class:`InvalidDataError` where the folder already holds shards.
    """
    if next(folder.glob("*.parquet"), None) is not None:
        raise InvalidDataError(f"{folder} already holds Parquet files; write the data set into an empty folder")
    arrays = {name: _user_column(name, values, len(graphs)) for name, values in columns.items()}
    paths: list[Path] = []
    for start in range(0, max(len(graphs), 1), graphs_per_shard):
        indices = np.arange(start, min(start + graphs_per_shard, len(graphs)))
        part = {name: array.slice(start, len(indices)) for name, array in arrays.items()}
        paths.append(folder / f"part-{len(paths):05d}.parquet")
        write_graphs(paths[-1], graphs.take(indices), part)
    return paths


def read_graphs(path: Path, check: bool = True) -> tuple[PackedGraphs, pa.Table]:
    """Read one file, or every ``*.parquet`` in a folder in order of name: the graphs and the user's columns.

    ``check`` False skips :func:`graph.validate` and the look at convolutions, for files that this process has read
    before.
    Raises :class:`InvalidDataError` naming the file, for one that is missing, unreadable, of another version of the
    layout, without its columns, or with graphs that are not executable.
    """
    shards = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not shards:
        raise InvalidDataError(f"{path} holds no *.parquet file")
    parts = [_read_shard(shard, check) for shard in shards]
    tables = [table for _, table in parts]
    for shard, table in zip(shards, tables, strict=True):
        if not table.schema.equals(tables[0].schema):
            raise InvalidDataError(
                f"{shard} has the columns {table.schema.names} and {shards[0]} others; mixed data sets"
            )
    return concatenate([graphs for graphs, _ in parts]), pa.concat_tables(tables)


def read_notes(path: Path) -> tuple[int, dict[str, str]]:
    """The number of graphs in a file, and its notes, from the footer. Raises :class:`InvalidDataError`."""
    try:
        require_regular(path)
        footer = pq.read_metadata(path)
    except UNREADABLE as error:
        raise InvalidDataError(f"cannot read {path} as Parquet: {error}") from None
    notes = {
        name.decode(errors="replace"): text.decode(errors="replace") for name, text in (footer.metadata or {}).items()
    }
    return footer.num_rows, notes


def _read_shard(path: Path, check: bool) -> tuple[PackedGraphs, pa.Table]:
    try:
        table = _table(path)
    except UNREADABLE as error:
        raise InvalidDataError(f"cannot read {path} as Parquet: {error}") from None
    version = (table.schema.metadata or {}).get(SCHEMA_KEY)
    if version not in _ADDED:
        got = "no version" if version is None else f"version {version.decode(errors='replace')}"
        raise InvalidDataError(
            f"{path} has {got} of the graph layout, this reads {b' and '.join(_ADDED).decode()}; write it anew"
        )
    table = _with_zeros(table, _ADDED[version])
    for name, kind in _TYPES.items():
        kinds = [field.type for field in table.schema if field.name == name]
        if kinds != [kind]:
            raise InvalidDataError(
                f"{path}: column {name} must be {kind}, got {kinds or 'nothing'}; write the file anew"
            )
    graphs = _graphs(path, table)
    if check:
        try:
            validate(graphs)
            refuse_false_convolutions(graphs)
        except InvalidGraphError as error:
            raise InvalidDataError(f"{path}: {error}") from None
    return graphs, table.drop_columns(list(GRAPH_COLUMNS)).replace_schema_metadata(None)


def _with_zeros(table: pa.Table, names: tuple[str, ...]) -> pa.Table:
    """Add missing columns to the table, with zeros for each node."""
    ops = table.column(NODE_COLUMNS[0]) if NODE_COLUMNS[0] in table.column_names else None
    for name in names:
        if ops is not None and ops.type == _TYPES[name] and name not in table.column_names:
            parts = [pa.ListArray.from_arrays(c.offsets, np.zeros(len(c.values), np.int32)) for c in ops.chunks]
            table = table.append_column(name, pa.chunked_array(parts, _TYPES[name]))
    return table


def _table(path: Path) -> pa.Table:
    require_regular(path)
    with pq.ParquetFile(path) as file:
        return pa.Table.from_batches(read_batches(path, file, numbers=GRAPH_COLUMNS), file.schema_arrow)


def _graphs(path: Path, table: pa.Table) -> PackedGraphs:
    flat = {name: _flatten(path, name, table.column(name)) for name in GRAPH_COLUMNS}
    node_offsets, edge_offsets = flat[NODE_COLUMNS[0]][0], flat[EDGE_COLUMNS[0]][0]
    for name, (offsets, _) in flat.items():
        expected = edge_offsets if name in EDGE_COLUMNS else node_offsets
        if not np.array_equal(offsets, expected):
            bad = int(np.flatnonzero(np.diff(offsets) != np.diff(expected))[0])
            raise InvalidDataError(f"{path}: in row {bad} the list {name} differs in length from its companions")
    edges = np.stack([flat[name][1] for name in EDGE_COLUMNS], axis=1).astype(np.int64)
    edges += np.repeat(node_offsets[:-1], np.diff(edge_offsets))[:, None]
    nodes = np.stack([flat[name][1] for name in NODE_COLUMNS], axis=1)
    return PackedGraphs(nodes, flat[SCALAR_COLUMN][1], edges, node_offsets, edge_offsets)


def _flatten(
    path: Path, name: str, column: pa.ChunkedArray
) -> tuple[Int64[np.ndarray, " g1"], Shaped[np.ndarray, " n"]]:
    """Offsets of the rows and all values of a list column, in one array each."""
    if column.null_count or any(chunk.flatten().null_count for chunk in column.chunks):
        raise InvalidDataError(f"{path}: column {name} has missing values; every graph needs all of its lists")
    lengths = [np.diff(chunk.offsets.to_numpy()).astype(np.int64) for chunk in column.chunks]
    dtype = np.float64 if name == SCALAR_COLUMN else np.int32
    values = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return (
        offsets_of(np.concatenate([np.zeros(0, np.int64), *lengths])),
        np.concatenate([np.zeros(0, dtype), *values]),
    )


def _user_column(name: str, values: Any, n: int) -> pa.Array:
    if name in GRAPH_COLUMNS:
        raise InvalidDataError(f"column {name} is part of the graph; choose another name")
    try:
        array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    except pa.ArrowException as error:
        raise InvalidDataError(f"column {name} cannot be stored: {error}") from None
    if len(array) != n:
        raise InvalidDataError(f"column {name} has {len(array)} values for {n} graphs")
    return array


def _arrow_offsets(offsets: Int64[np.ndarray, " g1"]) -> pa.Array:
    if offsets[-1] > MAX_VALUES:
        raise InvalidDataError(f"{offsets[-1]} nodes or edges are too many for one file; write shards")
    return pa.array(offsets.astype(np.int32))
