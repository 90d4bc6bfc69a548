"""Blocks that recur in networks: functions that add several operations to a builder, and the cache of what they add.

A graph of hundreds of nodes then costs as many array copies as it has blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, update_wrapper
from typing import Any, Concatenate, ParamSpec

from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.operations import Fragment, Value

P = ParamSpec("P")


def fragment(
    function: Callable[Concatenate[GraphBuilder, P], Value],
) -> Callable[Concatenate[GraphBuilder, P], Value]:
    """Decorate a function that adds a block to a builder: the block is built once for each shape of its inputs.

    Building a network of such blocks costs a few array copies.

    Args:
        function: Takes the builder, values, and other arguments, which must be hashable and positional; it must depend
            on nothing else.

    Returns:
        The function, with a cache.

    Example:
        >>> import gennape as gp
        >>> @gp.fragment
        ... def residual(b, x, kernel):
        ...     return b.relu(b.add(x, gp.conv_bn(b, x, x.c, kernel)))
        >>> b = gp.GraphBuilder()
        >>> residual(b, b.input(3, 32, 32), 3).c
        3
    """
    return _Cached(function)  # type: ignore[return-value]


class _Cached:
    """A function of fragments. It is pickled as the function that it was made of, which may be somebody's own."""

    def __init__(self, function: Callable[..., Value]) -> None:
        update_wrapper(self, function)
        self._function = function
        self._make = lru_cache(maxsize=4096)(self._made)

    def __call__(self, builder: GraphBuilder, *args: Any) -> Value:
        """Add the block to a builder."""
        key = [_Port(arg[1:]) if type(arg) is Value else arg for arg in args]
        return builder.append(self._make(builder.published, *key), *[arg for arg in args if type(arg) is Value])

    def __reduce__(self) -> str | tuple[Callable[..., object], tuple[object, ...]]:
        """By name where every process can import it, else with the function."""
        function: Any = self._function
        if function.__module__.partition(".")[0] == __name__.partition(".")[0]:
            return str(function.__qualname__)
        return fragment, (function,)

    def _made(self, published: bool, *args: Any) -> Fragment:
        builder = GraphBuilder(published)
        ports = 0
        actual = []
        for arg in args:
            if type(arg) is _Port:
                ports += 1
                actual.append(Value(-ports, *arg))
            else:
                actual.append(arg)
        return builder.part(self._function(builder, *actual))


class _Port(tuple[int, ...]):
    """The shape of a value in a cache key, apart from tuples that are plain arguments."""

    __slots__ = ()


def conv_bn(
    b: GraphBuilder, x: Value, c_out: int, kernel: int | tuple[int, int] = 1, stride: int | tuple[int, int] = 1
) -> Value:
    """Convolution without bias, then batch normalisation.

    Args:
        b: The builder.
        x: What the convolution takes.
        c_out: Its channels.
        kernel: Its kernel: height and width, or one number for both.
        stride: Its stride, alike; padding keeps the size divided by it.

    Returns:
        The normalised map.

    Example:
        >>> import gennape as gp
        >>> b = gp.GraphBuilder()
        >>> x = gp.conv_bn(b, b.input(3, 32, 32), 16, 3, stride=2)
        >>> x.c, x.h, x.w
        (16, 16, 16)
    """
    return b.batchnorm(b.conv(x, c_out, kernel, stride))


@fragment
def conv_bn_relu(
    b: GraphBuilder, x: Value, c_out: int, kernel: int | tuple[int, int] = 1, stride: int | tuple[int, int] = 1
) -> Value:
    """Convolution without bias, batch normalisation, ReLU.

    Args:
        b: The builder.
        x: What the convolution takes.
        c_out: Its channels.
        kernel: Its kernel: height and width, or one number for both.
        stride: Its stride, alike; padding keeps the size divided by it.

    Returns:
        The activated map.

    Example:
        >>> import gennape as gp
        >>> b = gp.GraphBuilder()
        >>> _ = b.output(b.linear(b.mean(gp.conv_bn_relu(b, b.input(3, 32, 32), 16, 3)), 10))
        >>> gp.params(b.build())
        634
    """
    return b.relu(b.batchnorm(b.conv(x, c_out, kernel, stride)))


def make_divisible(value: int | float) -> int:
    """Nearest multiple of 8, at least 8 and never below 90 % of ``value`` (the MobileNet rule)."""
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded
