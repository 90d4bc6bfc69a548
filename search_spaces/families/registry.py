"""The search spaces that are known by name: shipped ones, entry points of packages, and registered ones."""

from __future__ import annotations

from gennape.registry import Registry
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

#: The families that ship, in the order of their names.
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


def _well_formed(thing: object) -> SearchSpace:
    from gennape.search_spaces.families.well_formed import well_formed  # noqa: PLC0415 (for own spaces only)

    return well_formed(thing)


REGISTRY: Registry[SearchSpace] = Registry(
    "search space",
    FAMILIES,
    "gennape.families",
    _well_formed,
    "your own is given as --space file.py:Class, or by gp.register",
)


def families() -> tuple[SearchSpace, ...]:
    """All search spaces: those that ship, in the order of their names, then those of packages and registered ones.

    Returns:
        One object per search space.

    Example:
        >>> import gennape as gp
        >>> [space.name for space in gp.families()][:3]
        ['hiaml', 'inception', 'nb101']
    """
    return REGISTRY.all()


def family(space: str | SearchSpace) -> SearchSpace:
    """The search space of a name.

    Args:
        space: The name of a search space that ships, that an installed package offers, or that was registered, as after
            ``--space`` on the command line. A search space is given back as it is.

    Returns:
        The search space.

    Raises:
        ConfigError: No search space has this name. The message lists those that are known.

    Example:
        >>> import gennape as gp
        >>> space = gp.family("nb201")
        >>> space.validate(space.sample(np.random.default_rng(0), 10))
        >>> space.encode(space.decode("|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"))
        '|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|'
    """
    return space if isinstance(space, SearchSpace) else REGISTRY.find(space)


def register_space(space: SearchSpace | type[SearchSpace]) -> SearchSpace:
    """Make a search space of your own known by its name, in this process and in those that it starts.

    Raises:
        ConformanceError: It breaks a promise of search spaces.
        ConfigError: A space that ships has its name.
    """
    return REGISTRY.add(space)
