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
    PAD = 18
    MEAN = 19  # global average over H and W, keeping 1x1
    SPACETOBATCH = 20  # published graphs only: how TensorFlow dilates
    BATCHTOSPACE = 21  # published graphs only
    SPACETODEPTH = 22
    DEPTHTOSPACE = 23
    GLOBAL = 24  # published graphs only: a mean that its builder calls "global"
    IDENTITY = 25
    ZERO = 26
    HARDSIGMOID = 32  # relu6(x + 3) / 6: "relu6" in the published graphs
    SLICE = 33  # a window of channels and pixels: absent from the published graphs
    LAYERNORM = 34
    GROUPNORM = 35  # with one channel a group it is instance normalisation
    SOFTMAX = 36
    MATMUL = 37  # product of two computed matrices, one for each channel
    RESIZE = 38
    RESHAPE = 39  # the same numbers in the same order
    PERMUTE = 40  # channels, height and width change places
    SCALE = 41  # times a learnt tensor or a constant
    SHIFT = 42  # plus a learnt tensor or a constant
    LEAKYRELU = 43
    CONVTRANSPOSE = 44
    EXTEND = 45  # a learnt or fixed tensor before or after the map along an axis, as class tokens are
    POWER = 46  # every number to the power of a constant: roots, squares, reciprocals
    OTHER = 47  # an operation that is priced but not described further: its kind is a checksum of its name


#: Number of codes an embedding table must hold, with room for operations to come.
VOCABULARY_SIZE = 48

#: Operations that hold weights of a matrix product.
WEIGHTED = (Op.CONV, Op.DEPTHWISE, Op.LINEAR, Op.CONVTRANSPOSE)

#: Operations that may take several inputs.
MERGES = (Op.ADD, Op.MUL, Op.CONCAT, Op.MATMUL, Op.OTHER)

#: Operations whose result depends on the order of their inputs.
ORDERED = (Op.CONCAT, Op.MATMUL, Op.OTHER)
