"""Sizes of the encoder and of the k-GNN, and how both are trained; light, for the command line.

What the command line offers stands with a field: its usual value, range and meaning. The types of sizes are the limits
of a checkpoint that is read. They are wider than the range under ``option``: what is smaller hardly learns, but has
been made from Python, and such a checkpoint shall be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from gennape.predictors.bounds import Layers, Size

#: The contrastive losses, by name.
Contrast = Literal["gennape", "general"]


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Sizes of a :class:`gennape.predictors.encoder.encoder.GraphEncoder`."""

    hidden: Size = field(default=64, metadata={"description": "Width of the hidden layers.", "option": {"ge": 4}})
    layers: Layers = field(default=4, metadata={"description": "Message-passing layers.", "option": {"ge": 1}})
    embedding: Size = field(default=32, metadata={"description": "Width of the embedding.", "option": {"ge": 2}})
    dropout: Annotated[float, Field(ge=0, lt=1)] = field(
        default=0.1,
        metadata={"description": "Fraction of channels dropped in each view.", "option": {"ge": 0, "le": 0.9}},
    )


@dataclass(frozen=True, slots=True)
class ClusteringConfig:
    """Sizes of a :class:`gennape.predictors.encoder.clustered.ClusteredEncoder`.

    They are the encoder's, the number of clusters C, and the fuzzifier m. The range of an option includes its ends, so
    that it cannot say "above 1"; :func:`gennape.predictors.bounds.require_bounds` refuses what the types do not take.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    clusters: Size = field(default=6, metadata={"description": "Number of fuzzy clusters.", "option": {"ge": 1}})
    fuzzifier: Annotated[float, Field(gt=1, le=100)] = field(
        default=1.5, metadata={"description": "Fuzzifier of fuzzy c-means, above 1. Larger is softer."}
    )


@dataclass(frozen=True, slots=True)
class ContrastiveConfig:
    """Which pairs of a batch are positives, and the temperatures of the loss.

    ``eigenvalues``: how many of the smallest make a spectrum. ``temperature``: what cosines of embeddings are divided
    by. ``spectral_temperature``: the same of distances of spectra, or None where only the nearest graphs count.
    ``within_family``: whether only graphs of one family shall be alike; the others are negatives all the same.
    """

    eigenvalues: int
    temperature: float
    spectral_temperature: float | None
    within_family: bool


#: Every other view counts by its spectral similarity, whatever its family.
GENNAPE = ContrastiveConfig(eigenvalues=21, temperature=0.1, spectral_temperature=0.02, within_family=False)
#: A graph's own second view and the graph of the nearest spectrum in its family count, all else is a negative.
GENERAL = ContrastiveConfig(eigenvalues=11, temperature=0.05, spectral_temperature=None, within_family=True)
CONTRASTS: Mapping[Contrast, ContrastiveConfig] = {"gennape": GENNAPE, "general": GENERAL}
USUAL_CONTRAST: Contrast = "gennape"


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """Contrastive pretraining: ``batch`` counts graphs, each of which is seen twice; ``contrast`` is the loss."""

    epochs: int = field(default=4, metadata={"ge": 1, "description": "Passes over all networks."})
    batch: int = field(default=256, metadata={"ge": 2, "description": "Networks in one contrastive batch."})
    learning_rate: float = field(default=1e-3, metadata={"ge": 1e-6, "le": 1, "description": "Peak learning rate."})
    weight_decay: float = 1e-4
    contrast: ContrastiveConfig = field(
        default=CONTRASTS[USUAL_CONTRAST],
        metadata={
            "description": "Contrastive loss: that of GENNAPE, or the general one, which separates search spaces."
        },
    )


@dataclass(frozen=True, slots=True)
class KGnnConfig:
    """Sizes of a :class:`gennape.predictors.encoder.kgnn.KGnn`, by default the published ones."""

    hidden: Size = 32
    layers: Layers = 6


@dataclass(frozen=True, slots=True)
class KGnnTraining:
    """Supervised training; every ``regroup`` epochs batches are put together anew, every epoch they are shuffled."""

    epochs: int = field(default=40, metadata={"ge": 1, "description": "Epochs of the k-GNN."})
    batch: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    regroup: int = 20
