"""Shapes and types of every annotated function of the two lower rooms are checked while the tests run."""

from jaxtyping import install_import_hook

install_import_hook(["gennape.search_spaces", "gennape.predictors"], "beartype.beartype")
