"""``gennape label``: train architectures on images, and write their accuracies as labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gennape.errors import ConfigError
from gennape.jobs.tracked import TrackingUri, Workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from jaxtyping import Int64

    from gennape.platform.labelling import ImageSources, Labelled, Progress, Workers
    from gennape.platform.labelling_rows import Task
    from gennape.predictors.labelling.recipe import Recipe
    from gennape.search_spaces.space import SearchSpace


def label(
    images: Annotated[Path, typer.Option(help="Images to train on: Parquet (image, label), or a folder per class.")],
    out: Annotated[Path, typer.Option(help="Labels to write (.parquet, .csv); a study that was begun is continued.")],
    test: Annotated[Path | None, typer.Option(help="Images to test on, of the same form.")] = None,
    resize: Annotated[int | None, typer.Option(min=1, help="Pixels that each side of the images is scaled to.")] = None,
    space: Annotated[str | None, typer.Option(help="Search space of --sample or --architectures.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Label so many networks of --space.")] = None,
    among: Annotated[
        int | None, typer.Option(min=1, help="Choose the sample among so many, to tell the predictor most.")
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Label the front of this search, by its name or its beginning.")
    ] = None,
    architectures: Annotated[
        Path | None, typer.Option(help="Label those of a file: a table with a column architecture, or a JSON list.")
    ] = None,
    trainings: Annotated[int, typer.Option(min=1, help="Trainings of each network, by seeds of their own.")] = 1,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each training.", show_default="30")] = None,
    batch: Annotated[int | None, typer.Option(min=2, help="Images of a step.", show_default="512")] = None,
    recipe: Annotated[Path | None, typer.Option(help="JSON file of settings of the recipe.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample and of all trainings.")] = 0,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Where to train.", show_default="cuda where there is one")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that train.", show_default="all there is room for")
    ] = None,
    per_gpu: Annotated[int, typer.Option(min=1, help="Trainings beside each other on a GPU.")] = 4,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Predictor that chooses.", show_default="the shipped one")
    ] = None,
    workspace: Workspace = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to use.", show_default="one of its own")] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Train networks on images by one recipe, and write the labels that fit, finetune and evaluate read."""
    from gennape.jobs.tracked import refuse_wrong_address
    from gennape.platform.labelling import ImageSources, Workers
    from gennape.platform.labelling_rows import check_suffix, tasks_of
    from gennape.platform.workspace import open_workspace
    from gennape.predictors.descent import chosen_device

    check_suffix(out)
    refuse_wrong_address(tracking_uri)
    where: Any = device or chosen_device().type
    if where == "cuda" and address is None:
        chosen_device("cuda")
    settings = recipe_of(recipe, {"epochs": epochs, "batch": batch}, where)
    folder = open_workspace(workspace)
    family, genomes = _networks(folder, space, sample, among, run, architectures, seed, checkpoint)
    tasks = tasks_of(family, genomes, trainings)
    if len(tasks) < len(genomes) * trainings:
        typer.echo(f"{len(tasks) // trainings} different networks among {len(genomes)} architectures", err=True)
    sources = ImageSources(images, test, None if resize is None else (resize, resize))
    share = Workers(where, workers, per_gpu)
    result = train_networks(out, folder, tasks, sources, settings, seed, share, address, tracking_uri)
    _summary(out, family.name, result)


def train_networks(
    out: Path,
    workspace: Path,
    tasks: Sequence[Task],
    sources: ImageSources,
    recipe: Recipe,
    seed: int,
    workers: Workers,
    address: str | None,
    tracking_uri: str | None,
) -> Labelled:
    """Train them, show how far it is, and when interrupted say how to go on."""
    from gennape.jobs.progress import progress_bar
    from gennape.platform.labelling import label as label_tasks

    try:
        with progress_bar("Labelling", len(tasks) * recipe.epochs) as advance:
            done = 0

            def follow(progress: Progress) -> None:
                nonlocal done
                failed = f", {progress.failed} failed" if progress.failed else ""
                advance(progress.epochs - done, f"{progress.labels} labels{failed} {progress.note}")
                done = progress.epochs

            return label_tasks(out, workspace, tasks, sources, recipe, seed, workers, address, follow, tracking_uri)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; repeat the command to continue, finished labels are in {out}", err=True)
        raise typer.Exit(130) from None


def recipe_of(path: Path | None, given: dict[str, int | None], device: str) -> Recipe:
    """The settings of a file, and those of the command line over them; what ``device`` computes best with."""
    import json

    from gennape.predictors.labelling.recipe import recipe_from

    settings: Any = {}
    if path is not None:
        try:
            settings = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"cannot read the recipe {path}: {error}") from error
        if not isinstance(settings, dict):
            raise ConfigError(f"{path} holds no recipe; it is a JSON object of settings, such as {{'epochs': 30}}")
    settings |= {name: value for name, value in given.items() if value is not None}
    return recipe_from({"precision": "bf16" if device == "cuda" else "fp32", **settings})


def _networks(
    workspace: Path,
    space: str | None,
    sample: int | None,
    among: int | None,
    run: str | None,
    architectures: Path | None,
    seed: int,
    checkpoint: Path | None,
) -> tuple[SearchSpace, Int64[np.ndarray, "n g"]]:
    """The family, and the networks that exactly one of the options names."""
    from gennape.platform.labelling_sources import architectures_in, front_of, sampled, telling
    from gennape.search_spaces.families.registry import family

    if [sample, run, architectures].count(None) != 2:
        raise ConfigError("which networks? Give one of --sample N, --run NAME and --architectures FILE")
    if among is not None and sample is None:
        raise ConfigError("--among chooses a --sample; say how many networks to choose")
    if run is not None:
        found, genomes = front_of(workspace, run)
        if space not in (None, found.name):
            raise ConfigError(f"--run {run} is a search of {found.name}, got --space {space}; leave --space out")
        return found, genomes
    if space is None:
        raise ConfigError("of which family are the networks? Give --space, e.g. --space hiaml")
    known = family(space)
    if architectures is not None:
        return known, architectures_in(architectures, known)
    if among is not None:
        return known, telling(known, sample or 0, among, seed, checkpoint)
    return known, sampled(known, sample or 0, seed)


def _summary(out: Path, space: str, result: Labelled) -> None:
    """What was made, what failed, and what to do next."""
    from gennape.platform.labelling_rows import beside

    for note in result.notes:
        typer.echo(note, err=True)
    before = f", {result.before} of them before" if result.before else ""
    typer.echo(f"{result.labels + result.failed} trainings{before}: {result.labels} labels in {out}")
    if result.failed:
        typer.echo(f"{result.failed} failed; reasons in {beside(out, '.failed.csv')}")
    typer.echo(f"plot      {beside(out, '.png')}\nrecipe    {beside(out, '.study.json')}")
    typer.echo(f"next: gennape finetune --family {space} --labels {out} --out tuned")
