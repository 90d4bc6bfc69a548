"""The vocabulary of primitive operations.

Codes 0 to 26 are the positions of the published GENNAPE vocabulary, so that graphs and published feature files agree;
codes from 32 on are operations that the published graph builder folds away but an executable graph must keep.
"""

from enum import IntEnum


class Op(IntEnum):
    """A primitive operation; the value is what a graph's ``op`` column holds."""

    UNKNOWN = 0
    INPUT = 1
    OUTPUT = 2
    CONV = 3
    DEPTHWISE = 4
    BATCHNORM = 5
    RELU = 6
    RELU6 = 7
    LINEAR = 8  # "matmul" in the published vocabulary
    ADD = 9
    MUL = 10
    CONCAT = 11
    MAXPOOL = 12
    AVGPOOL = 13
    SIGMOID = 14
    TANH = 15
    SWISH = 16
    GELU = 17
    MEAN = 19  # global average over H and W, keeping 1x1
    IDENTITY = 25
    ZERO = 26
    HARDSIGMOID = 32  # relu6(x + 3) / 6: "relu6" in the published graphs
    SLICE = 33  # a window of channels and pixels: absent from the published graphs


#: Number of codes an embedding table must hold, with room for operations to come.
VOCABULARY_SIZE = 48

#: Operations that hold weights of a matrix product.
WEIGHTED = (Op.CONV, Op.DEPTHWISE, Op.LINEAR)

#: Operations whose result depends on the order of their inputs.
ORDERED = (Op.CONCAT,)
