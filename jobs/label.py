"""``gennape label``: train architectures on images, and write their accuracies as labels."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.errors import ConfigError
from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.options import require_one
from gennape.jobs.shared.own_code import refuse_another_space, space_option, typed
from gennape.jobs.shared.parts_of_spaces import FixedGenes, SubspaceFile, part
from gennape.jobs.shared.tracked import Address, TrackingUri, Workspace
from gennape.jobs.shared.training import (
    Batch,
    Device,
    Epochs,
    Images,
    PerGpu,
    Processes,
    RecipeFile,
    Resize,
    RetryFailed,
    TestImages,
    Trainings,
    device_of,
    recipe_of,
    train_networks,
)
from gennape.platform.workspace.hints import command

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int64

    from gennape.platform.labelling.study import StudyResult
    from gennape.search_spaces.families.space import SearchSpace


@one_document
def label(
    images: Images,
    out: Annotated[Path, typer.Option(help="Label file to write (.parquet, .csv). An unfinished study is continued.")],
    test: TestImages = None,
    resize: Resize = None,
    space: Annotated[
        str | None, space_option("Search space of --sample or --architectures; of --run, if it is your own.")
    ] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Label this many random networks of --space.")] = None,
    among: Annotated[
        int | None,
        typer.Option(min=1, help="Choose the --sample from this many networks, so that it is most informative."),
    ] = None,
    run: Annotated[str | None, typer.Option(help="Label the front of a run: its name, or the beginning of it.")] = None,
    architectures: Annotated[
        Path | None,
        typer.Option(help="Label the architectures of a file: a table with a column `architecture`, or a JSON list."),
    ] = None,
    fix: FixedGenes = None,
    subspace: SubspaceFile = None,
    trainings: Trainings = 1,
    epochs: Epochs = None,
    batch: Batch = None,
    recipe: RecipeFile = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the sample and of all trainings.")] = 0,
    device: Device = None,
    workers: Processes = None,
    per_gpu: PerGpu = 4,
    retry_failed: RetryFailed = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Predictor checkpoint for --among.", show_default="the shipped one")
    ] = None,
    workspace: Workspace = None,
    address: Address = None,
    tracking_uri: TrackingUri = None,
) -> Result:
    """Train networks on your images and write their accuracies as labels.

    `gennape fit`, `gennape finetune` and `gennape evaluate` read these labels.
    """
    from gennape.jobs.shared.tracked import refuse_wrong_address
    from gennape.platform.labelling.rows import check_suffix, tasks_of
    from gennape.platform.labelling.study import ImageSources, Workers
    from gennape.platform.workspace.files import open_workspace

    check_suffix(out)
    refuse_wrong_address(tracking_uri)
    where = device_of(device, address)
    settings = recipe_of(recipe, {"epochs": epochs, "batch": batch}, where)
    folder = open_workspace(workspace)
    if run is not None and (fix or subspace):
        raise ConfigError("--run labels the front of a run as it is; leave --fix and --subspace out")
    parted = _parted(space, fix, subspace)
    family, genomes = _networks(folder, parted, sample, among, run, architectures, seed, checkpoint)
    tasks = tasks_of(family, genomes, trainings)
    if len(tasks) < len(genomes) * trainings:
        typer.echo(f"{len(tasks) // trainings} different networks among {len(genomes)} architectures", err=True)
    sources = ImageSources(images, test, None if resize is None else (resize, resize))
    share = Workers(where, workers, per_gpu)
    of = (tasks, sources, settings, seed, share, address, tracking_uri)
    result = train_networks(out, folder, *of, retry_failed=retry_failed)
    _summary(out, typed(family.name), result)
    return Result({"file": out, "space": family.name, **asdict(result)}, int(result.labels + result.others == 0))


def _parted(space: str | None, fix: list[str] | None, subspace: str | None) -> SearchSpace | str | None:
    """The search space, or a part of it where one is named."""
    from gennape.search_spaces.families.registry import family

    if not fix and not subspace:
        return space
    if space is None:
        raise ConfigError("--fix and --subspace are of a search space. Give --space, e.g. --space hiaml")
    return part(family(space), fix, subspace)


def _networks(
    workspace: Path,
    space: SearchSpace | str | None,
    sample: int | None,
    among: int | None,
    run: str | None,
    architectures: Path | None,
    seed: int,
    checkpoint: Path | None,
) -> tuple[SearchSpace, Int64[np.ndarray, "n g"]]:
    """The family, and the networks that exactly one of the options names."""
    from gennape.platform.labelling.sources import architectures_in, front_of, most_informative, sampled
    from gennape.search_spaces.families.registry import family

    require_one(
        "name the networks to label.", {"--sample N": sample, "--run NAME": run, "--architectures FILE": architectures}
    )
    if among is not None and sample is None:
        raise ConfigError("--among chooses a --sample; say how many networks to choose")
    if run is not None:
        found, genomes = front_of(workspace, run)
        refuse_another_space(found.name, run, None if space is None else str(space))
        return found, genomes
    if space is None:
        raise ConfigError("name the search space of the networks. Give --space, e.g. --space hiaml")
    known = family(space)
    if architectures is not None:
        return known, architectures_in(architectures, known)
    if among is not None:
        return known, most_informative(known, sample or 0, among, seed, checkpoint)
    return known, sampled(known, sample or 0, seed)


def _summary(out: Path, space: str, result: StudyResult) -> None:
    """What was made, what failed, and what to do next."""
    from gennape.platform.labelling.rows import beside

    for note in result.notes:
        typer.echo(note, err=True)
    before = f", {result.before} of them before" if result.before else ""
    typer.echo(f"{result.labels + result.failed} trainings{before}: {result.labels} labels in {out}")
    if result.others:
        typer.echo(f"{result.others} labels of earlier calls are kept there")
    if result.failed:
        again = "; once mended, repeat the command with --retry-failed"
        typer.echo(f"{result.failed} failed; reasons in {beside(out, '.failed.csv')}{again}")
    typer.echo(f"plot      {beside(out, '.png')}\nrecipe    {beside(out, '.study.json')}")
    if result.labels + result.others:
        typer.echo(f"next: {command('finetune', space=space, labels=out, out='tuned')}")
