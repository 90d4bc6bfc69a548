"""The HTTP interface keeps what its OpenAPI schema promises, whatever it is asked: requests made up by schemathesis."""

from __future__ import annotations

import pytest
from example_counts import examples
from http_cases import service_of
from hypothesis import HealthCheck, given, seed, settings

from gennape.platform.serving.http.app import create_api

SECRET = "0123456789abcdef"  # noqa: S105 (nobody's)
OPERATIONS = [
    (path, method.upper())
    for path, operations in create_api(service_of(token=SECRET)).openapi()["paths"].items()
    for method in operations
]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_whatever_is_asked_the_answer_is_as_promised(path: str, method: str) -> None:
    import schemathesis  # it takes seconds, which the collection of all tests would wait for
    from schemathesis.checks import CHECKS

    authorised = {"authorization": f"Bearer {SECRET}"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_api(service_of(token=SECRET)), headers=authorised)
    not_asked = [
        CHECKS.get_one("positive_data_acceptance"),  # what fits the schema is still no network, and rightly refused
        CHECKS.get_one("ignored_auth"),  # it asks without a token by sending these headers, which hold one
    ]

    @seed(0)
    @settings(max_examples=examples(30), deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[path][method].as_strategy())
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(headers=authorised, excluded_checks=not_asked)

    ask()
