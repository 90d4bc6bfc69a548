"""The families that ship: one line each."""

from __future__ import annotations

from gennape.errors import ConfigError
from gennape.search_spaces.families.hiaml import HiAML
from gennape.search_spaces.families.inception import Inception
from gennape.search_spaces.families.nb101 import NasBench101
from gennape.search_spaces.families.nb201 import NasBench201
from gennape.search_spaces.families.nb301 import NasBench301
from gennape.search_spaces.families.ofa_mbv3 import OfaMobileNetV3
from gennape.search_spaces.families.ofa_resnet import OfaResNet
from gennape.search_spaces.families.proxylessnas import ProxylessNAS
from gennape.search_spaces.families.space import SearchSpace
from gennape.search_spaces.families.two_path import TwoPath
from gennape.search_spaces.files.nearby import did_you_mean

FAMILIES: tuple[SearchSpace, ...] = (
    HiAML(),
    Inception(),
    NasBench101(),
    NasBench201(),
    NasBench301(),
    OfaMobileNetV3(),
    OfaResNet(),
    ProxylessNAS(),
    TwoPath(),
)


def families() -> tuple[SearchSpace, ...]:
    """All search spaces that ship, in the order of their names."""
    return FAMILIES


def family(name: str) -> SearchSpace:
    """The search space called ``name``; raises :class:`ConfigError` that lists the known ones."""
    for space in FAMILIES:
        if space.name == name:
            return space
    known = [space.name for space in FAMILIES]
    raise ConfigError(f"unknown search space {name!r}; known are {', '.join(known)}{did_you_mean(name, known)}")
