"""``--json``: the result of a verb as one JSON document on stdout, and everything else on stderr."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import wraps
from pathlib import PurePath
from typing import Annotated, Any

import typer

#: The argument that the option sets.
AS_JSON = "as_json"
_OPTION = Annotated[
    bool,
    typer.Option("--json", help="Print the result as one JSON document on stdout, and messages on stderr."),
]


@dataclass(frozen=True, slots=True)
class Result:
    """What a verb found, as a document with named parts, and the exit status that it ends with."""

    document: Mapping[str, object]
    status: int = 0


def one_document(verb: Callable[..., Result | None]) -> Callable[..., Result | None]:
    """Give a verb the option ``--json``, which prints its result; end with the status of the result in any case.

    With the option, what the verb itself prints on stdout, for people, goes to stderr. A verb that raises, or returns
    no result, prints no document.
    """

    @wraps(verb)
    def run(*args: Any, **kwargs: Any) -> Result | None:
        if not kwargs.pop(AS_JSON, False):
            result = verb(*args, **kwargs)
        else:
            with redirect_stdout(sys.stderr):
                result = verb(*args, **kwargs)
            if result is not None:
                sys.stdout.write(json.dumps(plain(result.document), allow_nan=False) + "\n")
        if result is not None and result.status:
            raise typer.Exit(result.status)
        return result

    own = inspect.signature(verb, eval_str=True)
    option = inspect.Parameter(AS_JSON, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_OPTION)
    # What the command line reads a verb's options from.
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), option])  # type: ignore[attr-defined]
    return run


def plain(value: Any) -> Any:
    """A value as JSON has it: arrays as lists, paths as text; what is not a finite number is null."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):  # of NumPy, which the command line must not import
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, PurePath) else value
