"""The attributes of a node: which column of its row holds what."""

from __future__ import annotations

from enum import IntEnum, auto


class Column(IntEnum):
    """Columns of :attr:`ComputationGraph.nodes`. Sizes are in channels and pixels; ``C_IN`` is of the first input."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[int]) -> int:  # noqa: ARG004
        return count

    OP = auto()
    C_IN = auto()
    H_IN = auto()
    W_IN = auto()
    C_OUT = auto()
    H_OUT = auto()
    W_OUT = auto()
    KERNEL_H = auto()
    KERNEL_W = auto()
    STRIDE_H = auto()
    STRIDE_W = auto()
    PAD_H = auto()
    PAD_W = auto()
    DILATION_H = auto()
    DILATION_W = auto()
    GROUPS = auto()
    BIAS = auto()  # 1 where the operation adds a learnt bias
    CEIL_MODE = auto()  # 1 where a pool rounds its output size up
    COUNT_PAD = auto()  # 1 where an average pool counts padding
    OFFSET_C = auto()  # first channel, row and column that a slice keeps; channels, rows and columns added before
    OFFSET_H = auto()
    OFFSET_W = auto()
    AXIS = auto()  # along which is concatenated, extended or normalised: 0 channels, 1 height, 2 width, 3 all of them
    PARAMS = auto()  # learnt numbers that the other attributes do not tell, of a scale, a normalisation, an other
    KIND = auto()  # variant of the operation, see the builder; of an other, a checksum of its name
    TIED = auto()  # nodes of a graph with one number above 0 share one set of weights; 0 where a node has its own


N_COLUMNS = len(Column)
