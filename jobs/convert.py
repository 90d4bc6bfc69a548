"""``gennape convert``: turn architectures into a Parquet data set of graphs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gennape.errors import ConfigError
from gennape.jobs.shared.config_options import field_option
from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.network_files import InputShape, Shape
from gennape.jobs.shared.options import require_one
from gennape.jobs.shared.own_code import space_option
from gennape.jobs.shared.tracked import Address
from gennape.platform.conversion.config import ConversionConfig

if TYPE_CHECKING:
    from gennape.platform.conversion.convert import ConversionResult
    from gennape.platform.conversion.inputs import Inputs

_USUAL = ConversionConfig()


@one_document
def convert(
    to: Annotated[Path, typer.Option(help="Folder of the data set. An unfinished one is continued.")],
    space: Annotated[str | None, space_option("Search space of --sample or --labels.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Number of architectures to sample.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of --sample.")] = 0,
    labels: Annotated[Path | None, typer.Option(help="Labelled file to convert.")] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of the accuracies in --labels.", show_default="the usual one of the file")
    ] = None,
    onnx: Annotated[Path | None, typer.Option(help="Folder of ONNX files to convert.")] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Write the published graphs where they differ.")
    ] = False,
    spectrum: Annotated[int, field_option(ConversionConfig, "spectrum", show_default=True)] = _USUAL.spectrum,
    shard_size: Annotated[
        int | None,
        field_option(ConversionConfig, "shard_size", show_default="4096 architectures or 256 ONNX files"),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes.", show_default="one per CPU")] = None,
    max_mb: Annotated[
        int, typer.Option(min=1, max=2048, help="Size of one ONNX file in MiB, at most. Larger ones are skipped.")
    ] = 2048,
    shape: Shape = None,
    timeout: Annotated[float, field_option(ConversionConfig, "timeout_s", show_default=True)] = _USUAL.timeout_s,
    address: Address = None,
) -> Result:
    """Convert samples, labelled files or ONNX files to a Parquet data set of graphs.

    The data set also holds costs, canonical hashes and Laplacian spectra.
    """
    from gennape.jobs.shared.progress import progress_bar
    from gennape.platform.conversion.convert import convert as convert_inputs

    inputs = _inputs(space, sample, seed, labels, column, onnx, published, max_mb, shape)
    config = ConversionConfig(spectrum, shard_size or inputs.shard_size, timeout)
    try:
        with progress_bar("Converting", len(inputs)) as advance:
            rejected = 0

            def follow(done: int, refused: int) -> None:
                nonlocal rejected
                rejected += refused
                advance(done, f"{rejected} rejected" if rejected else "")

            result = convert_inputs(inputs, to, config, workers, address, follow)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; repeat the command to continue, finished files are kept in {to}", err=True)
        raise typer.Exit(130) from None
    _summary(to, result)
    return Result({"folder": to, **asdict(result)})


def _inputs(
    space: str | None,
    sample: int | None,
    seed: int,
    labels: Path | None,
    column: str | None,
    onnx: Path | None,
    published: bool,
    max_mb: int,
    shape: InputShape | None,
) -> Inputs:
    """Exactly one of the three inputs."""
    from gennape.platform.conversion.inputs import FamilySample, labelled_file, onnx_folder
    from gennape.search_spaces.families.registry import family

    require_one("name the input.", {"--sample N": sample, "--labels FILE": labels, "--onnx FOLDER": onnx})
    if onnx is not None:
        if space is not None or published:
            raise ConfigError("--onnx reads networks of any kind; leave out --space and --published")
        return onnx_folder(onnx, min(max_mb * 2**20, 2**31 - 1), None if shape is None else shape.sizes)
    if shape is not None:
        raise ConfigError("--shape is for ONNX files; leave it out, or give --onnx")
    if space is None:
        raise ConfigError("name the search space of the architectures. Give --space, e.g. --space nb101")
    family(space)
    if labels is not None:
        return labelled_file(labels, space, column, published)
    return FamilySample(space, sample or 0, seed, published)


def _summary(to: Path, result: ConversionResult) -> None:
    """What was made, what was left out, and where to look."""
    from gennape.platform.conversion.convert import MANIFEST, REPORT

    before = f", {result.kept} of them before" if result.kept else ""
    typer.echo(f"{result.rows} graphs in {result.shards} files{before}: {to}")
    if total := result.rejected.total():
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(result.rejected.items()))
        typer.echo(f"{total} rejected ({kinds}); reasons in {to / REPORT}")
    if result.rejected["BUG"]:
        typer.echo("BUG marks files that gennape failed on unexpectedly; please report them", err=True)
    typer.echo(f"described in {to / MANIFEST}")
