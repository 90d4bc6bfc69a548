"""Tables of handlers by function: PyTorch shows a function under several names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

#: Adds the nodes of one call: takes the recorder, the call's result, and the call's arguments.
Handler = Callable[..., None]
#: Does a call in another way: takes the recorder and the call's arguments and gives the call's result.
Substitute = Callable[..., Any]

#: What a setting may be given as.
Number = int | float

_PLACES = (torch, F, torch.Tensor, torch.special, torch.functional)


def called(*names: str) -> list[Any]:
    """Every function of these names: as a function, as a method."""
    found = (getattr(place, name, None) for place in _PLACES for name in names)
    return list(dict.fromkeys(function for function in found if callable(function)))


def table(*rows: tuple[list[Any], Handler]) -> dict[Any, Handler]:
    """Handlers by function, of rows that give a handler to several functions."""
    return {function: handler for functions, handler in rows for function in functions}
