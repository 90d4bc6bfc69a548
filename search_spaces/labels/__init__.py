"""Readers of labelled networks."""

from gennape.lazy import face

_HOMES = {"label_blocks": "labels", "read_labels": "labels"}
__all__ = list(_HOMES)
__getattr__ = face(__name__, _HOMES)
