"""The command line: one verb per file of this folder."""

from __future__ import annotations

import os
import signal
import sys

import typer

from gennape.errors import GennapeError
from gennape.jobs.conform import conform
from gennape.jobs.convert import convert
from gennape.jobs.data import data
from gennape.jobs.evaluate import evaluate
from gennape.jobs.export import export
from gennape.jobs.finetune import finetune
from gennape.jobs.fit import fit
from gennape.jobs.label import label
from gennape.jobs.logs import logs
from gennape.jobs.pretrain import pretrain
from gennape.jobs.search import search
from gennape.jobs.serve import serve
from gennape.jobs.show import show
from gennape.jobs.status import status
from gennape.jobs.stop import stop
from gennape.jobs.submit import submit
from gennape.jobs.tune import tune
from gennape.jobs.ui import ui
from gennape.jobs.verify import verify

app = typer.Typer(
    name="gennape",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Neural architecture search across families. First search: [bold]gennape search --space ofa_mbv3[/bold]",
    rich_markup_mode="rich",
)

for verb in (
    search,
    ui,
    export,
    show,
    serve,
    submit,
    status,
    logs,
    stop,
    pretrain,
    fit,
    label,
    verify,
    tune,
    finetune,
    evaluate,
    conform,
    data,
    convert,
):
    app.command()(verb)


def main() -> None:
    """Run a verb; an expected error becomes one message on stderr and exit status 1, Ctrl-C 130."""
    if os.environ.get("RAY_JOB_STOP_SIGNAL") == "SIGINT":  # a job; its head may have been started deaf to Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app(standalone_mode=True)
    except GennapeError as error:
        sys.stderr.write(f"gennape: error: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("gennape: interrupted\n")
        sys.exit(130)
