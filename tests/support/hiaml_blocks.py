"""Networks of HiAML that repeat one block four times: what the families' specification says of each."""

from __future__ import annotations

from typing import NamedTuple


class Counts(NamedTuple):
    """Of the network: parameters, MACs in millions, convolutions. Of the published graph: activations, additions."""

    params: int
    macs_in_millions: float
    convolutions: int
    relu: int
    relu6: int
    add: int


BLOCKS = {
    "z": Counts(2_714_698, 116.837, 25, 17, 16, 8),
    "a22": Counts(1_895_498, 83.282, 25, 25, 0, 8),
    "b23": Counts(2_390_090, 99.011, 35, 9, 32, 8),
    "j30": Counts(2_756_426, 117.885, 27, 17, 16, 8),
    "g30": Counts(2_597_194, 107.400, 43, 9, 32, 16),
    "r30": Counts(2_638_922, 108.448, 45, 9, 32, 24),
    "l20": Counts(1_688_394, 74.894, 17, 17, 0, 0),
    "t20": Counts(1_281_098, 54.971, 25, 9, 16, 8),
    "t31": Counts(2_638_922, 108.448, 45, 17, 32, 24),
    "src0": Counts(3_861_578, 158.780, 25, 25, 0, 8),
    "src1": Counts(2_939_594, 149.343, 25, 25, 0, 8),
    "src3": Counts(1_999_818, 90.622, 33, 25, 0, 8),
    "src7": Counts(2_637_386, 108.448, 41, 9, 32, 8),
    "src8": Counts(1_611_082, 66.505, 33, 9, 16, 8),
}
