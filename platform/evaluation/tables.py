"""The tables of an evaluation: what was measured, with rows, seeds and spread, beside what the papers report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gennape.platform.evaluation.results import PREDICTOR, summary_of
from gennape.predictors.evaluation.methods import ENSEMBLE_METHODS, SIX_MEMBERS
from gennape.predictors.evaluation.protocol import ALL, FINE_TUNED, ZERO_SHOT
from gennape.predictors.evaluation.published_results import PUBLISHED
from gennape.predictors.metrics import LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd

    from gennape.platform.evaluation.results import Evaluation
    from gennape.predictors.evaluation.published_results import PublishedFigure

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
_SHOWN_FIRST = (PREDICTOR, "k_gnn", "flops", "params")
_NONE = "-"


#: Tables of one figure of everything: title, and the methods that have a column.
_OVERVIEWS = {
    "srcc": ("Rank correlation (SRCC)", _SHOWN_FIRST),
    "ndcg_10": ("NDCG@10", _SHOWN_FIRST),
    "mae": ("Mean absolute error (MAE %)", ("gennape", "cl_fcm_t", "cl_t", "cl", "k_gnn")),
}
_BEST_PROXY = "best proxy"
#: What the papers call methods that have another name here: the predictor is none of theirs, but stands beside them.
_PUBLISHED_AS = {SIX_MEMBERS: "gennape"}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def tables(evaluation: Evaluation) -> list[Table]:
    """First one figure of everything, then each benchmark in full, uncertainties, latencies, what else the papers
    report, and the files."""
    return [*overviews(evaluation), *details(evaluation)]


def overviews(evaluation: Evaluation) -> list[Table]:
    """Rank correlations zero-shot and fine-tuned, those of further methods where there are any, NDCG, errors,
    ablations of the papers' ensemble where it was measured, and learning curves where they were asked for."""
    summary, out = evaluation.summary, []
    ablations = list(_ablations(evaluation))
    elsewhere = {*_SHOWN_FIRST, *_proxies(evaluation), *(ENSEMBLE_METHODS if ablations else ())}
    further = [m for m in summary["method"].unique() if m not in elsewhere]
    asked = [(figure, *of) for figure, of in _OVERVIEWS.items()]
    if further:
        asked.insert(1, ("srcc", "Rank correlation (SRCC) of further methods", ("gennape", *further)))
    for figure, title, methods in asked:
        for setting, labels in ((ZERO_SHOT, 0), (FINE_TUNED, evaluation.plan.labels)):
            part = summary[(summary["setting"] == setting) & (summary["subset"] == ALL)]
            if setting == ZERO_SHOT or len(part):
                named = f"{title}, {setting_title(setting, labels)}"
                columns = (*methods, _BEST_PROXY) if figure == "srcc" and methods == _SHOWN_FIRST else methods
                out.append(_overview(evaluation, part, named, columns, (setting, labels, figure)))
    return [*out, *ablations, *_curves(evaluation)]


def _ablations(evaluation: Evaluation) -> Iterator[Table]:
    """For each setting a line for the papers' ensemble, each part of it and the predictor, a column a benchmark."""
    summary = evaluation.summary
    for setting, labels in ((ZERO_SHOT, 0), (FINE_TUNED, evaluation.plan.labels)):
        part = summary[(summary["setting"] == setting) & (summary["subset"] == ALL)]
        records = {(str(r["benchmark"]), str(r["method"])): r for r in part.to_dict("records")}
        asked = [benchmark for benchmark, method in records if method == SIX_MEMBERS]
        if not asked:
            continue
        lines = []
        for method in (m for m in (*ENSEMBLE_METHODS, PREDICTOR) if any((b, m) in records for b in asked)):
            found = [(records.get((b, method)), records[b, SIX_MEMBERS]["family"]) for b in asked]
            cells = [_cell(r, published_figure(f, setting, labels, method, "srcc"), "srcc") for r, f in found]
            lines.append([method, *cells])
        counts = [[key, *(f"{records[b, SIX_MEMBERS][key]:,}" for b in asked)] for key in ("rows", "seeds")]
        yield Table(
            f"Ablations: rank correlation (SRCC), {setting_title(setting, labels)}", ("", *asked), lines + counts
        )


def learning_curves(evaluation: Evaluation) -> dict[str, dict[int, Mapping[Any, Any]]]:
    """The predictor's summary on all rows by benchmark, then by number of labels, ascending; that of 0 is zero-shot."""
    curves: dict[str, dict[int, Mapping[Any, Any]]] = {rows.benchmark: {} for rows, _ in evaluation.curves}
    for setting, summary in ((ZERO_SHOT, evaluation.summary), (FINE_TUNED, summary_of(evaluation.curves))):
        for record in summary.to_dict("records"):
            same = (record["subset"], record["setting"], record["method"]) == (ALL, setting, PREDICTOR)
            if same and record["benchmark"] in curves:
                curves[record["benchmark"]][record["labels"]] = record
    return {name: dict(sorted(points.items())) for name, points in curves.items() if any(points)}


def _curves(evaluation: Evaluation) -> list[Table]:
    """A line for each benchmark, a column for each number of labels; none where no curve was measured."""
    curves, rows = learning_curves(evaluation), []
    numbers = sorted({labels for points in curves.values() for labels in points})
    for name, points in curves.items():
        known = {n: (ZERO_SHOT if n == 0 else FINE_TUNED, n, PREDICTOR, "srcc") for n in numbers}
        family = next(iter(points.values()))["family"]
        cells = [_cell(points.get(n), published_figure(family, *of), "srcc") for n, of in known.items()]
        fewest, seeds = min(p["rows"] for p in points.values()), max(p["seeds"] for p in points.values())
        rows.append([name, f"{fewest:,}", str(seeds), *cells])
    title = f"Learning curves: rank correlation (SRCC) of {PREDICTOR} by number of labels"
    return [Table(title, ("", "rows", "seeds", *map(str, numbers)), rows)] if rows else []


def details(evaluation: Evaluation) -> list[Table]:
    """Every table but those of :func:`overviews`."""
    summary = evaluation.summary
    in_full = [_detail(part) for _, part in summary.groupby(["benchmark", "setting"], sort=False)]
    return [
        *in_full,
        *_uncertainty(summary, "Uncertainty", "%"),
        *_latency(evaluation),
        *_uncertainty(summary_of(evaluation.latency), "Latency: uncertainty", "ms"),
        *_published_elsewhere(summary),
        _files(evaluation),
    ]


def _proxies(evaluation: Evaluation) -> set[str]:
    return {name for rows, _ in evaluation.measured for name in rows.columns}


def setting_title(setting: str, labels: int) -> str:
    """As people say it."""
    return f"{setting} on {labels} labels" if setting == FINE_TUNED else setting


_Asked = tuple[str, int, str]  # setting, labels, figure


def _overview(evaluation: Evaluation, part: pd.DataFrame, title: str, columns: Sequence[str], asked: _Asked) -> Table:
    proxies = _proxies(evaluation) if _BEST_PROXY in columns else set()
    by_benchmark = {str(name): rows.to_dict("records") for name, rows in part.groupby("benchmark", sort=False)}
    rows = [
        _overview_row(name, records, [c for c in columns if c != _BEST_PROXY], asked)
        + ([_best_proxy(records, proxies)] if _BEST_PROXY in columns else [])
        for name, records in by_benchmark.items()
    ]
    missing = [name for name in (r.benchmark for r, _ in evaluation.measured) if name not in by_benchmark]
    whys = dict.fromkeys(missing, "not fine-tuned on: its labels were learnt already, or its rows are too few") | dict(
        evaluation.absent
    )
    for name, why in whys.items():
        known = [_cell(None, published_figure(name, *asked[:2], m, asked[2])) for m in columns]
        rows.append([f"{name}: {why}", _NONE, _NONE, *known])
    return Table(title, ("", "rows", "seeds", *columns), rows)


def _overview_row(name: str, records: Sequence[Mapping[Any, Any]], methods: Sequence[str], asked: _Asked) -> list[str]:
    by_method, (setting, labels, figure) = {str(record["method"]): record for record in records}, asked
    family = records[0]["family"]
    cells = [_cell(by_method.get(m), published_figure(family, setting, labels, m, figure), figure) for m in methods]
    rows, seeds = (max(record[key] for record in records) for key in ("rows", "seeds"))
    return [name, f"{rows:,}", str(seeds), *cells]


def _best_proxy(records: Sequence[Mapping[Any, Any]], names: set[str]) -> str:
    """The best of those that are known of the most rows, and of how many where that is not all."""
    rows = max(record["rows"] for record in records)
    proxies = [record for record in records if record["method"] in names]
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
    """Lines of methods that the papers report and that were not measured here, or not with so many labels."""
    others = [p for p in PUBLISHED if p.family == first["family"] and p.setting == first["setting"]]
    lines = dict.fromkeys(
        (p.method, p.labels) for p in others if p.method not in measured or p.labels != first["labels"]
    )
    for method, labels in lines:
        known = [published_figure(first["family"], first["setting"], labels, method, name) for name in figures]
        suffix = f", {labels} labels" if labels != first["labels"] else ""
        yield [f"published: {method}{suffix}", _NONE, _NONE, *(_cell(None, value) for value in known)]


def published_figure(family: str, setting: str, labels: int, method: str, figure: str) -> PublishedFigure | None:
    """The published figure of just this, if there is one; beside the papers' ensemble that of GENNAPE."""
    wanted = (family, setting, labels, _PUBLISHED_AS.get(method, method), figure)
    return next((p for p in PUBLISHED if (p.family, p.setting, p.labels, p.method, p.figure) == wanted), None)


def _cell(record: Mapping[Any, Any] | None, published: PublishedFigure | None, figure: str = "") -> str:
    """``mean ± sd (published)``, each part where there is one."""
    mean, deviation = (record or {}).get(figure, math.nan), (record or {}).get(f"{figure}_sd", math.nan)
    text = f"{mean:.3f}" if math.isfinite(mean) else _NONE
    text += f" ± {deviation:.3f}" if math.isfinite(deviation) else ""
    return text if published is None else f"{text} ({published.value:.3f})"


def _uncertainty(summary: pd.DataFrame, title: str, unit: str) -> list[Table]:
    """For each setting a line for every benchmark and method with deviations; none where there are none."""
    if "crps" not in summary:
        return []
    heads = {f"coverage_{level:g}": f"% in {level:g} % interval" for level in LEVELS}
    heads |= {"deviation": f"deviation {unit}", "crps": f"CRPS {unit}", "mae": f"MAE {unit}"}
    told = summary[(summary["subset"] == ALL) & summary["crps"].notna()]
    out = []
    for (setting, labels), part in told.groupby(["setting", "labels"], sort=False):
        rows = [
            [
                f"{record['benchmark'].removeprefix('latency:')}: {record['method']}",
                *(f"{record['rows']:,}", str(record["seeds"])),
                *(_cell(record, None, figure) for figure in heads),
            ]
            for record in part.to_dict("records")
        ]
        named = f"{title}, {setting_title(str(setting), int(str(labels)))}"
        out.append(Table(named, ("", "rows", "seeds", *heads.values()), rows))
    return out


def _latency(evaluation: Evaluation) -> list[Table]:
    """For each figure a line for every device; none where no latencies are known."""
    summary = summary_of(evaluation.latency)
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


def _published_elsewhere(summary: pd.DataFrame) -> list[Table]:
    """What the papers report of families and settings that nothing was measured of."""
    measured = set(zip(summary["family"], summary["setting"], strict=True))
    others = [p for p in PUBLISHED if (p.family, p.setting) not in measured]
    figures = [name for name in TITLES if any(p.figure == name for p in others)]
    rows = []
    lines = dict.fromkeys((p.family, p.setting, p.labels, p.method) for p in others)
    for family, setting, labels, method in sorted(lines, key=lambda line: (line[0], line[2])):
        known = [_cell(None, published_figure(family, setting, labels, method, name)) for name in figures]
        rows.append([f"{family}, {setting_title(setting, labels)}: {method}", *known])
    head = ("", *(TITLES[name] for name in figures))
    return [Table("Published, of what was not measured here", head, rows)] if rows else []


def _files(evaluation: Evaluation) -> Table:
    rows = [
        [
            entry["file"], f"{entry['rows']:,}",
            "; ".join(f"{n:,} {why}" for why, n in entry["left_out"].items()) or _NONE, entry["sha256"][:12],
        ]
        for entry in evaluation.data
    ]  # fmt: skip
    return Table("Files", ("", "rows that count", "rows that do not", "SHA-256"), rows)
