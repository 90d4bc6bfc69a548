"""The wheel that is shipped to a cluster: built from the source of this installation, and unpacked."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import gennape
from gennape.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BUILD_TIMEOUT_S = 600
#: Maximum unpacked size of what is shipped. The package has 2 MiB; Ray refuses 512 MiB, but only after the upload.
LIMIT_BYTES = 100 * 2**20
#: Patterns of files and folders that are never shipped.
EXCLUDES = (
    *(".git", ".venv", "venv", "__pycache__", "*.pyc", ".*_cache", ".hypothesis", ".ipynb_checkpoints", "node_modules"),
    *("gennape-workspace", "mlruns", "mlflow.db*"),
)
LARGEST_SHOWN = 5


def source_tree() -> Path:
    """The source of this installation: the checkout it is imported from, or the folder it was installed from.

    Raises :class:`ConfigError` when there is none.
    """
    candidates = [Path(gennape.__file__).resolve().parent.parent, *_installed_from()]
    for folder in candidates:
        if (folder / "pyproject.toml").is_file() and (folder / "gennape" / "__init__.py").is_file():
            return folder
    raise ConfigError("this gennape was not installed from a source tree, so no wheel can be built; pass --wheel PATH")


def _installed_from() -> list[Path]:
    """The folder that the installer recorded (PEP 610), if any."""
    try:
        record = distribution("gennape").read_text("direct_url.json")
    except PackageNotFoundError:
        record = None
    url = urlsplit(json.loads(record)["url"] if record else "")
    return [Path(unquote(url.path))] if url.scheme == "file" else []


def build_wheel(source: Path, into: Path) -> Path:
    """Build the wheel of ``source`` in the folder ``into``.

    Uses the installed build backend, or downloads one. Raises :class:`ConfigError` with the end of the builder's output
    when it fails.
    """
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(into), str(source)]
    if importlib.util.find_spec("hatchling") is not None:
        command.append("--no-build-isolation")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT_S)  # noqa: S603
    wheels = list(into.glob("gennape-*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        words = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise ConfigError(f"cannot build the wheel of {source}: {words}; build it yourself and pass --wheel PATH")
    return wheels[0]


def unpack_wheel(wheel: Path, into: Path, excludes: Sequence[str] = ()) -> list[Path]:
    """Unpack the parts of a wheel of gennape that are shipped. Returns their folders.

    ``EXCLUDES`` and ``excludes`` are left out: shell patterns for the name of a file or folder (``*.csv``), or for a
    whole path in the wheel (``gennape/predictors/mine/*``). Raises :class:`ConfigError` if it is no wheel of gennape or
    larger than ``LIMIT_BYTES``.
    """
    patterns = (*EXCLUDES, *excludes)
    try:
        with zipfile.ZipFile(wheel) as archive:
            if "gennape/__init__.py" not in archive.namelist():
                raise ConfigError(f"{wheel} is not a wheel of gennape")
            shipped = [i for i in archive.infolist() if not i.is_dir() and not _matches(i.filename, patterns)]
            _refuse_too_much(wheel, {member.filename: member.file_size for member in shipped})
            archive.extractall(into, [member.filename for member in shipped])
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(f"cannot read the wheel {wheel}: {error}") from error
    return sorted(path for path in into.iterdir() if path.is_dir())


def _matches(name: str, patterns: Sequence[str]) -> bool:
    texts = (name, *PurePosixPath(name).parts)
    return any(fnmatchcase(text, pattern) for pattern in patterns for text in texts)


def _refuse_too_much(wheel: Path, sizes: Mapping[str, int]) -> None:
    if "gennape/__init__.py" not in sizes:
        raise ConfigError("--exclude leaves nothing of gennape to ship; exclude single files or folders of it")
    total = sum(sizes.values())
    if total <= LIMIT_BYTES:
        return
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:LARGEST_SHOWN]
    listed = ", ".join(f"{name} ({_mib(sizes[name])})" for name in largest)
    raise ConfigError(
        f"{wheel.name} holds {_mib(total)} to ship, at most {_mib(LIMIT_BYTES)} are; the largest: {listed}. "
        f"Leave out what the job does not need, as by --exclude '{largest[0]}', "
        "and bring data to the head by other means"
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
