"""The connection to Ray, jobs on a cluster, and the code that is shipped there."""

from gennape.lazy import face

_HOMES = {"local_ray": "connection"}
__all__ = list(_HOMES)
__getattr__ = face(__name__, _HOMES)
