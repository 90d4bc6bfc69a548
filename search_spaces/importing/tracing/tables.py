"""Tables of handlers by function: PyTorch has several names for one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

#: Adds the nodes of one call; takes the recorder, the call's result, and its arguments.
Handler = Callable[..., None]
#: Replaces a call; takes the recorder and the call's arguments, and returns the result.
Substitute = Callable[..., Any]

#: Type of a numeric argument.
Number = int | float

_PLACES = (torch, F, torch.Tensor, torch.special, torch.functional)


def called(*names: str) -> list[Any]:
    """Every function and method of these names."""
    found = (getattr(place, name, None) for place in _PLACES for name in names)
    return list(dict.fromkeys(function for function in found if callable(function)))


def table(*rows: tuple[list[Any], Handler]) -> dict[Any, Handler]:
    """Handlers by function, from rows of several functions and their handler."""
    return {function: handler for functions, handler in rows for function in functions}
