"""``gennape pretrain``: contrastive pretraining of the graph encoder, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gennape.jobs.shared.config_options import field_option
from gennape.jobs.shared.json_output import Result, one_document
from gennape.jobs.shared.own_code import space_option, typed
from gennape.jobs.shared.settings_file import SettingsFile, run_with
from gennape.jobs.shared.tracked import Register, TrackingUri, refuse_wrong_address, register_result
from gennape.platform.training.settings import WorkersConfig
from gennape.platform.workspace.hints import command
from gennape.predictors.encoder.settings import CONTRASTS, USUAL_CONTRAST, Contrast, EncoderConfig, PretrainConfig

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64, Int64

    from gennape.search_spaces.families.space import SearchSpace
    from gennape.search_spaces.graphs.graph import PackedGraphs

_HOW, _SIZES, _ALONE = PretrainConfig(), EncoderConfig(), WorkersConfig(workers=1, minimum=1)


@one_document
def pretrain(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder to write the encoder to.")],
    space: Annotated[
        list[str] | None,
        space_option("Search space of the networks. May be repeated.", show_default="nb101"),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Labelled file whose training rows supply the networks of a --space, in the same order."),
    ] = None,
    sample: Annotated[
        int, typer.Option(min=2, help="Networks to sample from each search space without --data.")
    ] = 20000,
    config: Annotated[Contrast, field_option(PretrainConfig, "contrast", show_default=True)] = USUAL_CONTRAST,
    epochs: Annotated[int, field_option(PretrainConfig, "epochs", show_default=True)] = _HOW.epochs,
    batch: Annotated[int, field_option(PretrainConfig, "batch", show_default=True)] = _HOW.batch,
    hidden: Annotated[int, field_option(EncoderConfig, "hidden", show_default=True)] = _SIZES.hidden,
    layers: Annotated[int, field_option(EncoderConfig, "layers", show_default=True)] = _SIZES.layers,
    embedding: Annotated[int, field_option(EncoderConfig, "embedding", show_default=True)] = _SIZES.embedding,
    dropout: Annotated[float, field_option(EncoderConfig, "dropout", show_default=True)] = _SIZES.dropout,
    learning_rate: Annotated[
        float, field_option(PretrainConfig, "learning_rate", show_default=True)
    ] = _HOW.learning_rate,
    settings: SettingsFile = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Device to compute on.", show_default="cuda if available")
    ] = None,
    workers: Annotated[int, field_option(WorkersConfig, "workers", show_default=True)] = _ALONE.workers,
    min_workers: Annotated[int | None, field_option(WorkersConfig, "minimum", show_default="all")] = None,
    gpus_per_worker: Annotated[
        int, field_option(WorkersConfig, "gpus_per_worker", show_default=True)
    ] = _ALONE.gpus_per_worker,
    checkpoint_every: Annotated[int | None, field_option(WorkersConfig, "checkpoint_every")] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            help="Workspace: the folder that holds runs and workers' checkpoints.",
            show_default="$GENNAPE_WORKSPACE or ./gennape-workspace",
        ),
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to train on.", show_default="a local one")] = None,
    register: Register = False,
    tracking_uri: TrackingUri = None,
) -> Result:
    """Pretrain the graph encoder by contrastive learning.

    Networks with similar Laplacian spectra get similar embeddings.
    """
    from dataclasses import replace

    import numpy as np
    from rich.console import Console

    from gennape.errors import ConfigError
    from gennape.predictors.bounds import require_bounds
    from gennape.predictors.model.checkpoint import check_place

    if settings is not None:
        again: Result = run_with(context, settings)
        return again
    refuse_wrong_address(tracking_uri)
    check_place(out)
    how = PretrainConfig(epochs, batch, learning_rate, contrast=CONTRASTS[config])
    networks = _PretrainingNetworks(
        _sources(space or ["nb101"], data or []), sample, np.random.default_rng(seed), batch
    )
    sizes = EncoderConfig(hidden, layers, embedding, dropout)
    require_bounds(sizes)
    if workers > 1 or gpus_per_worker or address is not None:
        if device is not None:
            raise ConfigError("--device is for one process; workers train on GPUs with --gpus-per-worker 1")
        scale = WorkersConfig(workers, min_workers or workers, gpus_per_worker)
        if checkpoint_every is not None:
            scale = replace(scale, checkpoint_every=checkpoint_every)
        sha256, count = _on_workers(out, workspace, address, tracking_uri, networks, seed, sizes, how, scale)
    else:
        if min_workers is not None or checkpoint_every is not None:
            raise ConfigError("--min-workers and --checkpoint-every are for workers; say how many with --workers")
        sha256, count = _here(out, networks, seed, sizes, how, device)
    if register:
        register_result(out, "pretrain", workspace, tracking_uri)
    first = data[0] if data else "LABELS"
    following = command("fit", space=typed((space or ["nb101"])[0]), encoder=out, data=first, out="checkpoint")
    screen = Console(soft_wrap=True, markup=False, highlight=False)
    screen.print(f"encoder {sha256[:12]} of {count} networks written to {out}\nnext: {following}")
    return Result({"encoder": out, "sha256": sha256, "networks": count})


def _here(
    out: Path,
    networks: _PretrainingNetworks,
    seed: int,
    sizes: EncoderConfig,
    settings: PretrainConfig,
    device: str | None,
) -> tuple[str, int]:
    """Pretrain in this process; returns the hash of the encoder and the number of networks."""
    from dataclasses import asdict

    from gennape.jobs.shared.progress import progress_bar
    from gennape.jobs.shared.provenance import provenance
    from gennape.predictors.encoder import pretraining
    from gennape.predictors.encoder.optimisation import chosen_device
    from gennape.predictors.model.checkpoint import save_encoder

    where = chosen_device(device)
    graphs, spectra, families = networks.make(settings.contrast.eigenvalues)
    n = len(graphs)
    with progress_bar("Pretraining", settings.epochs * (n // settings.batch) * settings.batch) as advance:
        encoder = pretraining.pretrain(
            graphs, spectra, sizes, settings, networks.rng, lambda n, loss: advance(n, f"loss {loss:.3f}"),
            families=families, device=where,
        )  # fmt: skip
    record = provenance(None, seed, sample=networks.sample, networks=n, pretrain=asdict(settings), device=where.type)
    # Instead of one file for all, one per family.
    del record["data"]
    record["families"] = networks.record(seed)
    return save_encoder(out, encoder, record), n


def _on_workers(
    out: Path,
    workspace: Path | None,
    address: str | None,
    tracking_uri: str | None,
    networks: _PretrainingNetworks,
    seed: int,
    sizes: EncoderConfig,
    settings: PretrainConfig,
    scale: WorkersConfig,
) -> tuple[str, int]:
    """Pretrain on Ray, or go on with it; returns the hash of the encoder and the number of networks."""
    from contextlib import ExitStack

    from gennape.jobs.shared.progress import progress_bar
    from gennape.jobs.shared.provenance import provenance
    from gennape.platform.training.pretraining import Prepared, pretrain_on_workers
    from gennape.platform.workspace.files import open_workspace
    from gennape.predictors.encoder.data_parallel import PretrainData

    def prepare() -> Prepared:
        made = PretrainData(*networks.make(settings.contrast.eigenvalues))
        return Prepared(made, networks.rng, {"networks": len(made.graphs), "families": networks.record(seed)})

    description = provenance(None, seed, sample=networks.sample)
    del description["data"]
    description["sources"] = {space.name: provenance(path, seed)["data"] for space, path in networks.sources}
    folder = open_workspace(workspace)
    try:
        with ExitStack() as stack:
            done, advance = 0, None

            def follow(graphs: int, total: int, note: str) -> None:
                nonlocal done, advance
                # The bar of the spectra is gone by now.
                advance = advance or stack.enter_context(progress_bar("Pretraining", total))
                advance(graphs - done, note)
                done = graphs

            of = (description, prepare, sizes, settings, scale)
            result = pretrain_on_workers(out, folder, *of, address, follow, tracking_uri)
    except KeyboardInterrupt:
        typer.echo("interrupted; repeat the command to go on from the last checkpoint", err=True)
        raise typer.Exit(130) from None
    return result.sha256, result.networks


class _PretrainingNetworks:
    """The networks to pretrain on, made when they are needed: sampling advances the generator."""

    def __init__(
        self, sources: list[tuple[SearchSpace, Path | None]], sample: int, rng: np.random.Generator, batch: int
    ) -> None:
        self.sources, self.sample, self.rng, self._batch = sources, sample, rng, batch
        self._counts: list[int] = []

    def make(self, eigenvalues: int) -> tuple[PackedGraphs, Float64[np.ndarray, "g q"], Int64[np.ndarray, " g"]]:
        """Graphs, spectra, and the number of the family of each."""
        import numpy as np

        from gennape.errors import ConfigError
        from gennape.jobs.shared.progress import progress_bar
        from gennape.search_spaces.graphs.graph import concatenate
        from gennape.search_spaces.graphs.spectrum import laplacian_spectra

        sets = [space.graphs(_genomes(space, path, self.sample, self.rng)) for space, path in self.sources]
        self._counts = [len(part) for part in sets]
        graphs = concatenate(sets)
        if len(graphs) < self._batch:
            raise ConfigError(f"a batch of {self._batch} needs as many networks, got {len(graphs)}; lower --batch")
        with progress_bar("Spectra", len(graphs)) as advance:
            spectra = laplacian_spectra(graphs, eigenvalues, advance)
        return graphs, spectra, np.repeat(np.arange(len(sets)), self._counts)

    def record(self, seed: int) -> dict[str, dict[str, Any]]:
        """For each family the number of networks and where they come from; once they are made."""
        from gennape.jobs.shared.provenance import provenance

        return {
            space.name: {"networks": count, "data": provenance(path, seed)["data"]}
            for (space, path), count in zip(self.sources, self._counts, strict=True)
        }


def _sources(names: list[str], files: list[Path]) -> list[tuple[SearchSpace, Path | None]]:
    """The search spaces, each with the file that supplies its networks, if any."""
    from itertools import zip_longest

    from gennape.errors import ConfigError
    from gennape.search_spaces.families.registry import family

    if len(set(names)) < len(names):
        raise ConfigError(f"each --space may be given once, got {', '.join(names)}")
    if len(files) > len(names):
        raise ConfigError(f"each --data belongs to a --space, got {len(files)} files and {len(names)} search spaces")
    return [(family(name), path) for name, path in zip_longest(names, files)]


def _genomes(space: SearchSpace, data: Path | None, sample: int, rng: np.random.Generator) -> Int64[np.ndarray, "n g"]:
    """The training rows of a file, or distinct samples of the space."""
    import numpy as np

    from gennape.search_spaces.labels.labels import read_labels, split

    if data is None:
        return np.unique(space.sample(rng, sample), axis=0)
    labels = read_labels(data, space)
    return labels.genomes[split(labels) == 0]
