"""The SQLite file of a workspace's MLflow store: one process at a time makes it, and it appears whole.

MLflow makes its tables in some hundred statements that are no transaction: two processes that do so at once disturb
each other, and one that is killed leaves a part. So the tables are made in a file beside it, which is then renamed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from gennape.errors import WorkspaceError
from gennape.search_spaces.files.atomic import temporary_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "mlflow.db"
LOCK = ".mlflow.lock"
#: Tables that have rows only where somebody has recorded something, also while MLflow rebuilds them under this prefix.
_RECORDS = ("runs", "registered_models", "trace_info")
_REBUILT = "_alembic_tmp_"
_OWN_EXPERIMENTS = ("Default", "gennape")
log = logging.getLogger(__name__)


@contextmanager
def database(workspace: Path) -> Iterator[None]:
    """The database is whole, and no other process opens it for the first time, for the length of the block.

    An absent one is made. One that was left unfinished, by a process that was killed, is made anew where nothing was
    recorded in it; else MLflow completes a copy, which takes its place, and the former is kept beside it.

    Raises :class:`WorkspaceError` for one with records that MLflow cannot complete, which is left as it is, and
    :class:`OSError` or :class:`sqlite3.Error` for one that cannot be read or written.
    """
    path = workspace / NAME
    with (workspace / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it when this process ends, however it ends
        if not _is_complete(path):
            for left in workspace.glob(f".{path.stem}.*{path.suffix}*"):  # by makers that were killed
                left.unlink()
            if path.exists() and _holds_records(path):
                _complete(path)
            else:
                _make(path)
        yield


def _is_complete(path: Path) -> bool:
    """Whether it has every table, of the version that this MLflow works with."""
    from mlflow.store.db import utils  # noqa: PLC0415 (2 s)
    from mlflow.store.db.base_sql_model import Base  # noqa: PLC0415

    if not path.exists():
        return False
    with closing(sqlite3.connect(path)) as connection:
        tables = _tables(connection)
        if not tables >= {*Base.metadata.tables, "alembic_version"}:
            return False
        versions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        latest = utils._get_latest_schema_revision()
    return bool(versions == [(latest,)])


def _holds_records(path: Path) -> bool:
    """Whether anything was recorded: a run, a model, a trace, or an experiment of somebody else."""
    with closing(sqlite3.connect(path)) as connection:
        tables = _tables(connection)
        for name in (prefix + table for prefix in ("", _REBUILT) for table in _RECORDS):
            if name in tables and connection.execute(f'SELECT 1 FROM "{name}"').fetchone():  # noqa: S608 (our names)
                return True
        for name in {"experiments", f"{_REBUILT}experiments"} & tables:
            names = {row[0] for row in connection.execute(f'SELECT name FROM "{name}"')}  # noqa: S608 (our names)
            if names - set(_OWN_EXPERIMENTS):
                return True
    return False


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _make(path: Path) -> None:
    """Make a new one, in place of an unfinished one."""
    temporary = temporary_name(path)
    _migrate(temporary)
    for end in ("-journal", "-wal", "-shm"):  # of the unfinished one: SQLite would take them for the new one's
        path.with_name(path.name + end).unlink(missing_ok=True)
    os.replace(temporary, path)


def _complete(path: Path) -> None:
    """Let MLflow bring a copy to its version, then put it in place of the original, which is kept."""
    temporary = temporary_name(path)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(temporary)) as copy:
        source.backup(copy)
        tables = _tables(copy)
        for name in tables:
            if name.startswith(_REBUILT) and name.removeprefix(_REBUILT) in tables:
                copy.execute(f'DROP TABLE "{name}"')  # the original is there still, and MLflow rebuilds it again
        copy.commit()
    kept = next(p for n in range(1, 1000) if not (p := path.with_name(f"{path.stem}-before-{n}{path.suffix}")).exists())
    try:
        _migrate(temporary)
    except Exception as error:  # of a half-changed database alembic and SQLAlchemy raise nearly anything
        temporary.unlink(missing_ok=True)
        raise WorkspaceError(
            f"the MLflow store {path} is of another version of MLflow, or a change of version was cut off, and this "
            f"MLflow cannot complete it ({type(error).__name__}: {str(error).splitlines()[0][:300]}). It holds runs "
            "and is left as it is: open it with the gennape that wrote it, or use another --workspace"
        ) from error
    os.link(path, kept)
    os.replace(temporary, path)
    log.warning("the MLflow store %s was unfinished and is completed; the former is kept in %s", path, kept)


def _migrate(path: Path) -> None:
    """Bring a database to MLflow's version, from whatever it has."""
    from mlflow.store.db import utils  # noqa: PLC0415
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: PLC0415

    uri = f"sqlite:///{path}"
    engine = utils.create_sqlalchemy_engine(uri)
    try:
        utils._initialize_tables(engine)
    finally:
        engine.dispose()
    # The experiment that MLflow expects in every store: two processes that add it at once would disturb each other too.
    try:
        SqlAlchemyStore(uri, str(path.parent / "artifacts"))
    finally:
        if (opened := SqlAlchemyStore._engine_map.pop(uri, None)) is not None:
            opened.dispose()
    with path.open("rb") as file:
        os.fsync(file.fileno())
