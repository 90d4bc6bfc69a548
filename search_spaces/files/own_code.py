"""Own classes from Python files and modules: ``file.py:Class``, ``file.py`` that holds one, or ``module:Class``.

Loading a class runs its file, as ``python file.py`` does. So addresses are accepted only from the command line, never
from a stored file or a request.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import gennape
from gennape.errors import ConfigError
from gennape.search_spaces.files.nearby import did_you_mean, missing

if TYPE_CHECKING:
    from types import ModuleType

_PACKAGE = Path(gennape.__file__).parent
#: The folders of gennape, which may be in the current folder.
_OURS = (_PACKAGE, *(path.resolve() for path in _PACKAGE.iterdir() if path.is_dir()))


def is_address(text: str) -> bool:
    """Whether a text is the address of an own class rather than a name."""
    return ":" in text or text.endswith(".py")


def parts_of(address: str) -> tuple[str, str]:
    """The file or module of an address, and the class, empty where the address leaves it out."""
    where, colon, name = address.rpartition(":")
    return (where, name) if colon else (address, "")


def load_class(address: str, base: type, kind: str) -> type:
    """The class at an address: a subclass of ``base``, which is called a ``kind`` in messages.

    Args:
        address: ``file.py:Class``, ``file.py``, or ``module:Class`` of a module that is installed or lies in the
            current folder.
        base: What it must derive from.
        kind: For messages: "search space".

    Raises:
        ConfigError: There is no such file, module or class, running it fails, or the class derives from something else.
    """
    where, name = parts_of(address)
    if not where:
        raise ConfigError(f"{address!r} names no file or module before the colon; write file.py:Class or module:Class")
    module = _module_of_file(Path(where)) if where.endswith(".py") else _module_named(where)
    own = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.__name__
    }
    if not name and len(own) == 1:
        return next(iter(own.values()))
    if not name:
        found = f"holds {', '.join(own)}" if own else f"holds no {kind}, a subclass of {base.__name__}"
        raise ConfigError(f"{where} {found}; name one, as in {where}:{next(iter(own), 'MyClass')}")
    value = getattr(module, name, None)
    if value is None:
        raise ConfigError(f"{where} holds no {name!r}{did_you_mean(name, own)}")
    if not (isinstance(value, type) and issubclass(value, base)):
        raise ConfigError(f"{address} is no {kind}: it must be a subclass of {base.__name__}")
    return value


def _module_of_file(path: Path) -> ModuleType:
    """Import a file once, under a unique module name. It can import from its own folder."""
    if not path.is_file():
        raise ConfigError(missing(path) if not path.exists() else f"{path} is no file; name a Python file")
    found = path.resolve()
    name = f"gennape_own_{found.stem}_{hashlib.sha256(os.fsencode(found)).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, found)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} cannot be read as Python")
    _search_in(found.parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _failed(str(path), error) from error
    return module


def _module_named(name: str) -> ModuleType:
    """Import a module that is installed or in the current folder, which is searched last."""
    _search_in(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"there is no module {name}, neither installed nor in the current folder; write the path of a file, "
                "as in spaces/mine.py:MySpace"
            ) from None
        raise _failed(name, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error


def _failed(where: str, error: BaseException) -> ConfigError:
    return ConfigError(f"running {where} fails: {type(error).__name__}: {error}{place_of(error)}")


def _search_in(folder: Path) -> None:
    """Append a folder to the end of the import path, so that nothing in it replaces an installed library."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def place_of(error: BaseException) -> str:
    """The line of own code that raised an error, as `` (file.py, line 3)``; empty if it was not own code."""
    if isinstance(error, SyntaxError):  # its message already says so
        return ""
    libraries = (*_OURS, Path(sys.prefix), Path(sys.base_prefix))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not any(path.resolve().is_relative_to(folder) for folder in libraries):
            return f" ({path.name}, line {frame.lineno})"
    return ""


def own_modules(module: ModuleType) -> list[ModuleType]:
    """An own module or its package, and the modules beside it that it imports; installed modules are left out.

    These are what another process needs besides installed packages. A module without a file (a notebook) is alone.
    """
    root = _root_of(module)
    top = sys.modules[module.__name__.partition(".")[0]]
    if root is None or _installed(root):
        return [top]
    found = {top.__name__: top}
    for name, other in list(sys.modules.items()):
        lies = None if "." in name or name == "__main__" else _root_of(other)
        if lies is not None and lies.parent == root.parent and not _installed(lies):
            found[name] = other
    return list(found.values())


def sources_of(module: ModuleType) -> list[Path]:
    """The files and folders of :func:`own_modules`."""
    roots = (_root_of(one) for one in own_modules(module))
    return sorted({root for root in roots if root is not None})


def _root_of(module: ModuleType) -> Path | None:
    """The file of a module, or the folder of its package; None if it has neither."""
    folders = list(vars(module).get("__path__", []))  # of a package, with an __init__.py or without
    file = folders[0] if folders else vars(module).get("__file__")
    if not isinstance(file, str):
        return None
    depth = module.__name__.count(".")
    path = Path(file).resolve()
    return path if depth == 0 else path.parents[depth - 1]


def _installed(path: Path) -> bool:
    in_libraries = any(part in ("site-packages", "dist-packages") for part in path.parts)
    return in_libraries or any(path.is_relative_to(folder) for folder in _OURS)
