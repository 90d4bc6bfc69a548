"""Figures that the papers report, to stand beside measured ones.

Sources: Mills et al., "GENNAPE: Towards Generalized Neural Architecture Performance Estimators", AAAI 2023 (arXiv
2211.17226), tables 1 and 3 to 6; Han et al., "A General-Purpose Transferable Predictor for Neural Architecture Search",
SDM 2023 (arXiv 2302.10835), table 1. Their samples of architectures are others than anybody's here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gennape.predictors.evaluation.protocol import FINE_TUNED, ZERO_SHOT

GENNAPE, GENERAL = "GENNAPE (AAAI 2023)", "General-Purpose Predictor (SDM 2023)"


@dataclass(frozen=True, slots=True)
class PublishedFigure:
    """One number of a paper: method and figure under the names of measurements; ``labels`` is 0 zero-shot."""

    family: str
    setting: str
    labels: int
    method: str
    figure: str
    value: float
    source: str


# fmt: off
#: SRCC without labels (GENNAPE, table 1).
_PROXIES = ("synflow", "jacov", "fisher", "snip", "flops")
_PROXY_SRCC: Mapping[str, Sequence[float]] = {
    "nb201": (.823, .859, .687, .718, .001),
    "nb301": (-.210, -.190, -.305, -.336, .578),
    "proxylessnas": (.086, -.022, .677, .731, .689),
    "ofa_mbv3": (.648, .035, .602, .649, .614),
    "ofa_resnet": (.724, -.094, .651, .752, .785),
    "hiaml": (.154, -.010, -.102, -.168, .277),
    "inception": (.085, .177, -.152, -.061, .412),
    "two_path": (.227, -.071, .042, -.027, .333),
}
#: k-GNN zero-shot and fine-tuned, GENNAPE zero-shot and fine-tuned on 50 labels (GENNAPE, tables 5 and 6).
_SRCC: Mapping[str, Sequence[float]] = {
    "nb201": (.4930, .8606, .8146, .9103),
    "nb301": (.0642, .8584, .3214, .8825),
    "proxylessnas": (.0703, .7559, .8213, .9506),
    "ofa_mbv3": (.4345, .6862, .8660, .9449),
    "ofa_resnet": (.5721, .9102, .5115, .9114),
    "hiaml": (-.1211, .4300, .4331, .4169),
    "inception": (-.2045, .3340, .4249, .5524),
    "two_path": (.1970, .3694, .3413, .4875),
}
_NDCG: Mapping[str, Sequence[float]] = {
    "nb201": (.9270, .9751, .9793, .9855),
    "nb301": (.5341, .9723, .7885, .9765),
    "proxylessnas": (.4426, .9287, .8736, .9800),
    "ofa_mbv3": (.8464, .8859, .9234, .9838),
    "ofa_resnet": (.9470, .9717, .6606, .9463),
    "hiaml": (.5088, .7356, .6892, .7804),
    "inception": (.6064, .7310, .8150, .8073),
    "two_path": (.6339, .7860, .8275, .8392),
}
#: Mean absolute error after fine-tuning on 50 labels: k-GNN; one encoder trained contrastively (CL), with the target
#: relative to FLOPs (T), and with fuzzy clusters (FCM) too (GENNAPE, table 4).
_MAE_METHODS = ("k_gnn", "cl", "cl_t", "cl_fcm_t")
_MAE: Mapping[str, Sequence[float]] = {
    "nb201": (1.80, 2.81, 1.93, 2.05),
    "nb301": (.46, .85, .43, .57),
    "proxylessnas": (.56, .40, .35, .33),
    "ofa_mbv3": (.61, .35, .31, .27),
    "ofa_resnet": (.40, .44, .45, .37),
    "hiaml": (.35, .45, .40, .39),
    "inception": (.60, .82, .71, .86),
    "two_path": (.80, 1.11, .71, .72),
}
#: Mean absolute error and SRCC on held-out networks of the family trained on (GENNAPE, table 3).
_NB101: Mapping[str, Sequence[float]] = {
    "npn": (1.09, .934), "bananas": (1.40, .834), "tnasp": (1.23, .918),
    "gcn": (1.78, .732), "gin": (1.72, .735), "k_gnn": (1.61, .814),
    "cl": (1.51, .874), "cl_fcm": (1.19, .896), "cl_t": (.65, .921), "cl_fcm_t": (.59, .930),
}
#: SRCC of proxies, and on a family whose labels were held out (SDM 2023, table 1): labels, then by method. Proxies that
#: GENNAPE's table 1 holds too are the same there, and told once.
_GENERAL_METHODS = ("synflow", "jacov", "fisher", "grad_norm", "grasp", "snip", "general_gnn", "general_cl")
_GENERAL: Mapping[str, tuple[int, Sequence[float]]] = {
    "nb101": (50, (.361, .358, -.277, -.256, .245, -.165, .542, .553)),
    "nb201": (40, (.823, .859, .687, .714, .637, .718, .884, .917)),
    "nb301": (50, (-.210, -.190, -.305, -.339, -.055, -.336, .872, .892)),
}
# fmt: on
_FOUR = (("k_gnn", ZERO_SHOT), ("k_gnn", FINE_TUNED), ("gennape", ZERO_SHOT), ("gennape", FINE_TUNED))


def _figures() -> Iterator[PublishedFigure]:
    for family, values in _PROXY_SRCC.items():
        for method, value in zip(_PROXIES, values, strict=True):
            yield PublishedFigure(family, ZERO_SHOT, 0, method, "srcc", value, GENNAPE)
    for figure, table in (("srcc", _SRCC), ("ndcg_10", _NDCG)):
        for family, values in table.items():
            for (method, setting), value in zip(_FOUR, values, strict=True):
                labels = 50 if setting == FINE_TUNED else 0
                yield PublishedFigure(family, setting, labels, method, figure, value, GENNAPE)
    for family, values in _MAE.items():
        for method, value in zip(_MAE_METHODS, values, strict=True):
            yield PublishedFigure(family, FINE_TUNED, 50, method, "mae", value, GENNAPE)
    for method, values in _NB101.items():
        for figure, value in zip(("mae", "srcc"), values, strict=True):
            yield PublishedFigure("nb101", ZERO_SHOT, 0, method, figure, value, GENNAPE)
    for family, (labels, values) in _GENERAL.items():
        for method, value in zip(_GENERAL_METHODS, values, strict=True):
            if family in _PROXY_SRCC and method in _PROXIES:
                continue
            learns = method.startswith("general")
            setting, n = (FINE_TUNED, labels) if learns else (ZERO_SHOT, 0)
            yield PublishedFigure(family, setting, n, method, "srcc", value, GENERAL)


PUBLISHED: tuple[PublishedFigure, ...] = tuple(_figures())
