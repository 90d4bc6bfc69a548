"""Work on a GPU that is recorded once and then started as a whole, without a processor that calls each kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

# One recording at a time: threads that train beside each other share PyTorch's stream for it.
_RECORDING = threading.Lock()
_WARM_UP = 3


def own_stream() -> AbstractContextManager[Any]:
    """Work of the block is queued by itself, beside that of other threads."""
    return torch.cuda.stream(_new_stream())


def _new_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def captured(work: Callable[[], None], state: Sequence[Tensor]) -> Callable[[], None]:
    """``work`` as one CUDA graph. It takes and gives everything in tensors that stay where they are.

    ``state``: the tensors that work changes, which are as before when this returns.
    """
    saved = [tensor.detach().clone() for tensor in state]
    with _RECORDING:
        aside = _new_stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                work()
                _restore(state, saved)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on with their own work meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
        torch.cuda.current_stream().synchronize()
    return graph.replay


def _restore(state: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
    for tensor, before in zip(state, saved, strict=True):
        tensor.detach().copy_(before)
