"""What the verbs that train networks on images have in common: their options, the recipe, and the training itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gennape.errors import ConfigError
from gennape.jobs.shared.config_options import field_option
from gennape.jobs.shared.input_files import require_file
from gennape.platform.labelling.training.settings import RecipeSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gennape.platform.labelling.rows import LabellingTask
    from gennape.platform.labelling.study import ImageSources, StudyProgress, StudyResult, Workers
    from gennape.platform.labelling.training.recipe import Recipe

Images = Annotated[Path, typer.Option(help="Training images: Parquet (image, label), or one folder per class.")]
TestImages = Annotated[
    Path | None, typer.Option(help="Test images, in the same format. Without them, labels are validation accuracies.")
]
Resize = Annotated[int | None, typer.Option(min=1, help="Resize images to this height and width in pixels.")]
Trainings = Annotated[int, typer.Option(min=1, help="Trainings of each network, each with its own seed.")]
Epochs = Annotated[int | None, field_option(RecipeSettings, "epochs")]
Batch = Annotated[int | None, field_option(RecipeSettings, "batch")]
RecipeFile = Annotated[Path | None, typer.Option(help="JSON file with settings of the training recipe.")]
Device = Annotated[
    Literal["cpu", "cuda"] | None,
    typer.Option(help="Device to train on. Required with --address.", show_default="cuda if available"),
]
Processes = Annotated[int | None, typer.Option(min=1, help="Training processes.", show_default="as many as fit")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Repeat trainings that failed before.")]
PerGpu = Annotated[int, typer.Option(min=1, help="Trainings that share one GPU.")]


def train_networks(
    out: Path,
    workspace: Path,
    tasks: Sequence[LabellingTask],
    sources: ImageSources,
    recipe: Recipe,
    seed: int,
    workers: Workers,
    address: str | None,
    tracking_uri: str | None,
    *,
    retry_failed: bool,
) -> StudyResult:
    """Train them, show how far it is, and when interrupted say how to go on."""
    from gennape.jobs.shared.progress import progress_bar
    from gennape.platform.labelling.study import label as label_tasks

    try:
        with progress_bar("Labelling", len(tasks) * recipe.epochs) as advance:
            done = 0

            def follow(progress: StudyProgress) -> None:
                nonlocal done
                failed = f", {progress.failed} failed" if progress.failed else ""
                advance(progress.epochs - done, f"{progress.labels} labels{failed} {progress.note}")
                done = progress.epochs

            of = (tasks, sources, recipe, seed, workers)
            return label_tasks(out, workspace, *of, address, follow, tracking_uri, retry_failed=retry_failed)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; repeat the command to continue, finished labels are in {out}", err=True)
        raise typer.Exit(130) from None


def device_of(given: str | None, address: str | None) -> Literal["cpu", "cuda"]:
    """Where to train: as ``given``; on this machine else, on its GPU where it has one.

    Raises :class:`ConfigError` where ``cuda`` is asked of a machine without, and where nothing is said of a cluster,
    whose GPUs may come only when they are asked for.
    """
    from gennape.predictors.encoder.optimisation import chosen_device

    if address is None:
        return "cuda" if chosen_device(given).type == "cuda" else "cpu"
    if given is None:
        raise ConfigError("--address needs --device cuda or --device cpu")
    return "cuda" if given == "cuda" else "cpu"


def recipe_of(path: Path | None, given: dict[str, int | None], device: str) -> Recipe:
    """The settings of a file, and those of the command line over them; what ``device`` computes best with."""
    import json

    from gennape.platform.labelling.training.recipe import recipe_from
    from gennape.search_spaces.files.bounded import read_regular

    settings: Any = {}
    if path is not None:
        require_file(path)
        try:
            settings = json.loads(read_regular(path, 1 << 24))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"cannot read the recipe {path}: {error}") from error
        if not isinstance(settings, dict):
            raise ConfigError(f"{path} holds no recipe; it is a JSON object of settings, such as {{'epochs': 30}}")
    settings |= {name: value for name, value in given.items() if value is not None}
    return recipe_from({"precision": "bf16" if device == "cuda" else "fp32", **settings})
