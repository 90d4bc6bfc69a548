"""The search: islands, their evaluations, and the front."""

from gennape.lazy import face

_HOMES = {"SearchResult": "driver", "run_search": "driver", "search_config": "config"}
__all__ = list(_HOMES)
__getattr__ = face(__name__, _HOMES)
