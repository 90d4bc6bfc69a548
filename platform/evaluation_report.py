"""The report of an evaluation: every figure as JSON, tables as Markdown, tables and plots as one page."""

from __future__ import annotations

import html
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from gennape.platform.workspace import atomic_write_bytes
from gennape.predictors.protocol import ALL, FINE_TUNED, ZERO_SHOT, summarise
from gennape.predictors.published_results import PUBLISHED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from jaxtyping import Float64

    from gennape.predictors.protocol import BenchmarkRows, Outcome, Plan
    from gennape.predictors.published_results import PublishedFigure

#: Version of ``report.json``.
FORMAT = 2
#: Figures of the tables, with their titles; the others are in the JSON.
TITLES = {
    "srcc": "SRCC",
    "kendall_tau": "Kendall τ",
    "ndcg_10": "NDCG@10",
    "mae": "MAE %",
    "regret_1": "regret@1 %",
    "regret_10": "regret@10 %",
}
_LATENCY_TITLES = {"srcc": "rank correlation (SRCC)", "mape": "MAPE %", "mae": "MAE ms"}
_SHOWN_FIRST = ("gennape", "k_gnn", "flops", "params")
_NONE = "-"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that a report tells.

    ``measured``: rows of each benchmark and what was found; ``absent``: benchmarks and families without figures, and
    why; ``data``: what each file is (name, SHA-256, rows, left out); ``provenance``: what was evaluated with what;
    ``embeddings``: some networks of each family [g, d]; ``latency``: as ``measured``, for each column of latencies.
    """

    measured: Sequence[tuple[BenchmarkRows, Outcome]]
    absent: Mapping[str, str]
    data: Sequence[Mapping[str, Any]]
    plan: Plan
    provenance: Mapping[str, Any]
    embeddings: Mapping[str, Float64[np.ndarray, "g d"]]
    latency: Sequence[tuple[BenchmarkRows, Outcome]] = ()

    @property
    def everything(self) -> list[tuple[BenchmarkRows, Outcome]]:
        """What was found of accuracies, then of latencies."""
        return [*self.measured, *self.latency]

    @property
    def summary(self) -> pd.DataFrame:
        """Of accuracies, see :func:`gennape.predictors.protocol.summarise`."""
        return _summary(self.measured)


def _summary(measured: Sequence[tuple[BenchmarkRows, Outcome]]) -> pd.DataFrame:
    return summarise([m for _, outcome in measured for m in outcome.measurements])


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_evaluation(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Write ``report.json``, ``report.md`` and ``report.html`` (self-contained); return the paths.

    Each appears whole or not at all. Raises :class:`WorkspaceError` when one cannot be written.
    """
    from gennape.platform.evaluation_plots import plots  # noqa: PLC0415 (the libraries take a second)

    contents = {
        "report.json": as_json(evaluation),
        "report.md": as_markdown(evaluation),
        "report.html": as_html(evaluation, plots(evaluation)),
    }
    for name, content in contents.items():
        atomic_write_bytes(folder / name, content.encode())
    return [folder / name for name in contents]


def as_json(evaluation: Evaluation) -> str:
    """Every figure by benchmark, family, subset, setting, method and seed; their summary; the published figures."""
    seconds = [
        {"benchmark": rows.benchmark, "setting": setting, "method": method, "seconds": round(spent, 3)}
        for rows, outcome in evaluation.everything
        for (setting, method), spent in outcome.seconds.items()
    ]
    figures = [
        {**{k: v for k, v in asdict(m).items() if k != "figures"}, **m.figures}
        for _, outcome in evaluation.everything
        for m in outcome.measurements
    ]
    report = {
        "format": FORMAT,
        **evaluation.provenance,
        "labels": evaluation.plan.labels,
        "seeds": list(evaluation.plan.seeds),
        "data": list(evaluation.data),
        "absent": dict(evaluation.absent),
        "seconds": seconds,
        "figures": figures,
        "summary": [*evaluation.summary.to_dict("records"), *_summary(evaluation.latency).to_dict("records")],
        "published": [asdict(figure) for figure in PUBLISHED],
    }
    return json.dumps(_plain(report), indent=1, allow_nan=False) + "\n"


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
    summary, *details = (_html_table(table) for table in tables(evaluation))
    parts += [summary, *(f"<h2>{html.escape(title)}</h2>{figure}" for title, figure in figures), *details]
    return _PAGE.format(body="\n".join(parts))


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    rows = ("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<h2>{html.escape(table.title)}</h2><table><tr>{head}</tr>{''.join(rows)}</table>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Evaluation</title><style>
body {{ font: 14px/1.5 system-ui, sans-serif; color: #243b53; max-width: 1100px; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse; margin-bottom: 2em }}
th, td {{ padding: .2em .8em; text-align: right; border-bottom: 1px solid #e4e7eb }}
th:first-child, td:first-child {{ text-align: left }}
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
        *([_ABOUT_LATENCY] if evaluation.latency else []),
    ]


_ABOUT_LATENCY = (
    "Latencies are by file and column. FLOPs and parameters learn from the same rows as the predictor, a power law "
    "each, by which a costlier network is never faster."
)


# Tables ---------------------------------------------------------------------------------------------------------------


def tables(evaluation: Evaluation) -> list[Table]:
    """First the rank correlations, zero-shot and fine-tuned; then each benchmark in full, latencies, and the files."""
    summary = evaluation.summary
    overview = [
        _overview(evaluation, summary[summary["setting"] == setting], setting, labels)
        for setting, labels in ((ZERO_SHOT, 0), (FINE_TUNED, evaluation.plan.labels))
        if setting == ZERO_SHOT or (summary["setting"] == FINE_TUNED).any()
    ]
    details = [_detail(part) for _, part in summary.groupby(["benchmark", "setting"], sort=False)]
    return [*overview, *details, *_latency(evaluation), _files(evaluation)]


def setting_title(setting: str, labels: int) -> str:
    """As people say it."""
    return f"{setting} on {labels} labels" if setting == FINE_TUNED else setting


def _overview(evaluation: Evaluation, summary: pd.DataFrame, setting: str, labels: int) -> Table:
    overall = summary[summary["subset"] == ALL]
    rows = [
        _overview_row(str(benchmark), str(family), part, setting, labels)
        for (benchmark, family), part in overall.groupby(["benchmark", "family"], sort=False)
    ]
    missing = [name for name in (r.benchmark for r, _ in evaluation.measured) if name not in set(overall["benchmark"])]
    whys = dict.fromkeys(missing, "not fine-tuned on: its labels were learnt already, or its rows are too few") | dict(
        evaluation.absent
    )
    for name, why in whys.items():
        known = [_cell(None, published_figure(name, setting, labels, m, "srcc")) for m in _SHOWN_FIRST]
        rows.append([f"{name}: {why}", _NONE, _NONE, *known, _NONE])
    head = ("", "rows", "seeds", *_SHOWN_FIRST, "best proxy")
    return Table(f"Rank correlation (SRCC), {setting_title(setting, labels)}", head, rows)


def _overview_row(benchmark: str, family: str, part: pd.DataFrame, setting: str, labels: int) -> list[str]:
    by_method = {str(row["method"]): row for row in part.to_dict("records")}
    cells = [
        _cell(by_method.get(m), published_figure(family, setting, labels, m, "srcc"), "srcc") for m in _SHOWN_FIRST
    ]
    proxy = _best_proxy([row for name, row in by_method.items() if name not in _SHOWN_FIRST], int(part["rows"].max()))
    return [benchmark, f"{part['rows'].max():,}", str(part["seeds"].max()), *cells, proxy]


def _best_proxy(proxies: Sequence[Mapping[Any, Any]], rows: int) -> str:
    """The best of those that are known of the most rows, and of how many where that is not all."""
    most = max((proxy["rows"] for proxy in proxies), default=0)
    best = max((proxy for proxy in proxies if proxy["rows"] == most), key=lambda proxy: proxy["srcc"], default=None)
    if best is None:
        return _NONE
    known = published_figure(best["family"], best["setting"], best["labels"], best["method"], "srcc")
    return f"{best['method']} {_cell(best, known, 'srcc')}" + (f" on {most:,} rows" if most < rows else "")


def _detail(part: pd.DataFrame) -> Table:
    subsets = list(part["subset"].unique())
    records = sorted(part.to_dict("records"), key=lambda record: subsets.index(record["subset"]))
    first = records[0]
    figures = [name for name in TITLES if name in part]
    rows = []
    for record in records:
        of = (first["family"], first["setting"], first["labels"], record["method"])
        known = {f: published_figure(*of, f) if record["subset"] == ALL else None for f in figures}
        cells = [_cell(record, known[name], name) for name in figures]
        rows.append([f"{record['subset']}: {record['method']}", f"{record['rows']:,}", str(record["seeds"]), *cells])
    measured = {record["method"] for record in records}
    rows += list(_published_rows(first, measured, figures))
    head = ("", "rows", "seeds", *(TITLES[name] for name in figures))
    return Table(f"{first['benchmark']}, {setting_title(first['setting'], first['labels'])}", head, rows)


def _published_rows(first: Mapping[Any, Any], measured: set[str], figures: Sequence[str]) -> Iterator[list[str]]:
    """Lines of methods that the papers report and that were not measured here."""
    others = [p for p in PUBLISHED if p.family == first["family"] and p.setting == first["setting"]]
    lines = dict.fromkeys((p.method, p.labels) for p in others if p.method not in measured)
    for method, labels in lines:
        known = [published_figure(first["family"], first["setting"], labels, method, name) for name in figures]
        suffix = f", {labels} labels" if labels != first["labels"] else ""
        yield [f"published: {method}{suffix}", _NONE, _NONE, *(_cell(None, value) for value in known)]


def published_figure(family: str, setting: str, labels: int, method: str, figure: str) -> PublishedFigure | None:
    """The published figure of just this, if there is one."""
    wanted = (family, setting, labels, method, figure)
    return next((p for p in PUBLISHED if (p.family, p.setting, p.labels, p.method, p.figure) == wanted), None)


def _cell(record: Mapping[Any, Any] | None, published: PublishedFigure | None, figure: str = "") -> str:
    """``mean ± sd (published)``, each part where there is one."""
    mean, deviation = (record or {}).get(figure, math.nan), (record or {}).get(f"{figure}_sd", math.nan)
    text = f"{mean:.3f}" if math.isfinite(mean) else _NONE
    text += f" ± {deviation:.3f}" if math.isfinite(deviation) else ""
    return text if published is None else f"{text} ({published.value:.3f})"


def _latency(evaluation: Evaluation) -> list[Table]:
    """For each figure a line for every device; none where no latencies are known."""
    summary = _summary(evaluation.latency)
    methods = list(summary["method"].unique())
    by = {(record["benchmark"], record["method"]): record for record in summary.to_dict("records")}
    setting, out = setting_title(FINE_TUNED, evaluation.plan.labels), []
    for figure, title in _LATENCY_TITLES.items() if evaluation.latency else ():
        lines = []
        for name in (rows.benchmark for rows, _ in evaluation.latency):
            records = [by[name, method] for method in methods if (name, method) in by]
            cells = [_cell(by.get((name, method)), None, figure) for method in methods]
            counts = [f"{records[0]['rows']:,}", str(records[0]["seeds"])] if records else [_NONE, _NONE]
            lines.append([name.removeprefix("latency:") + ("" if records else ": too few rows"), *counts, *cells])
        out.append(Table(f"Latency: {title}, {setting}", ("", "rows", "seeds", *methods), lines))
    return out


def _files(evaluation: Evaluation) -> Table:
    rows = [
        [
            entry["file"], f"{entry['rows']:,}",
            "; ".join(f"{n:,} {why}" for why, n in entry["left_out"].items()) or _NONE, entry["sha256"][:12],
        ]
        for entry in evaluation.data
    ]  # fmt: skip
    return Table("Files", ("", "rows that count", "rows that do not", "SHA-256"), rows)
