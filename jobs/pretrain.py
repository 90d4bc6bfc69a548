"""``gennape pretrain``: contrastive pretraining of the graph encoder, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int64

    from gennape.search_spaces.space import SearchSpace


def pretrain(
    out: Annotated[Path, typer.Option(help="Folder to write the encoder to.")],
    family: Annotated[str, typer.Option(help="Search space of the networks.")] = "nb101",
    data: Annotated[Path | None, typer.Option(help="Labelled file whose training rows give the networks.")] = None,
    sample: Annotated[int, typer.Option(min=2, help="Networks to sample where no data is given.")] = 20000,
    epochs: Annotated[int, typer.Option(min=1)] = 4,
    batch: Annotated[int, typer.Option(min=2, help="Networks per contrastive batch.")] = 256,
    hidden: Annotated[int, typer.Option(min=4, help="Width of the encoder.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Rounds of message passing.")] = 4,
    embedding: Annotated[int, typer.Option(min=2, help="Width of the embedding.")] = 32,
    seed: Annotated[int, typer.Option(min=0)] = 0,
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
    from gennape.predictors.encoder import EncoderConfig
    from gennape.search_spaces.families.registry import family as family_named
    from gennape.search_spaces.spectrum import laplacian_spectra

    rng = np.random.default_rng(seed)
    space = family_named(family)
    genomes = _genomes(space, data, sample, rng)
    if len(genomes) < batch:
        raise ConfigError(f"a batch of {batch} needs as many networks, got {len(genomes)}; lower --batch")
    config = training.PretrainConfig(epochs=epochs, batch=batch)
    graphs = space.graphs(genomes)
    with progress_bar("Spectra", len(graphs)) as advance:
        spectra = laplacian_spectra(graphs, config.contrast.eigenvalues, advance)
    encoder_config = EncoderConfig(hidden, layers, embedding)
    with progress_bar("Pretraining", epochs * (len(graphs) // batch) * batch) as advance:
        encoder = training.pretrain(
            graphs, spectra, encoder_config, config, rng, lambda n, loss: advance(n, f"loss {loss:.3f}")
        )
    record = provenance(data, seed, family=family, networks=len(graphs), pretrain=asdict(config))
    sha256 = save_encoder(out, encoder, record)
    Console().print(
        f"encoder {sha256[:12]} of {len(graphs)} networks written to {out}\nnext: gennape fit --encoder {out} …"
    )


def _genomes(space: SearchSpace, data: Path | None, sample: int, rng: np.random.Generator) -> Int64[np.ndarray, "n g"]:
    """The training rows of a file, or distinct samples of the space."""
    import numpy as np

    from gennape.search_spaces.labels import read_labels, split

    if data is None:
        return np.unique(space.sample(rng, sample), axis=0)
    labels = read_labels(data, space)
    return labels.genomes[split(labels) == 0]
