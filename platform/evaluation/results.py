"""All that the report of an evaluation tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gennape.predictors.evaluation.protocol import ALL, summarise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import pandas as pd
    from jaxtyping import Float64

    from gennape.predictors.evaluation.protocol import BenchmarkResult, BenchmarkRows, Plan


#: The method that an evaluation is of.
PREDICTOR = "gennape"


@dataclass(frozen=True, slots=True, repr=False)
class Evaluation:
    """All figures of an evaluation, as :func:`gennape.evaluate` gives them and a report tells them.

    Args:
        measured: The rows of each benchmark, and what was found.
        absent: Benchmarks and families without figures, and why.
        data: What each file is: name, SHA-256, rows, rows left out.
        plan: How many labels, and which seeds.
        provenance: What was evaluated with what.
        embeddings: Some networks of each family, [g, d].
        latency: As ``measured``, for each column of latencies.
        curves: As ``measured``, of the predictor alone, for each number of labels of a learning curve.

    Example:
        >>> import gennape as gp
        >>> from gennape.predictors.evaluation.protocol import Plan
        >>> empty = gp.Evaluation([], {"nb201": "no file"}, [], Plan(50, (0,)), {}, {})
        >>> len(empty.summary)
        0
    """

    measured: Sequence[tuple[BenchmarkRows, BenchmarkResult]]
    absent: Mapping[str, str]
    data: Sequence[Mapping[str, Any]]
    plan: Plan
    provenance: Mapping[str, Any]
    embeddings: Mapping[str, Float64[np.ndarray, "g d"]]
    latency: Sequence[tuple[BenchmarkRows, BenchmarkResult]] = ()
    curves: Sequence[tuple[BenchmarkRows, BenchmarkResult]] = ()

    def __repr__(self) -> str:
        """What was measured, and the rank correlations of the predictor."""
        frame = self.summary
        shown = frame[(frame["method"] == PREDICTOR) & (frame["subset"] == ALL)].to_dict("records")
        said = [f"{row['benchmark']} {row['setting']} {row['srcc']:.3f}" for row in shown]
        return f"Evaluation(Spearman's rank correlation of {PREDICTOR}: {', '.join(said)})"

    def _repr_html_(self) -> str:
        """Rank correlations as a table, for notebooks."""
        frame = self.summary
        table = frame[frame["subset"] == ALL].pivot_table("srcc", ["benchmark", "setting"], "method", sort=False)
        return f"<b>Spearman's rank correlation</b>{table.to_html(float_format='{:.3f}'.format, na_rep='-')}"

    @property
    def everything(self) -> list[tuple[BenchmarkRows, BenchmarkResult]]:
        """What was found of accuracies, then of latencies."""
        return [*self.measured, *self.latency]

    @property
    def summary(self) -> pd.DataFrame:
        """Of accuracies, see :func:`gennape.predictors.evaluation.protocol.summarise`."""
        return summary_of(self.measured)


def summary_of(measured: Sequence[tuple[BenchmarkRows, BenchmarkResult]]) -> pd.DataFrame:
    """See :func:`gennape.predictors.evaluation.protocol.summarise`."""
    return summarise([m for _, outcome in measured for m in outcome.measurements])
