from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gennape.search_spaces.families.registry import FAMILIES, family
from gennape.search_spaces.families.testing import SearchSpaceConformance, check_search_space

if TYPE_CHECKING:
    from gennape.search_spaces.families.space import SearchSpace


class TestFamilies(SearchSpaceConformance):
    @pytest.fixture(params=FAMILIES, ids=lambda space: space.name)
    def space(self, request: pytest.FixtureRequest) -> SearchSpace:
        space: SearchSpace = request.param
        return space


def test_suite_runs_without_pytest() -> None:
    check_search_space(family("hiaml"), n=8)
