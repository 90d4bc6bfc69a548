"""Why a training gives no label."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gennape.errors import GennapeError


class UnsuitableImagesError(GennapeError):
    """Images of another size, or of more classes, than a network takes."""


class DivergedError(GennapeError):
    """The loss is no longer a number, at ``step`` (counted from 0 over the whole training)."""

    def __init__(self, step: int, epoch: int) -> None:
        super().__init__(
            f"the loss was not finite at step {step}, in epoch {epoch + 1}; the network cannot be labelled by this "
            "recipe, lower its peak learning rate for all networks of the study"
        )
        self.step = step

    def __reduce__(self) -> tuple[type[DivergedError], tuple[int, int]]:
        """So that it travels between processes."""
        return DivergedError, (self.step, int(str(self).rpartition("in epoch ")[2].partition(";")[0]) - 1)


class DeviceMemoryError(GennapeError):
    """The device has not enough memory for a training."""


@contextmanager
def memory_named(device: torch.device) -> Iterator[None]:
    """Errors of a device that is out of memory as :class:`DeviceMemoryError`; libraries on it name theirs in words."""
    try:
        yield
    except RuntimeError as error:
        signs = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
        if not isinstance(error, torch.OutOfMemoryError) and not any(sign in str(error) for sign in signs):
            raise
        raise DeviceMemoryError(
            f"{device} has not enough memory to train this network; run fewer trainings beside each other, or take a "
            "recipe of smaller batches"
        ) from error
