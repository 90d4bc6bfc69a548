"""The recipe by which every architecture of a study is trained, and what its random choices depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float64, Int64

from gennape.errors import ConfigError
from gennape.platform.labelling.training.settings import RecipeSettings

#: Raised whenever the same settings come to mean another training.
VERSION = 1


@dataclass(frozen=True, slots=True)
class Recipe(RecipeSettings):
    """One fixed training, the same for all architectures of a study.

    Stochastic gradient descent with Nesterov's momentum on cross-entropy with smoothed labels; the learning rate rises
    linearly from a quarter of ``peak_rate`` to it over the part ``warm_up`` of all steps and falls linearly to 0
    (one cycle, Smith 2018). ``weight_decay`` acts on weights of at least two dimensions only. What is measured are
    averages of weights and batch statistics over steps, of decay ``average`` (faster in the first steps). Images are
    shifted by up to ``crop`` pixels in each direction, half of them mirrored if ``mirror``, and lose a square of
    ``cutout`` pixels (DeVries & Taylor 2017). The part ``validation`` of the training images is never trained on.
    ``precision`` is that of matrix products and convolutions, bf16 or fp32.

    Raises :class:`ConfigError` for settings out of range.
    """

    @property
    def sha256(self) -> str:
        """Hash of all settings: labels are comparable where it is equal."""
        settings = {**asdict(self), "version": VERSION}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def rates(self, steps: int) -> Float64[np.ndarray, " s"]:
        """The learning rate of each of all ``steps``."""
        at = (np.arange(steps) + 0.5) / steps
        return self.peak_rate * np.interp(at, [0, max(self.warm_up, 1e-9), 1], [0.25, 1, 0])

    def weights_of_new(self, steps: int) -> Float64[np.ndarray, " s"]:
        """How much of the newest weights enters their average at each step."""
        t = np.arange(steps)
        return 1 - np.minimum(self.average, (1 + t) / (10 + t))


@dataclass(frozen=True, slots=True)
class Seed:
    """What all random choices of one training depend on: the study, the network by its hash, and which training."""

    study: int
    network: str
    training: int = 0

    def generator(self, purpose: int) -> np.random.Generator:
        """For one purpose of this training: 0 draws weights, 1 + e the order and changes of images in epoch e."""
        digest = hashlib.sha256(f"{self.study}/{self.network}/{self.training}/{purpose}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def recipe_from(settings: Mapping[str, object]) -> Recipe:
    """The recipe of some settings, the others being the usual ones.

    Raises :class:`ConfigError` for unknown names, and for values of another type or out of range.
    """
    usual = asdict(Recipe())
    for name, value in settings.items():
        if name not in usual:
            raise ConfigError(f"a recipe has no {name!r}; it has {', '.join(usual)}")
        wanted, whole = type(usual[name]), isinstance(value, int) and not isinstance(value, bool)
        if not (isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))) and not (
            wanted is float and whole
        ):
            raise ConfigError(f"{name} of a recipe is {value!r}; must be like {usual[name]!r}")
    # A whole number stands for a fraction: the same recipe has the same hash however it is written.
    return Recipe(**{name: type(usual[name])(value) for name, value in settings.items()})


#: Columns of :func:`draws`.
ROW, DOWN, RIGHT, MIRRORED, HOLE_DOWN, HOLE_RIGHT = range(6)


def draws(
    rng: np.random.Generator, images: int, batch: int, crop: int, size: tuple[int, int]
) -> Int64[np.ndarray, "s b 6"]:
    """Which images each step of an epoch takes, and how they are changed; a last batch that is not full is left out.

    Drawn on the processor for a whole epoch, so that they are the same on any device and a training that goes on from
    the end of an epoch needs no generator's state.
    """
    steps = images // batch
    n = steps * batch
    columns = (
        rng.permutation(images)[:n],
        rng.integers(2 * crop + 1, size=n),
        rng.integers(2 * crop + 1, size=n),
        rng.integers(2, size=n),
        rng.integers(size[0], size=n),
        rng.integers(size[1], size=n),
    )
    return np.stack(columns, axis=1).reshape(steps, batch, 6)
