"""``gennape tune``: find settings of encoder and clusters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gennape.jobs.shared.config_options import field_option
from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.own_code import space_option, typed
from gennape.jobs.shared.tracked import Address, TrackingUri, Workspace, refuse_wrong_address
from gennape.platform.training.settings import Epochs, TuningStudy
from gennape.platform.workspace.hints import command
from gennape.predictors.model.settings import RowsConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gennape.platform.training.trial import Rows
    from gennape.platform.training.tuning import Found
    from gennape.search_spaces.families.space import SearchSpace
    from gennape.search_spaces.graphs.graph import PackedGraphs
    from gennape.search_spaces.labels.labels import LabelledArchitectures

_VALIDATION_PART = 5  # one of so many rows is a validation row
_STUDY = TuningStudy(Path(), ())  # the usual one, of no settings yet


@one_document
def tune(
    data: Annotated[Path, typer.Option(help="Labelled file to train on, in any format that `gennape data` lists.")],
    out: Annotated[Path, typer.Option(help="Settings file to write (JSON). An unfinished tuning is continued.")],
    space: Annotated[str, space_option("Search space of the rows.")] = "nb101",
    judge: Annotated[
        Path | None, typer.Option(help="Labelled file to validate on.", show_default="held-out rows of --data")
    ] = None,
    judge_space: Annotated[
        str | None,
        space_option("Search space of --judge.", "--judge-space", "--judge-family", show_default="that of --space"),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Number of settings to try. The defaults come first.")] = 20,
    vary: Annotated[
        list[str] | None, typer.Option(help="Setting to tune. May be repeated.", show_default="all")
    ] = None,
    rows: Annotated[int, typer.Option(min=40, help="Rows to read from each file, at most.")] = 2000,
    minimum_accuracy: Annotated[
        float, field_option(RowsConfig, "minimum_accuracy", show_default=True)
    ] = _STUDY.minimum_accuracy,
    epochs: Annotated[int, field_option(Epochs, "fit", show_default=True)] = _STUDY.epochs.fit,
    pretrain_epochs: Annotated[int, field_option(Epochs, "pretrain", show_default=True)] = _STUDY.epochs.pretrain,
    rungs: Annotated[int, field_option(TuningStudy, "rungs", show_default=True)] = _STUDY.rungs,
    batch: Annotated[int, field_option(TuningStudy, "batch", show_default=True)] = _STUDY.batch,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Trials that run at the same time.", show_default="as many as fit")
    ] = None,
    gpus_per_trial: Annotated[float, typer.Option(min=0, max=1, help="Fraction of a GPU for each trial.")] = 0,
    seed: Annotated[int, field_option(TuningStudy, "seed", show_default=True)] = _STUDY.seed,
    workspace: Workspace = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
) -> Result:
    """Tune the settings of `pretrain` and `fit` by successive halving, and write the best."""
    import numpy as np

    from gennape.errors import ConfigError
    from gennape.jobs.shared.progress import progress_bar
    from gennape.jobs.shared.provenance import provenance
    from gennape.platform.training.settings import Epochs, TuningStudy
    from gennape.platform.training.trial import NAMES, draw_settings
    from gennape.platform.training.tuning import tune_settings, tuning_folder
    from gennape.platform.workspace.files import open_workspace

    refuse_wrong_address(tracking_uri)
    varied = sorted(set(vary or NAMES))
    if unknown := sorted(set(varied) - set(NAMES)):
        raise ConfigError(f"--vary takes {', '.join(NAMES)}; got {', '.join(unknown)}")
    if judge_space is not None and judge is None:
        raise ConfigError("--judge-space needs --judge, the file of these rows")
    learnt = _rows(data, space, judge, judge_space or space, rows, minimum_accuracy, seed)
    _require_lessons(learnt)
    asked = {"family": space, "rows": rows, "minimum_accuracy": minimum_accuracy, "vary": varied}
    asked["judge"] = None if judge is None else provenance(judge, seed)["data"]
    asked["judge_family"], asked["judges"] = judge_space or space, len(learnt.validation[1])
    description = provenance(data, seed, **asked)
    del description["commit"]  # a commit that does not change trainings does not invalidate results
    folder = open_workspace(workspace)
    settings = tuple(draw_settings(trials, varied, np.random.default_rng(seed)))
    how = (Epochs(pretrain_epochs, epochs), rungs, batch, seed, minimum_accuracy)
    study = TuningStudy(tuning_folder(out, folder), settings, *how)
    try:
        with progress_bar("Tuning", trials) as advance:
            done = 0

            def follow(results: int, note: str) -> None:
                nonlocal done
                advance(max(0, min(results, trials) - done), note)
                done = min(results, trials)

            found = tune_settings(
                out, folder, description, study, learnt, gpus_per_trial, concurrent, address, follow, tracking_uri
            )
    except KeyboardInterrupt:
        typer.echo("interrupted; repeat the command to go on, results are kept", err=True)
        raise typer.Exit(130) from None
    _summary(out, space, data, found)
    options: Any = found.settings.options()
    return Result(
        {
            "file": out,
            "trial": found.trial,
            "settings": options,
            "result": found.result,
            "results": found.results,
            "before": found.before,
            "failed": found.failed,
        }
    )


def _rows(
    data: Path, space_name: str, judge: Path | None, judge_space: str, rows: int, minimum: float, seed: int
) -> Rows:
    """Rows for training, for the member weights, and for validation. Test rows are left out."""
    from gennape.errors import ConfigError
    from gennape.platform.training.trial import Rows
    from gennape.search_spaces.families.registry import family
    from gennape.search_spaces.graphs.spectrum import laplacian_spectra
    from gennape.search_spaces.labels.labels import read_labels, split

    space = family(space_name)
    labels = read_labels(data, space)
    part, kept = split(labels), labels.accuracy >= minimum
    training = _drawn(labels.take((part == 0) & kept), rows, seed)
    weight_rows = _drawn(labels.take((part == 1) & kept), rows, seed)
    if judge is None:
        number = len(training.genomes) // _VALIDATION_PART
        validation, training, validation_space = _slice(training, 0, number), _slice(training, number, None), space
    else:
        validation_space = family(judge_space)
        # More than asked for, since some may be of networks that are trained on.
        most = rows + len(training.genomes) + len(weight_rows.genomes)
        validation = _untested(judge, validation_space, minimum, most, seed)
    if len(training.genomes) < 2:
        raise ConfigError(f"{len(training.genomes)} rows to train on; give more labels or lower --minimum-accuracy")
    graphs = space.graphs(training.genomes)
    held_out = weight_rows if len(weight_rows.genomes) else training
    held_out_graphs = space.graphs(held_out.genomes)
    validation = _slice(_held_out(validation, validation_space, (graphs, held_out_graphs)), 0, rows)
    return Rows(
        graphs,
        laplacian_spectra(graphs, 21),
        training.accuracy,
        (held_out_graphs, held_out.accuracy),
        (validation_space.graphs(validation.genomes), validation.accuracy),
    )


def _require_lessons(rows: Rows) -> None:
    """Refuse rows on which every trial would fail."""
    import numpy as np

    from gennape.errors import InvalidDataError
    from gennape.predictors.model.fitting import require_varied
    from gennape.search_spaces.graphs.cost import flops

    require_varied(rows.accuracy, flops(rows.graphs))
    if np.ptp(rows.validation[1]) == 0:
        raise InvalidDataError(
            f"the {len(rows.validation[1])} rows to validate on are all of one accuracy, so no rank correlation "
            "exists; give more labels"
        )


def _untested(path: Path, space: SearchSpace, minimum: float, most: int, seed: int) -> LabelledArchitectures:
    """At most ``most`` rows of another file that are not test rows."""
    from gennape.search_spaces.labels.labels import read_labels, split

    labels = read_labels(path, space)
    return _drawn(labels.take((split(labels) != 2) & (labels.accuracy >= minimum)), most, seed)


def _held_out(
    validation: LabelledArchitectures, space: SearchSpace, learnt: Sequence[PackedGraphs]
) -> LabelledArchitectures:
    """The validation rows whose networks are not in the training rows, compared by canonical hash."""
    import numpy as np

    from gennape.errors import ConfigError
    from gennape.search_spaces.graphs.canonical import canonical_hashes

    known = {hashed for graphs in learnt for hashed in canonical_hashes(graphs)}
    hashes = canonical_hashes(space.graphs(validation.genomes)) if len(validation.genomes) else []
    left = validation.take(np.array([hashed not in known for hashed in hashes], bool))
    if len(left.genomes) < 2:
        number = len(validation.genomes) - len(left.genomes)
        raise ConfigError(
            f"{len(left.genomes)} rows to validate on, {number} others are of networks that are trained on; give more "
            "labels, of other networks, or lower --minimum-accuracy"
        )
    return left


def _drawn(labels: LabelledArchitectures, most: int, seed: int) -> LabelledArchitectures:
    """At most ``most`` rows, in random order."""
    from gennape.predictors.evaluation.protocol import draw_labelled

    return labels.take(draw_labelled(labels.identity, seed, min(most, len(labels.genomes))))


def _slice(labels: LabelledArchitectures, start: int, end: int | None) -> LabelledArchitectures:
    import numpy as np

    return labels.take(np.arange(len(labels.genomes))[start:end])


def _summary(out: Path, space: str, data: Path, found: Found) -> None:
    """Print the best settings, and the commands that use them."""
    values: Any = found.settings.options()
    chosen = ", ".join(f"{name} {value}" for verb in values.values() for name, value in verb.items())
    before = f", {found.before} of them before" if found.before else ""
    typer.echo(f"{found.results} results{before}; trial {found.trial} ranks best, at {found.result['srcc']:.3f}")
    typer.echo(f"settings  {chosen}\nwritten   {out}\nresults   {out.with_suffix('.trials.csv')}")
    if found.failed:
        typer.echo(f"{len(found.failed)} trials failed, the first: {found.failed[0]}", err=True)
    of = {"space": typed(space), "data": data, "settings": out}
    typer.echo(f"next: {command('pretrain', **of, out='encoder')}")
    typer.echo(f"then: {command('fit', **of, encoder='encoder', out='checkpoint')}")
