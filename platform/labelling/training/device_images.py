"""Images that lie on the device as bytes, and whole batches of them changed there at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor

from gennape.errors import ConfigError
from gennape.platform.labelling.training.images import Images, ImageSet
from gennape.platform.labelling.training.recipe import DOWN, HOLE_DOWN, HOLE_RIGHT, MIRRORED, RIGHT, ROW, Recipe


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """Images to be measured on: ``pixels`` uint8 [n, h, w, 3], ``labels`` [n], both on the device."""

    pixels: UInt8[Tensor, "n h w 3"]
    labels: Int64[Tensor, " n"]


@dataclass(frozen=True, slots=True, eq=False)
class DeviceImages:
    """An image set on a device, cut and framed as a recipe wants it.

    ``framed`` uint8 [n, h + 2 crop, w + 2 crop, 3]: images to train on, with a frame of the mean colour. ``mean`` and
    ``deviation`` [3] of these images by channel, on the scale of bytes. ``sha256`` of the set.
    """

    framed: UInt8[Tensor, "n H W 3"]
    labels: Int64[Tensor, " n"]
    validation: Shown
    test: Shown | None
    mean: Float[Tensor, " 3"]
    deviation: Float[Tensor, " 3"]
    size: tuple[int, int]
    classes: tuple[str, ...]
    sha256: str

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.framed.device

    def normalised(self, pixels: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        """Bytes as numbers of mean 0 and deviation 1, channels last in memory."""
        return ((pixels.float() - self.mean) / self.deviation).permute(0, 3, 1, 2)

    def changed(self, draws: Int[Tensor, "b 6"], cutout: int) -> tuple[Float[Tensor, "b 3 h w"], Int64[Tensor, " b"]]:
        """The images that :func:`recipe.draws` name, shifted, mirrored, with holes; and their labels."""
        row, column = (torch.arange(n, device=self.device) for n in self.size)
        columns = torch.where(draws[:, MIRRORED, None] > 0, self.size[1] - 1 - column, column) + draws[:, RIGHT, None]
        rows = row + draws[:, DOWN, None]
        images = self.normalised(self.framed[draws[:, ROW, None, None], rows[:, :, None], columns[:, None, :]])
        if cutout:
            down, right = _inside(row, draws[:, HOLE_DOWN], cutout), _inside(column, draws[:, HOLE_RIGHT], cutout)
            images = images * ~(down[:, :, None] & right[:, None, :])[:, None]
        return images, self.labels[draws[:, ROW]]


def _inside(at: Int[Tensor, " n"], centre: Int[Tensor, " b"], width: int) -> Tensor:
    """[b, n]: whether a position lies in the hole around a centre."""
    first = centre[:, None] - width // 2
    return (at >= first) & (at < first + width)


def parts(images: int, recipe: Recipe) -> tuple[Int64[np.ndarray, " t"], Int64[np.ndarray, " v"]]:
    """Which of so many images train and which validate, fixed by their number alone.

    Raises :class:`ConfigError` where too few are left to train on.
    """
    order = np.random.default_rng(0).permutation(images)
    held = max(1, round(recipe.validation * images))
    if images - held < recipe.batch:
        raise ConfigError(
            f"{images} images less {held} for validation do not fill one batch of {recipe.batch}; give more images or "
            "a recipe of smaller batches"
        )
    return order[held:], order[:held]


def put(images: ImageSet, recipe: Recipe, device: torch.device) -> DeviceImages:
    """The set on ``device``. Raises :class:`ConfigError` where it has too few images."""
    rows, held = parts(len(images.train.labels), recipe)
    train, validation = images.train.take(rows), images.train.take(held)
    n = train.labels.size * train.size[0] * train.size[1]
    sums = train.pixels.sum((0, 2, 3), dtype=np.int64)
    squares = np.array([np.square(train.pixels[:, c].astype(np.int32)).sum(dtype=np.int64) for c in range(3)])
    mean = sums / n
    deviation = np.sqrt(np.maximum(squares / n - mean**2, 1.0))  # of images all alike too
    (h, w), crop = train.size, recipe.crop
    framed = np.empty((len(train.labels), h + 2 * crop, w + 2 * crop, 3), np.uint8)
    framed[:] = mean.round().astype(np.uint8)
    framed[:, crop : crop + h, crop : crop + w] = train.pixels.transpose(0, 2, 3, 1)
    return DeviceImages(
        torch.from_numpy(framed).to(device),
        torch.from_numpy(train.labels).to(device),
        _shown(validation, device),
        None if images.test is None else _shown(images.test, device),
        torch.tensor(mean, dtype=torch.float32, device=device),
        torch.tensor(deviation, dtype=torch.float32, device=device),
        train.size,
        train.classes,
        images.sha256,
    )


def _shown(images: Images, device: torch.device) -> Shown:
    pixels = np.ascontiguousarray(images.pixels.transpose(0, 2, 3, 1))
    return Shown(torch.from_numpy(pixels).to(device), torch.from_numpy(images.labels).to(device))
