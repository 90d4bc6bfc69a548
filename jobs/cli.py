"""The command line: one verb per file of this folder."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gennape import __version__
from gennape.errors import GennapeError
from gennape.jobs.best import best
from gennape.jobs.compare import compare
from gennape.jobs.conform import conform
from gennape.jobs.convert import convert
from gennape.jobs.data import data
from gennape.jobs.evaluate import evaluate
from gennape.jobs.export import export
from gennape.jobs.finetune import finetune
from gennape.jobs.fit import fit
from gennape.jobs.label import label
from gennape.jobs.logs import logs
from gennape.jobs.predict import predict
from gennape.jobs.pretrain import pretrain
from gennape.jobs.search import search
from gennape.jobs.serve import serve
from gennape.jobs.shared.interruption import INTERRUPTED_STATUS, end_on_signals, leave
from gennape.jobs.shared.trouble import refuse_removed_folder, trouble_of
from gennape.jobs.shared.visible_text import visible
from gennape.jobs.show import show
from gennape.jobs.status import status
from gennape.jobs.stop import stop
from gennape.jobs.submit import submit
from gennape.jobs.tune import tune
from gennape.jobs.ui import ui
from gennape.jobs.verify import verify


class _Verbs(TyperGroup):
    """Says that it was interrupted, which Typer ends without a word."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.stderr.write("gennape: interrupted\n")
            raise typer.Exit(INTERRUPTED_STATUS) from None


app = typer.Typer(
    cls=_Verbs,
    name="gennape",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Neural architecture search with one predictor for every search space. "
    "First search: [bold]gennape search --space ofa_mbv3[/bold]",
    rich_markup_mode="rich",
)

#: What one does, and the verbs for it: the panels of ``gennape --help`` and the groups of README.
PANELS = {
    "Search": (search, ui, best, compare, export, show, verify),
    "Predict": (predict, serve, evaluate),
    "Train": (pretrain, fit, finetune, tune),
    "Data": (data, label, convert, conform),
    "Cluster": (submit, status, logs, stop),
}

for panel, verbs in PANELS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gennape {__version__}")
        raise typer.Exit


@app.callback()
def every_verb(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What goes before a verb. The help of the application stands in its place."""


def main() -> None:
    """Run a verb; an expected error becomes one message on stderr and exit status 1, Ctrl-C 130, SIGTERM 143."""
    if os.environ.get("RAY_JOB_STOP_SIGNAL") == "SIGINT":  # a job; its head may have been started deaf to Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    end_on_signals()
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text
    try:
        refuse_removed_folder()
        app(standalone_mode=True)
        status: Any = 0
    except SystemExit as end:  # how Typer ends
        status = end.code
    except GennapeError as error:
        sys.stderr.write(f"gennape: error: {visible(str(error))}\n")
        status = 1
    except (OSError, MemoryError, RuntimeError, ImportError, SystemError) as error:
        if (sentence := trouble_of(error)) is None:
            raise
        sys.stderr.write(f"gennape: error: {visible(sentence)}\n")
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            os._exit(1)  # what is left in the buffer of stdout cannot be written either
        status = 1
    except KeyboardInterrupt:  # before the verb began
        sys.stderr.write("gennape: interrupted\n")
        status = INTERRUPTED_STATUS
    leave(status)
