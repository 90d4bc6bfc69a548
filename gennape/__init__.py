"""gennape: neural architecture search across families.

The folders ``search_spaces/``, ``predictors/``, ``platform/`` and ``jobs/`` of the repository are the sub-packages
``gennape.search_spaces`` and so on; each may import only the ones named before it.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gennape")
except PackageNotFoundError:  # a source tree on the path, without an installation
    __version__ = "0+source"
