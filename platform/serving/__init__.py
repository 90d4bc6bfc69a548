"""The ensemble on Ray Serve, and its HTTP API."""

from gennape.lazy import face

_HOMES = {"ServingConfig": "config", "serve_ensemble": "deployment"}
__all__ = list(_HOMES)
__getattr__ = face(__name__, _HOMES)
