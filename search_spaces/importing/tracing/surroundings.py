"""What a caller of a trace may have switched on in PyTorch, and what hides a module's calls: off while it is run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.utils import parametrize


@contextmanager
def plain() -> Iterator[None]:
    """Run what follows outside of inference mode, without compiled code and without cached parametrizations.

    Tensors made in inference mode do not tell when they are changed, compiled code shows no calls, and a cached weight
    no longer says what it was computed of. On leaving everything is as it was.
    """
    # Where nothing was compiled the compiler is not loaded, which takes seconds.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    cached = parametrize._cache_enabled, parametrize._cache
    parametrize._cache_enabled, parametrize._cache = 0, {}
    try:
        with torch.inference_mode(mode=False), eager:
            yield
    finally:
        parametrize._cache_enabled, parametrize._cache = cached
