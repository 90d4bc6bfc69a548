"""``gennape pretrain``: contrastive pretraining of the graph encoder, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int64

    from gennape.search_spaces.space import SearchSpace


def pretrain(
    out: Annotated[Path, typer.Option(help="Folder to write the encoder to.")],
    family: Annotated[
        list[str] | None,
        typer.Option(help="Search space of the networks; repeat it to mix several.", show_default="nb101"),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="Labelled file whose training rows give the networks of a --family: the first file of the first, …"
        ),
    ] = None,
    sample: Annotated[int, typer.Option(min=2, help="Networks to sample of each family without data.")] = 20000,
    config: Annotated[
        Literal["gennape", "general"],
        typer.Option(help="Contrastive loss: GENNAPE's, or the general predictor's, which keeps families apart."),
    ] = "gennape",
    epochs: Annotated[int, typer.Option(min=1)] = 4,
    batch: Annotated[int, typer.Option(min=2, help="Networks per contrastive batch.")] = 256,
    hidden: Annotated[int, typer.Option(min=4, help="Width of the encoder.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Rounds of message passing.")] = 4,
    embedding: Annotated[int, typer.Option(min=2, help="Width of the embedding.")] = 32,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[
        Literal["cpu", "cuda"] | None, typer.Option(help="Where to compute.", show_default="cuda where there is one")
    ] = None,
) -> None:
    """Pretrain the encoder so that networks of similar Laplacian spectra have similar embeddings."""
    from dataclasses import asdict

    import numpy as np
    from rich.console import Console

    from gennape.errors import ConfigError
    from gennape.jobs.progress import progress_bar
    from gennape.jobs.provenance import provenance
    from gennape.predictors import training
    from gennape.predictors.checkpoint import save_encoder
    from gennape.predictors.contrastive import GENERAL, GENNAPE
    from gennape.predictors.descent import chosen_device
    from gennape.predictors.encoder import EncoderConfig
    from gennape.search_spaces.graph import concatenate
    from gennape.search_spaces.spectrum import laplacian_spectra

    where = chosen_device(device)
    rng = np.random.default_rng(seed)
    sources = _sources(family or ["nb101"], data or [])
    sets = [space.graphs(_genomes(space, path, sample, rng)) for space, path in sources]
    graphs = concatenate(sets)
    if len(graphs) < batch:
        raise ConfigError(f"a batch of {batch} needs as many networks, got {len(graphs)}; lower --batch")
    contrast = {"gennape": GENNAPE, "general": GENERAL}[config]
    settings = training.PretrainConfig(epochs=epochs, batch=batch, contrast=contrast)
    with progress_bar("Spectra", len(graphs)) as advance:
        spectra = laplacian_spectra(graphs, contrast.eigenvalues, advance)
    encoder_config = EncoderConfig(hidden, layers, embedding)
    with progress_bar("Pretraining", epochs * (len(graphs) // batch) * batch) as advance:
        encoder = training.pretrain(
            graphs, spectra, encoder_config, settings, rng, lambda n, loss: advance(n, f"loss {loss:.3f}"),
            families=np.repeat(np.arange(len(sets)), [len(part) for part in sets]), device=where,
        )  # fmt: skip
    record = provenance(None, seed, sample=sample, networks=len(graphs), pretrain=asdict(settings), device=where.type)
    # In the place of one file for all, each family with its own.
    del record["data"]
    record["families"] = {
        space.name: {"networks": len(part), "data": provenance(path, seed)["data"]}
        for (space, path), part in zip(sources, sets, strict=True)
    }
    sha256 = save_encoder(out, encoder, record)
    Console().print(
        f"encoder {sha256[:12]} of {len(graphs)} networks written to {out}\nnext: gennape fit --encoder {out} …"
    )


def _sources(names: list[str], files: list[Path]) -> list[tuple[SearchSpace, Path | None]]:
    """The families, each with the file that its networks come from, if any."""
    from itertools import zip_longest

    from gennape.errors import ConfigError
    from gennape.search_spaces.families.registry import family as family_named

    if len(set(names)) < len(names):
        raise ConfigError(f"each --family once, got {', '.join(names)}")
    if len(files) > len(names):
        raise ConfigError(f"each --data belongs to a --family, got {len(files)} files and {len(names)} families")
    return [(family_named(name), path) for name, path in zip_longest(names, files)]


def _genomes(space: SearchSpace, data: Path | None, sample: int, rng: np.random.Generator) -> Int64[np.ndarray, "n g"]:
    """The training rows of a file, or distinct samples of the space."""
    import numpy as np

    from gennape.search_spaces.labels import read_labels, split

    if data is None:
        return np.unique(space.sample(rng, sample), axis=0)
    labels = read_labels(data, space)
    return labels.genomes[split(labels) == 0]
