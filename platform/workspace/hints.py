"""Complete commands for messages, quoted so that they can be pasted into a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

from gennape.platform.workspace.files import default_workspace


def command(verb: str, *arguments: object, **options: object) -> str:
    """``gennape VERB`` with its arguments, and every option that has a value: ``out=path`` becomes ``--out path``.

    ``True`` gives an option without a value; None and False leave it out.
    """
    words = [str(argument) for argument in arguments]
    for name, value in options.items():
        if value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(["gennape", verb, *words])


def workspace_option(folder: Path) -> Path | None:
    """The value of ``--workspace`` for a workspace; None for the default one."""
    return None if folder.absolute() == default_workspace().absolute() else folder
