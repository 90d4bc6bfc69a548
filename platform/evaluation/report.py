"""The report of an evaluation: every figure as JSON, tables as Markdown, tables and plots as one page."""

from __future__ import annotations

import html
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gennape.errors import WorkspaceError
from gennape.platform.evaluation.results import summary_of
from gennape.platform.evaluation.tables import Table, details, learning_curves, overviews, tables
from gennape.predictors.evaluation.methods import SIX_MEMBERS
from gennape.predictors.evaluation.published_results import PUBLISHED
from gennape.search_spaces.files.atomic import atomic_write_bytes
from gennape.search_spaces.files.bounded import read_regular

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gennape.platform.evaluation.results import Evaluation
    from gennape.predictors.evaluation.protocol import BenchmarkResult, BenchmarkRows

#: Version of ``report.json``.
FORMAT = 2
#: The files of a report, and what the first holds of every version.
FILES = ("report.json", "report.md", "report.html")
_FIELDS = {"format", "checkpoint", "figures"}
_MAX_BYTES = 1 << 30


def refuse_foreign_report(folder: Path) -> None:
    """Raise :class:`WorkspaceError` where a report would take the place of files that no evaluation wrote."""
    found = [name for name in FILES if (folder / name).exists()]
    if not found:
        return
    try:
        report = json.loads(read_regular(folder / FILES[0], _MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        report = None
    if not isinstance(report, dict) or not report.keys() >= _FIELDS:
        raise WorkspaceError(
            f"{folder / found[0]} is there, and no evaluation wrote it: it would be lost; give another folder with "
            "--out"
        )


def write_evaluation(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Write ``report.json``, ``report.md`` and ``report.html`` (self-contained); return the paths.

    Each appears whole or not at all. Raises :class:`WorkspaceError` when one cannot be written.
    """
    from gennape.platform.evaluation.plots import plots  # noqa: PLC0415 (the libraries take a second)

    contents = {
        "report.json": as_json(evaluation),
        "report.md": as_markdown(evaluation),
        "report.html": as_html(evaluation, plots(evaluation)),
    }
    for name, content in contents.items():
        atomic_write_bytes(folder / name, content.encode())
    return [folder / name for name in contents]


def as_json(evaluation: Evaluation) -> str:
    """Every figure by benchmark, family, subset, setting, method and seed; their summary; both of learning curves, by
    number of labels too; the published figures."""
    seconds = [
        {"benchmark": rows.benchmark, "setting": setting, "method": method, "seconds": round(spent, 3)}
        for rows, outcome in evaluation.everything
        for (setting, method), spent in outcome.seconds.items()
    ]
    report = {
        "format": FORMAT,
        **evaluation.provenance,
        "labels": evaluation.plan.labels,
        "seeds": list(evaluation.plan.seeds),
        "data": list(evaluation.data),
        "absent": dict(evaluation.absent),
        "seconds": seconds,
        "figures": _by_seed(evaluation.everything),
        "summary": [*evaluation.summary.to_dict("records"), *summary_of(evaluation.latency).to_dict("records")],
        "curves": _by_seed(evaluation.curves),
        "curves_summary": summary_of(evaluation.curves).to_dict("records"),
        "published": [asdict(figure) for figure in PUBLISHED],
    }
    return json.dumps(_plain(report), indent=1, allow_nan=False) + "\n"


def _by_seed(measured: Sequence[tuple[BenchmarkRows, BenchmarkResult]]) -> list[dict[str, Any]]:
    return [
        {**{k: v for k, v in asdict(m).items() if k != "figures"}, **m.figures}
        for _, outcome in measured
        for m in outcome.measurements
    ]


def _plain(value: Any) -> Any:
    """What JSON can hold: numbers to 6 digits behind the point, None for those that are none."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def as_markdown(evaluation: Evaluation) -> str:
    """The tables."""
    parts = ["# Evaluation", *_introduction(evaluation)]
    for table in tables(evaluation):
        ruler = ["---" if i == 0 else "---:" for i in range(len(table.head))]
        lines = ["| " + " | ".join(cells) + " |" for cells in (table.head, ruler, *table.rows)]
        parts += [f"## {table.title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def as_html(evaluation: Evaluation, figures: Sequence[tuple[str, str]]) -> str:
    """The tables and ``figures`` (title, HTML) as one page."""
    parts = [f"<p>{html.escape(text)}</p>" for text in _introduction(evaluation)]
    parts += map(_html_table, overviews(evaluation))
    parts += [f"<h2>{html.escape(title)}</h2>{figure}" for title, figure in figures]
    parts += map(_html_table, details(evaluation))
    return _PAGE.format(body="\n".join(parts))


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    rows = ("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<h2>{html.escape(table.title)}</h2><div><table><tr>{head}</tr>{''.join(rows)}</table></div>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Evaluation</title><style>
body {{ font: 14px/1.5 system-ui, sans-serif; color: #243b53; max-width: 1280px; margin: 2em auto; padding: 0 1em }}
div:has(> table) {{ overflow-x: auto }}
table {{ border-collapse: collapse; margin-bottom: 2em }}
th, td {{ padding: .2em .6em; text-align: right; border-bottom: 1px solid #e4e7eb; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left; white-space: normal; min-width: 12em }}
</style></head><body><h1>Evaluation</h1>
{body}
</body></html>
"""


def _introduction(evaluation: Evaluation) -> list[str]:
    p, plan = evaluation.provenance, evaluation.plan
    seeds = ", ".join(map(str, plan.seeds))
    return [
        f"Checkpoint {p['checkpoint'][:12]}, gennape {p['version']}, commit {p['commit'] or 'unknown'}, "
        f"{p['seconds_total']:.0f} s.",
        f"Zero-shot is measured once, on all rows that count. Fine-tuned means fine-tuned on {plan.labels} labelled "
        f"rows, drawn anew for each of the seeds {seeds} and the same for all methods, and measured on all the other "
        "rows: mean ± standard deviation over seeds. In parentheses the figure that the papers report, on their sample "
        "of networks. MAE and regret (what is lost by measuring only the 1 or 10 predicted best) are in percent of "
        "accuracy; everything is over the rows of the table's line.",
        *([_ABOUT_ABLATIONS] if (evaluation.summary["method"] == SIX_MEMBERS).any() else []),
        *([_ABOUT_CURVES] if learning_curves(evaluation) else []),
        *([_ABOUT_UNCERTAINTY] if any(outcome.deviations for _, outcome in evaluation.everything) else []),
        *([_ABOUT_LATENCY] if evaluation.latency else []),
    ]


_ABOUT_ABLATIONS = (
    "six_members is the ensemble that the papers describe, on the same encoder as gennape; -pairwise, -FCM and -T "
    "leave out its classifiers of pairs, its members that know fuzzy clusters, and its regressions. The members "
    "stand alone too."
)

_ABOUT_CURVES = (
    "Learning curves are fine-tuned on other numbers of labelled rows by the same protocol and with the same seeds: a "
    "draw holds the smaller draws of its seed. The rows of a line are those left to test with the most labels."
)

_ABOUT_UNCERTAINTY = (
    "Uncertainty, of methods that tell it: how many percent of the rows lie in the central interval that should hold "
    "50 or 90 percent of them; the mean standard deviation; and the continuous ranked probability score (CRPS), which "
    "a method lowers by small errors and by knowing them, and which would be the MAE without deviations. Errors are "
    "taken for normal, those of latencies for log-normal."
)

_ABOUT_LATENCY = (
    "Latencies are by file and column. FLOPs and parameters learn from the same rows as the predictor, a power law "
    "each, by which a costlier network is never faster."
)
