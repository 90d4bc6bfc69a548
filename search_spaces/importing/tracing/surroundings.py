"""Switch off, during a trace, settings of PyTorch that hide a module's calls."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.utils import parametrize


@contextmanager
def plain() -> Iterator[None]:
    """Run the body outside inference mode, without compiled code and without cached parametrizations.

    Tensors made in inference mode have no version counter, compiled code hides calls, and a cached weight does not
    show what it was computed from. All settings are restored on exit.
    """
    # Loading the compiler takes seconds; if it is not loaded, nothing is compiled.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    cached = parametrize._cache_enabled, parametrize._cache
    parametrize._cache_enabled, parametrize._cache = 0, {}
    try:
        with torch.inference_mode(mode=False), eager:
            yield
    finally:
        parametrize._cache_enabled, parametrize._cache = cached
