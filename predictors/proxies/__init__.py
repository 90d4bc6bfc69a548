"""Zero-cost proxies: scores of networks that nobody trained."""

from gennape.lazy import face

_HOMES = {"PROXIES": "proxies", "proxy_scores": "proxies"}
__all__ = list(_HOMES)
__getattr__ = face(__name__, _HOMES)
