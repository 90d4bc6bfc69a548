"""What each part of the predictor adds, on reduced and equal budgets: ``python benchmarks/ablations.py --data DIR``.

DIR holds the labelled files that ``gennape evaluate`` reads. Variants are pretrained, fitted on NAS-Bench-101 and
fine-tuned on some labels of each other family as the product is, but on a small part of its networks and epochs:
figures are for comparing variants of one table, not for what the shipped checkpoint reaches.

All figures are Spearman's rank correlations (SRCC). ``nb101`` are rows of the validation part of the split, the test
part is never read: by the predictor, by the members ``cl_fcm_t`` and ``cl_t`` alone, and by all six weighted alike. The
other families: the first rows in the order of their identities, mean over draws of the labels to fine-tune on.

The first row of a table is in absolute figures with their deviations over seeds and draws. The rows below are
differences to it, with the same networks, the same random numbers as far as possible and the same labels, and behind
them the standard error of that mean, over seeds, or in the table of fine-tuning over all draws. A difference below two
of these is no more than chance; of three seeds, one above may be, too. ``C = 6 again`` fits the same clusters once more
with other random numbers, and shows by how much.

An encoder of a larger budget can be compared with these (``--encoder``); what it is fitted on stays the same.

Without the target relative to FLOPs (-T) the networks' accuracies are standardised as they are. Heads read a network's
cost all the same.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast
from unittest import mock

import numpy as np
import torch
from jaxtyping import Float64, Int64

from gennape.predictors.encoder import pretraining
from gennape.predictors.encoder.clustered import ClusteredEncoder
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.encoder.fuzzy_c_means import fuzzy_c_means, memberships
from gennape.predictors.encoder.optimisation import CPU
from gennape.predictors.encoder.settings import (
    GENERAL,
    GENNAPE,
    ClusteringConfig,
    ContrastiveConfig,
    EncoderConfig,
    PretrainConfig,
)
from gennape.predictors.ensemble import cluster_regression
from gennape.predictors.ensemble.cluster_regression import ClusterRegression, fit_regression
from gennape.predictors.ensemble.ensemble import stacked, zero_shot
from gennape.predictors.ensemble.inputs import EncodedGraphs, encode
from gennape.predictors.ensemble.member import Member
from gennape.predictors.ensemble.pairwise import fit_pairwise
from gennape.predictors.ensemble.registry import ABLATIONS
from gennape.predictors.ensemble.settings import MembersConfig
from gennape.predictors.evaluation.protocol import BenchmarkRows, draw_labelled
from gennape.predictors.evaluation.rows import BENCHMARKS, build_rows, read_rows
from gennape.predictors.few_shot.gaussian_process import GPInputs, fit_process
from gennape.predictors.metrics import srcc
from gennape.predictors.model import fitting
from gennape.predictors.model.checkpoint import load_encoder
from gennape.predictors.model.fuzzy_ensemble import Fitted, FuzzyEnsemble
from gennape.predictors.model.settings import FitConfig, RowsConfig
from gennape.predictors.target import FlopsTarget
from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.graphs.graph import PackedGraphs, concatenate
from gennape.search_spaces.graphs.spectrum import laplacian_spectra
from gennape.search_spaces.labels.labels import LabelledArchitectures, read_labels, split

SOURCE = "nb101"
TARGETS = ("nb201", "nb301", "proxylessnas", "ofa_mbv3", "ofa_resnet")
ON_SOURCE = (SOURCE, "cl_fcm_t", "cl_t", "six members")
MINIMUM = RowsConfig().minimum_accuracy  # percent: rows below are not trained on, as in `gennape fit`
LABELS, COUNTS = 50, (10, 20, 50, 100, 200)
#: What can be varied: members and clusters, how the encoder starts, what it is pretrained on and by which loss.
PARTS = ("fine-tuning", "members", "start", "pretraining")
#: Validation rows that weigh the members, as the whole part does in `gennape fit`; the others are measured on.
WEIGHING = 400
EIGENVALUES = (5, 11, 40)
CLUSTERS, FUZZIFIERS = (1, 3, 12, 20), (1.2, 2.0)
PRETRAINING = PretrainConfig(epochs=3, batch=128)
_USUAL = MembersConfig()
MEMBERS = replace(
    _USUAL,
    regression=replace(_USUAL.regression, epochs=10),
    pairwise=replace(_USUAL.pairwise, epochs=5),
    end_to_end=replace(_USUAL.end_to_end, epochs=5),
)
FITTING = FitConfig(epochs=8, members=MEMBERS)

Vector = Float64[np.ndarray, " n"]
#: SRCC by (row, column), for each seed a list over draws.
Table = dict[tuple[str, str], list[list[float]]]


class PlainTarget(FlopsTarget):
    """Accuracy itself, standardised: FLOPs play no part."""

    def transform(self, accuracy: Vector, flops: Int64[np.ndarray, " n"]) -> Vector:  # noqa: ARG002
        """Accuracies in percent to targets."""
        return (accuracy - self.mean) / self.deviation

    def unit(self, flops: Int64[np.ndarray, " n"]) -> Vector:
        """Percent of accuracy per unit of target."""
        return np.full(len(flops), self.deviation)

    def invert(self, target: Vector, flops: Int64[np.ndarray, " n"]) -> Vector:  # noqa: ARG002
        """Targets to accuracies in percent."""
        return target * self.deviation + self.mean


@contextlib.contextmanager
def plain_targets() -> Iterator[None]:
    """All that is fitted or fine-tuned meanwhile learns accuracies as they are."""

    def fit_plain(accuracy: Vector, flops: Int64[np.ndarray, " n"]) -> PlainTarget:  # noqa: ARG001
        return PlainTarget(float(accuracy.mean()), float(max(accuracy.std(), 1e-12)))

    with (
        mock.patch.object(fitting, "fit_target", fit_plain),
        mock.patch.object(cluster_regression, "fit_target", fit_plain),
    ):
        yield


@dataclass(frozen=True)
class Data:
    """Rows of NAS-Bench-101 to draw from, those that weigh and those that are measured on, and of other families."""

    training: LabelledArchitectures
    weight_rows: tuple[PackedGraphs, Vector]
    measured: tuple[PackedGraphs, Vector]
    targets: dict[str, BenchmarkRows]


@dataclass(frozen=True)
class Trained:
    """A fitted variant with what it learnt from."""

    predictor: FuzzyEnsemble
    fitted: Fitted
    graphs: PackedGraphs
    accuracy: Vector


def read(folder: Path, rows: int) -> Data:
    """All rows, ``rows`` of each target family."""
    space = family(SOURCE)
    labels = read_labels(folder / f"{SOURCE}.csv.gz", space, "val108")
    labels = labels.take(np.argsort(labels.identity))
    part = split(labels)
    held_out = np.flatnonzero(part == 1)
    weight_rows = held_out[labels.accuracy[held_out] >= MINIMUM][:WEIGHING]
    targets = {}
    for benchmark in BENCHMARKS:
        if benchmark.name in TARGETS:
            chosen = read_rows(folder, benchmark, ())
            few = chosen.labels.take(np.arange(min(rows, len(chosen.labels.genomes))))
            targets[benchmark.name] = build_rows(replace(chosen, labels=few))
    return Data(
        labels.take((part == 0) & (labels.accuracy >= MINIMUM)),
        _graphs(labels.take(weight_rows)),
        _graphs(labels.take(np.setdiff1d(held_out, weight_rows))),
        targets,
    )


def _graphs(labels: LabelledArchitectures) -> tuple[PackedGraphs, Vector]:
    return family(SOURCE).graphs(labels.genomes), labels.accuracy


class AblationStudy:
    """Trains and measures all variants, seed by seed, and keeps the figures."""

    def __init__(
        self, data: Data, sample: int, rows: int, draws: int, parts: Collection[str], encoder: GraphEncoder | None
    ) -> None:
        self.data, self.sample, self.rows, self.draws = data, sample, rows, draws
        self.parts, self.encoder = parts, encoder
        self.variants: Table = defaultdict(list)
        self.alone: Table = defaultdict(list)
        self.tuning: Table = defaultdict(list)
        self.curve: Table = defaultdict(list)
        self.start = time.perf_counter()

    def run(self, seed: int) -> None:
        """All variants with a seed."""
        data, rng = self.data, np.random.default_rng([seed, 0])
        chosen = data.training.take(draw_labelled(data.training.identity, seed, self.rows))
        graphs, accuracy = _graphs(chosen)
        sets = [self._unlabelled(space.name, rng) for space in FAMILIES]
        mixed, families = concatenate(sets), np.repeat(np.arange(len(sets)), [len(part) for part in sets])
        spectra = laplacian_spectra(mixed, max(EIGENVALUES))
        alone = data.training.take(draw_labelled(data.training.identity, seed + 1000, len(mixed)))
        single = _graphs(alone)[0]

        def trained(encoder: GraphEncoder) -> Trained:
            fitted = fitting.fit(
                encoder, graphs, accuracy, ClusteringConfig(), FITTING, np.random.default_rng([seed, 2]), _nothing,
                held_out=data.weight_rows, device=CPU,
            )  # fmt: skip
            return Trained(FuzzyEnsemble(fitted, "variant"), fitted, graphs, accuracy)

        def pretrained(contrast: ContrastiveConfig, networks: PackedGraphs = mixed) -> GraphEncoder:
            known = spectra if networks is mixed else laplacian_spectra(networks, contrast.eigenvalues)
            return pretraining.pretrain(
                networks, known, EncoderConfig(), replace(PRETRAINING, contrast=contrast),
                np.random.default_rng([seed, 1]), _nothing,
                families=families if networks is mixed else None, device=CPU,
            )  # fmt: skip

        encoder = pretrained(GENNAPE)
        full = trained(encoder)
        self._measure("full", seed, full.predictor)
        if "fine-tuning" in self.parts:
            self._fine_tuning(seed, full.predictor)
        if "members" in self.parts:
            self._clusters(seed, full)
            with plain_targets():
                plain = trained(encoder)
                self._measure("-T: plain accuracies", seed, plain.predictor, full.predictor)
                self._alone("-T", seed, plain.predictor, {"cl_fcm_t": "cl_fcm_t, -T", "cl_t": "cl_t, -T"})
        torch.manual_seed(seed)
        variants: dict[str, Callable[[], GraphEncoder]] = {}
        if "start" in self.parts:
            variants["-CL: random start"] = lambda: GraphEncoder(EncoderConfig()).eval()
        if self.encoder is not None:
            given = self.encoder
            variants["CL on more networks (--encoder)"] = lambda: given
        if "pretraining" in self.parts:
            variants[f"CL on {SOURCE} only"] = lambda: pretrained(GENNAPE, single)
            variants["CL as `general`"] = lambda: pretrained(GENERAL)
            for q in EIGENVALUES:
                variants[f"q = {q} eigenvalues"] = lambda q=q: pretrained(replace(GENNAPE, eigenvalues=q))
        for name, make in variants.items():
            self._measure(name, seed, trained(make()).predictor)

    def _unlabelled(self, name: str, rng: np.random.Generator) -> PackedGraphs:
        """Networks of a family: training rows of the labelled one, samples of the others."""
        if name == SOURCE:
            genomes = self.data.training.genomes
            return family(name).graphs(genomes[rng.choice(len(genomes), self.sample, replace=False)])
        return family(name).graphs(np.unique(family(name).sample(rng, self.sample), axis=0))

    def _measure(self, name: str, seed: int, predictor: FuzzyEnsemble, like: FuzzyEnsemble | None = None) -> None:
        """Figures of the main table; of other families those of ``like`` where members have no say in either."""
        self._on_source(name, predictor)
        for target, rows in self.data.targets.items():
            if like is not None and not (_trust(predictor, rows.graphs).any() or _trust(like, rows.graphs).any()):
                continue
            found = []
            for labelled in self._labelled(rows, seed, LABELS):
                tuned = copy.copy(predictor).fit(rows.graphs.take(labelled), rows.accuracy[labelled])
                found.append(_others(rows, labelled, tuned.predict(rows.graphs).accuracy))
            self.variants[name, target].append(found)
        self._say(seed, name)

    def _on_source(self, name: str, predictor: FuzzyEnsemble, same: Collection[str] = ()) -> None:
        graphs, truth = self.data.measured
        encoded = predictor.encode(graphs)
        predictions = predictor.members.per_member(encoded)
        predictions |= {
            SOURCE: predictor.predict(graphs).accuracy,
            "six members": predictor.members.predict(encoded)[0],
        }
        for column in ON_SOURCE:
            if column in predictions and column not in same:
                self.variants[name, column].append([srcc(truth, predictions[column])])

    def _clusters(self, seed: int, full: Trained) -> None:
        """Members of other clusters beside those that do not read them, and ensembles with members left out."""
        encoded, told = (
            encode(full.predictor.network, full.graphs),
            encode(full.predictor.network, self.data.weight_rows[0]),
        )
        weight_rows = told, self.data.weight_rows[1]
        everyone = {member.name: member for member in full.predictor.members.members}
        names = {"cl_fcm_t": "cl_fcm_t", "cl_t": "cl_t", "pairwise": "pairwise", "pairwise_fcm": "pairwise_fcm"}
        self._alone("full", seed, full.predictor, names)
        for name, left_out in (*ABLATIONS.items(), ("-k-GNN", ("k_gnn",))):
            kept = [member for known, member in everyone.items() if known not in left_out]
            ensemble = self._with(full, full.predictor.network, kept, weight_rows)
            self._on_source(f"without members of {name}", ensemble, same=("cl_fcm_t", "cl_t"))
        usual = full.predictor.network.config
        settings = [(usual.clusters, usual.fuzzifier), *((c, usual.fuzzifier) for c in CLUSTERS)]
        settings += [(usual.clusters, m) for m in FUZZIFIERS]
        for i, (clusters, fuzzifier) in enumerate(settings):
            rng = np.random.default_rng([seed, 3])
            torch.manual_seed(seed)
            network = ClusteredEncoder(replace(usual, clusters=clusters, fuzzifier=fuzzifier)).double()
            network.encoder.load_state_dict(full.predictor.network.encoder.state_dict())
            network.in_distribution.load_state_dict(full.predictor.network.in_distribution.state_dict())
            centroids = fuzzy_c_means(torch.from_numpy(encoded.embedding).float(), clusters, fuzzifier, rng)
            network.centroids.copy_(centroids)
            learnt = _reclustered(encoded, network), full.accuracy
            regression = cast(ClusterRegression, everyone["cl_t"])
            found: dict[str, Member] = everyone | {
                "cl_fcm_t": fit_regression("cl_fcm_t", regression, *learnt, MEMBERS.regression, rng, _nothing),
                "pairwise_fcm": fit_pairwise(
                    "pairwise_fcm", clusters, MEMBERS.pairwise_hidden, *learnt, MEMBERS.pairwise, rng, _nothing
                ),
            }
            predictor = self._with(
                full, network.eval(), list(found.values()), (_reclustered(told, network), weight_rows[1])
            )
            name = f"C = {clusters} again" if i == 0 else f"C = {clusters}"
            name = name if fuzzifier == usual.fuzzifier else f"m = {fuzzifier}"
            self._on_source(name, predictor, same=("cl_t",))
            self._alone(name, seed, predictor, {"cl_fcm_t": f"cl_fcm_t, {name}"}, full.predictor)
            self._say(seed, name)

    def _with(
        self, full: Trained, network: ClusteredEncoder, members: list[Member], weight_rows: tuple[EncodedGraphs, Vector]
    ) -> FuzzyEnsemble:
        ensembles = zero_shot(members, *weight_rows), stacked(members, *weight_rows)
        return FuzzyEnsemble(Fitted(network, *ensembles, full.fitted.law, full.fitted.pretrained), "variant")

    def _alone(
        self, name: str, seed: int, predictor: FuzzyEnsemble, rows_of: dict[str, str], seen: FuzzyEnsemble | None = None
    ) -> None:
        """Members, by their names, that fine-tune themselves on the labels of a family, as they do in GENNAPE."""
        members = {member.name: member for member in predictor.members.members}
        for target, rows in self.data.targets.items():
            encoded = (seen or predictor).encode(rows.graphs)
            encoded = encoded if seen is None else _reclustered(encoded, predictor.network)
            for member, row in rows_of.items():
                found = []
                for labelled in self._labelled(rows, seed, LABELS)[:3]:
                    rng = np.random.default_rng([seed, 4])
                    tuned = members[member].tuned(encoded.take(labelled), rows.accuracy[labelled], rng)
                    found.append(_others(rows, labelled, tuned.predict(encoded)))
                self.alone[row, target].append(found)
        self._say(seed, f"members alone, {name}")

    def _fine_tuning(self, seed: int, predictor: FuzzyEnsemble) -> None:
        for target, rows in self.data.targets.items():
            inputs, labels = predictor.describe(rows.graphs), -np.log(np.maximum(100 - rows.accuracy, 0.01))
            raw = replace(inputs, prior=100 - np.exp(-inputs.prior))
            described = {
                "full": (inputs, labels),
                "constant prior, no scaling law": (_without(inputs, "prior"), labels),
                "without sizes": (_without(inputs, "sizes"), labels),
                "without path features": (_without(inputs, "paths"), labels),
                "without sizes and path features": (_without(inputs, "sizes", "paths"), labels),
                "without pooled": (_without(inputs, "pooled"), labels),
                "without totals": (_without(inputs, "totals"), labels),
                "without pooled and totals, no encoder": (_without(inputs, "pooled", "totals"), labels),
                "raw accuracy, not log error": (raw, rows.accuracy),
            }
            for name, (told, wanted) in described.items():
                found = [_asked(told, wanted, rows, some) for some in self._labelled(rows, seed, LABELS)]
                self.tuning[name, target].append(found)
            self.curve["0", target].append([srcc(rows.accuracy, inputs.prior)])
            kinds = {"": inputs, ", constant prior": described["constant prior, no scaling law"][0]}
            kinds[", no encoder"] = _without(inputs, "pooled", "totals")
            for kind, told in kinds.items():
                for k in COUNTS if not kind else (10, 20, 100):
                    found = [_asked(told, labels, rows, some) for some in self._labelled(rows, seed, k)]
                    self.curve[f"{k}{kind}", target].append(found)
        self._say(seed, "fine-tuning")

    def _labelled(self, rows: BenchmarkRows, seed: int, k: int) -> list[Int64[np.ndarray, " k"]]:
        """Labels of other networks for every seed."""
        return [draw_labelled(rows.identity, seed * self.draws + draw, k) for draw in range(self.draws)]

    def _say(self, seed: int, what: str) -> None:
        sys.stderr.write(f"{time.perf_counter() - self.start:6.0f} s  seed {seed}: {what}\n")

    def tables(self) -> str:
        """All tables in Markdown."""
        families = list(self.data.targets)
        found = [differences("variant", self.variants, [*ON_SOURCE, *families])]
        if self.alone:
            found.append(differences(f"one member, fine-tuned alone on {LABELS} labels", self.alone, families))
        if self.tuning:
            found.append(differences(f"fine-tuning on {LABELS} labels", self.tuning, families, by_draws=True))
            found.append(absolute("labels", self.curve, families))
        return "\n\n".join(found)


def _nothing(_: int, __: float) -> None:
    pass


def _trust(predictor: FuzzyEnsemble, graphs: PackedGraphs) -> Vector:
    return predictor.network.in_distribution(torch.from_numpy(predictor.encode(graphs).pooled)).numpy()


def _reclustered(encoded: EncodedGraphs, network: ClusteredEncoder) -> EncodedGraphs:
    """What the same encoder shows, with the memberships of other clusters."""
    found = memberships(torch.from_numpy(encoded.embedding), network.centroids, network.config.fuzzifier)
    return replace(encoded, memberships=found.numpy())


def _without(inputs: GPInputs, *names: str) -> GPInputs:
    """The same in all networks, which a process cannot learn from."""
    return replace(inputs, **{name: np.zeros_like(getattr(inputs, name)) for name in names})


def _asked(inputs: GPInputs, labels: Vector, rows: BenchmarkRows, labelled: Int64[np.ndarray, " k"]) -> float:
    process = fit_process(GPInputs(*(column[labelled] for column in inputs)), labels[labelled])
    return _others(rows, labelled, process.predict(inputs)[0])


def _others(rows: BenchmarkRows, labelled: Int64[np.ndarray, " k"], scores: Vector) -> float:
    """SRCC of the rows that were not labelled."""
    others = np.setdiff1d(np.arange(len(scores)), labelled)
    return srcc(rows.accuracy[others], scores[others])


def absolute(title: str, table: Table, columns: Sequence[str]) -> str:
    """Means and deviations over seeds and draws."""
    rows = dict.fromkeys(row for row, _ in table)
    lines = [_line(row, [_plain(table[row, column]) for column in columns]) for row in rows]
    return "\n".join([_head(title, columns), *lines])


def differences(title: str, table: Table, columns: Sequence[str], *, by_draws: bool = False) -> str:
    """The first row as it is, and what the others have more, with the standard error over seeds or all draws."""
    first, *others = dict.fromkeys(row for row, _ in table)
    lines = [_line(first, [_plain(table[first, column]) for column in columns])]
    for row in others:
        cells = []
        for column in columns:
            if (row, column) not in table:
                cells.append("")
                continue
            pairs = zip(table[row, column], table[first, column], strict=True)
            found = [np.subtract(mine, theirs) for mine, theirs in pairs]
            values = np.concatenate(found) if by_draws else np.array([values.mean() for values in found])
            error = f" ± {values.std(ddof=1) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():+.3f}{error}")
        lines.append(_line(row, cells))
    return "\n".join([_head(title, columns), *lines])


def _plain(seeds: list[list[float]]) -> str:
    values = np.concatenate(seeds)
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def _head(title: str, columns: Sequence[str]) -> str:
    return _line(title, columns) + "\n|---" + "|---:" * len(columns) + "|"


def _line(name: str, cells: Sequence[str]) -> str:
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled files")
    parser.add_argument("--seeds", type=int, default=3, help="of training (default 3)")
    parser.add_argument("--rows", type=int, default=1000, help="of each target family (default 1000)")
    parser.add_argument("--sample", type=int, default=400, help="networks of a family to pretrain on (default 400)")
    parser.add_argument("--training-rows", type=int, default=3000, help=f"of {SOURCE} to fit on (default 3000)")
    parser.add_argument("--draws", type=int, default=5, help="of labels for each seed (default 5)")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="what to vary (default all)")
    parser.add_argument("--encoder", type=Path, help="by `gennape pretrain`, of any budget: a variant more")
    a = parser.parse_args()
    torch.set_num_threads(1)
    encoder = load_encoder(a.encoder)[0] if a.encoder else None
    benchmark = AblationStudy(read(a.data, a.rows), a.sample, a.training_rows, a.draws, a.parts, encoder)
    for seed in range(a.seeds):
        benchmark.run(seed)
        sys.stderr.write(benchmark.tables() + "\n")
    sys.stdout.write(
        f"Reduced budgets, for comparing rows only: {a.sample} networks of each of {len(FAMILIES)} families and "
        f"{PRETRAINING.epochs} epochs of pretraining, {a.training_rows:,} rows of {SOURCE} and {FITTING.epochs} epochs "
        f"of fitting; {len(benchmark.data.measured[1]):,} rows of {SOURCE}'s validation part and up to {a.rows:,} of "
        f"each other family measured on. SRCC, {a.seeds} seeds, {a.draws} draws of {LABELS} labels for each (members "
        "alone: 3). First rows: mean ± deviation; others: difference to the first ± standard error of that mean. "
        "Empty: the same as the first, or does not apply.\n\n"
    )
    sys.stdout.write(benchmark.tables() + "\n")


if __name__ == "__main__":
    main()
