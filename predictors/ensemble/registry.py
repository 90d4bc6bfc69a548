"""The members of the ensemble: how each is fitted, read back, and what it has in common with others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from gennape.errors import CheckpointError
from gennape.predictors.ensemble.cluster_regression import ClusterRegression, fit_regression
from gennape.predictors.ensemble.end_to_end import EndToEnd, fit_end_to_end
from gennape.predictors.ensemble.flops_baseline import FlopsLine, fit_flops
from gennape.predictors.ensemble.inputs import EncodedGraphs
from gennape.predictors.ensemble.member import Member, Progress
from gennape.predictors.ensemble.pairwise import Pairwise, fit_pairwise
from gennape.predictors.ensemble.settings import MembersConfig

#: Kinds of members, by the name that a checkpoint has for them.
KINDS: Mapping[str, type[Member]] = {kind.__name__: kind for kind in (ClusterRegression, Pairwise, EndToEnd, FlopsLine)}
#: What an ablation leaves out: pairs, fuzzy clusters, the target relative to FLOPs.
ABLATIONS: Mapping[str, tuple[str, ...]] = {
    "-pairwise": ("pairwise", "pairwise_fcm"),
    "-FCM": ("cl_fcm_t", "pairwise_fcm"),
    "-T": ("cl_fcm_t", "cl_t"),
}


def fit_members(
    encoded: EncodedGraphs,
    accuracy: Float64[np.ndarray, " g"],
    single: ClusterRegression,
    config: MembersConfig,
    rng: np.random.Generator,
    progress: Progress,
) -> list[Member]:
    """The six members of GENNAPE (Mills et al., AAAI 2023), fitted on a labelled family, ``accuracy`` [g] in percent.

    The encoder behind ``encoded`` stays as it is; the clusters are those of its memberships. ``single`` is the head
    that the encoder was trained with, a member itself and the start of those of the clusters. ``progress`` is called
    after every step with the number of networks and the loss. Raises :class:`gennape.errors.ConfigError` without
    networks.
    """
    clusters = encoded.memberships.shape[1]
    learnt, regression, pairs = (encoded, accuracy), config.regression, config.pairwise
    # First what refuses to learn from nothing.
    k_gnn = fit_end_to_end("k_gnn", config.k_gnn, *learnt, config.end_to_end, rng, progress)
    return [
        fit_regression("cl_fcm_t", single, *learnt, regression, rng, progress),
        single,
        fit_pairwise("pairwise", 1, config.pairwise_hidden, *learnt, pairs, rng, progress),
        fit_pairwise("pairwise_fcm", clusters, config.pairwise_hidden, *learnt, pairs, rng, progress),
        k_gnn,
        fit_flops("flops", *learnt),
    ]


def described(member: Member) -> dict[str, Any]:
    """What :func:`restored` needs besides tensors, for JSON."""
    return {"kind": type(member).__name__, **member.config()}


def restored(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Member:
    """The member described; raises :class:`CheckpointError` for a kind that is unknown, or what does not fit it."""
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise CheckpointError(f"a member of kind {kind!r}, this version of gennape knows {sorted(KINDS)}; upgrade it")
    return KINDS[kind].restore({name: value for name, value in config.items() if name != "kind"}, tensors)
