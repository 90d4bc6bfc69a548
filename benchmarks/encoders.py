"""Which encoder: ``python benchmarks/encoders.py --data DIR --results FILE``.

Kinds of graph networks, what can be added to the shipped one, and its sizes, on reduced and equal budgets. DIR holds
the labelled files that ``gennape evaluate`` reads. Features, residual layers with their norms, pooling and readout are
the same for all. Each encoder is pretrained by contrast on the nine families, then

- fitted on NAS-Bench-101 with one head, and measured on rows of the validation part of its split (``nb101``),
- or left as it is: a Gaussian process learns each other family from 50 labels and from what the encoder pools, alone.
  Rows are of the training and validation parts, never of the test part. ``all known`` is the mean of these families
  with sizes and path features beside, as in the product.

Figures are Spearman's rank correlations: of the first row as they are, ± deviation; of others the differences to it on
the same networks, batches and labels, ± standard error over seeds and draws. The draws of a seed share one training of
the encoder, so that this error says nothing of another training; the row ``again`` does, the shipped encoder once more
with other random numbers.

FILE gets a line of JSON for each variant and seed as it is done; a further run goes on behind the last. ``graphs/s``
are views in a second of the thread's own time in pretraining, the median over steps, making batches left out.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encoder_data import SOURCE, TARGETS, Budget, LabelledGraphs, Material, Vector, read
from encoder_variants import AGAIN, SHIPPED, UNTRAINED, VARIANTS, VariantEncoder
from jaxtyping import Float64, Int64
from torch.nn import functional

from gennape.predictors.encoder.contrastive import ProjectionHead, Views, contrastive_loss
from gennape.predictors.encoder.features import GraphBatch, batches_of_nodes, featurize
from gennape.predictors.encoder.optimisation import adam, optimiser_step
from gennape.predictors.encoder.settings import GENNAPE
from gennape.predictors.ensemble.heads import ClusterHeads
from gennape.predictors.ensemble.settings import MembersConfig
from gennape.predictors.evaluation.protocol import BenchmarkRows, draw_labelled
from gennape.predictors.few_shot.gaussian_process import GPInputs, fit_process
from gennape.predictors.few_shot.structure import SIZES
from gennape.predictors.metrics import srcc
from gennape.predictors.target import FlopsTarget, fit_target, flops_scale
from gennape.search_spaces.graphs.cost import flops
from gennape.search_spaces.graphs.graph import PackedGraphs

LABELS = 50
RATE, DECAY = 1e-3, 1e-4
_NODES_AT_ONCE = 2**14

Result = dict[str, Any]


def pretrain(encoder: VariantEncoder, batches: Sequence[tuple[GraphBatch, Views]]) -> float:
    """Contrastive pretraining as the product does it; the median of views in a second of the thread's time."""
    head = ProjectionHead(encoder.config.embedding)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer, schedule = adam(parameters, RATE, DECAY, len(batches))
    encoder.train()
    rates = []
    for batch, views in batches:
        start = time.thread_time()
        loss = contrastive_loss(head(encoder(batch)), views, GENNAPE)
        optimiser_step(loss, parameters, optimizer, schedule)
        rates.append(len(views.graph) / (time.thread_time() - start))
    encoder.eval()
    return float(np.median(rates))


def fit(
    encoder: VariantEncoder, known: LabelledGraphs, budget: Budget, rng: np.random.Generator
) -> tuple[ClusterHeads, FlopsTarget]:
    """The encoder and one head, on the absolute error in accuracy, rounded off below half a percent."""
    encoder.dropout = 0.0  # it made views; here it would only blur the target
    count = flops(known.graphs)
    target = fit_target(known.accuracy, count)
    columns = target.transform(known.accuracy, count), target.unit(count)
    head = ClusterHeads(1, encoder.config.embedding, MembersConfig().regression_hidden)
    head.start(1 / flops_scale(count), *columns)
    wanted, unit = (torch.from_numpy(column).float() for column in columns)
    batches = max(1, len(known.accuracy) // budget.batch)
    parts = np.array_split(rng.permutation(len(known.accuracy)), batches)
    made = [(torch.from_numpy(rows), featurize(known.graphs.take(rows))) for rows in parts]
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer, schedule = adam(parameters, RATE, DECAY, budget.fitting_epochs * batches)
    encoder.train()
    for _ in range(budget.fitting_epochs):
        for i in rng.permutation(batches):
            rows, batch = made[i]
            error = (_headed(encoder, head, batch) - wanted[rows]) * unit[rows]
            loss = functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.5)
            optimiser_step(loss, parameters, optimizer, schedule)
    encoder.eval()
    return head, target


def _headed(encoder: VariantEncoder, head: ClusterHeads, batch: GraphBatch) -> torch.Tensor:
    embedding = encoder(batch)
    return head(embedding, torch.ones_like(embedding[:, :1]), batch.cost)


def _parts(graphs: PackedGraphs) -> Iterator[GraphBatch]:
    for rows in batches_of_nodes(graphs, _NODES_AT_ONCE):
        yield featurize(graphs.take(rows))


@torch.inference_mode()
def _ranked(encoder: VariantEncoder, head: ClusterHeads, target: FlopsTarget, measured: LabelledGraphs) -> float:
    predictions = np.concatenate([_headed(encoder, head, batch).numpy() for batch in _parts(measured.graphs)])
    return srcc(measured.accuracy, target.invert(predictions.astype(np.float64), flops(measured.graphs)))


@torch.inference_mode()
def _described(encoder: VariantEncoder, graphs: PackedGraphs) -> tuple[Float64[np.ndarray, "g p"], ...]:
    """What a Gaussian process reads of an encoder: means and maxima, sums and counts."""
    batches = [(encoder.pool(batch), batch.offsets.diff()[:, None]) for batch in _parts(graphs)]
    pooled, counts = (np.concatenate(column).astype(np.float64) for column in zip(*batches, strict=True))
    return pooled, np.concatenate([pooled[:, : pooled.shape[1] // 2] * counts, counts], axis=1)


def few_labels(encoder: VariantEncoder, material: Material, seed: int, draws: int) -> dict[str, dict[str, list[float]]]:
    """SRCC of each other family, draw by draw, by what the encoder says alone and beside what else is known."""
    found: dict[str, dict[str, list[float]]] = {"alone": {}, "beside": {}}
    for name, (rows, shape) in material.targets.items():
        pooled, totals = _described(encoder, rows.graphs)
        prior = np.zeros(len(pooled))
        settings = {
            "alone": GPInputs(prior, prior[:, None], prior[:, None], pooled, totals),
            "beside": GPInputs(prior, shape[:, : len(SIZES)], shape[:, len(SIZES) :], pooled, totals),
        }
        for what, inputs in settings.items():
            drawn = [draw_labelled(rows.identity, seed * draws + draw, LABELS) for draw in range(draws)]
            found[what][name] = [_asked(inputs, rows, labelled) for labelled in drawn]
    return found


def _asked(inputs: GPInputs, rows: BenchmarkRows, labelled: Int64[np.ndarray, " k"]) -> float:
    labels = -np.log(np.maximum(100 - rows.accuracy, 0.01))
    process = fit_process(GPInputs(*(column[labelled] for column in inputs)), labels[labelled])
    others = np.setdiff1d(np.arange(len(labels)), labelled)
    return srcc(rows.accuracy[others], process.predict(inputs)[0][others])


def measure(name: str, material: Material, budget: Budget, seed: int) -> Result:
    """One variant with one seed."""
    start = time.perf_counter()
    torch.manual_seed(seed + 1000 * (name == AGAIN))
    encoder = VariantEncoder(VARIANTS[name])
    encoder.eval()
    rate = None if name == UNTRAINED else pretrain(encoder, material.pretraining)
    found = few_labels(encoder, material, seed, budget.draws)
    fitted = copy.deepcopy(encoder)
    fitting = fit(fitted, material.training, budget, np.random.default_rng([seed, 2]))
    return {
        "variant": name, "seed": seed, "budget": asdict(budget), "seconds": time.perf_counter() - start,
        "parameters": sum(p.numel() for p in encoder.parameters()), "rate": rate,
        SOURCE: _ranked(fitted, *fitting, material.measured), **found,
    }  # fmt: skip


def kept(path: Path, budget: Budget) -> list[Result]:
    """What was measured before with this budget."""
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [result for result in results if result["budget"] == asdict(budget)]


def missing(folder: Path, path: Path, budget: Budget, seed: int) -> Iterator[Result]:
    """The variants that FILE does not hold yet, one after another."""
    done = {result["variant"] for result in kept(path, budget) if result["seed"] == seed}
    material = read(folder, budget, seed) if set(VARIANTS) - done else None
    for name in VARIANTS:
        if material is not None and name not in done:
            yield measure(name, material, budget, seed)


def table(results: list[Result]) -> str:
    """Markdown; differences to the shipped encoder with the same seeds and draws."""
    columns = ["parameters", "graphs/s", SOURCE, *TARGETS, "all known", "seeds"]
    lines = ["| " + " | ".join(["encoder", *columns]) + " |", "|---" + "|---:" * len(columns) + "|"]
    shipped = {result["seed"]: result for result in results if result["variant"] == SHIPPED}
    for name in VARIANTS:
        mine = [result for result in results if result["variant"] == name and result["seed"] in shipped]
        if mine:
            theirs = [] if name == SHIPPED else [shipped[result["seed"]] for result in mine]
            rates = [result["rate"] for result in mine if result["rate"] is not None]
            cells = [f"{mine[0]['parameters']:,}", f"{np.mean(rates):,.0f}" if rates else ""]
            cells += [_cell(mine, theirs, part) for part in (SOURCE, *TARGETS, None)]
            lines.append("| " + " | ".join([name, *cells, str(len(mine))]) + " |")
    return "\n".join(lines)


def _figures(results: list[Result], column: str | None) -> Vector:
    """Over seeds, and draws where there are any; the mean of the families for None."""
    if column == SOURCE:
        return np.array([result[SOURCE] for result in results])
    if column is None:
        return np.concatenate([np.mean([result["beside"][name] for name in TARGETS], axis=0) for result in results])
    return np.concatenate([result["alone"][column] for result in results])


def _cell(mine: list[Result], theirs: list[Result], column: str | None) -> str:
    values = _figures(mine, column) - (_figures(theirs, column) if theirs else 0)
    shown = f"{values.mean():+.3f}" if theirs else f"{values.mean():.3f}"
    error = values.std(ddof=1) / (len(values) ** 0.5 if theirs else 1) if len(values) > 1 else None
    return shown if error is None else f"{shown} ± {error:.3f}"


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled files")
    parser.add_argument("--results", type=Path, required=True, help="file of JSON lines to go on with")
    parser.add_argument("--seeds", type=int, default=2, help="of training (default 2)")
    for each in fields(Budget):
        name = each.name.replace("_", "-")
        parser.add_argument(f"--{name}", type=int, default=each.default, help=f"of the budget (default {each.default})")
    a = parser.parse_args()
    torch.set_num_threads(1)
    budget = Budget(*(getattr(a, each.name) for each in fields(Budget)))
    for seed in range(a.seeds):
        for result in missing(a.data, a.results, budget, seed):
            with a.results.open("a") as file:
                file.write(json.dumps(result) + "\n")
            sys.stderr.write(f"{result['seconds']:6.0f} s  seed {seed}: {result['variant']}\n")
    sys.stdout.write(table(kept(a.results, budget)) + "\n")


if __name__ == "__main__":
    main()
