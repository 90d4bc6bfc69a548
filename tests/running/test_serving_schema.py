"""The HTTP interface keeps what its OpenAPI schema promises, whatever it is asked: requests made up by schemathesis."""

from __future__ import annotations

from typing import Any

import schemathesis
from http_cases import service_of
from hypothesis import HealthCheck, seed, settings
from schemathesis.checks import CHECKS

from gennape.platform.serving.http.app import create_api

SECRET = "0123456789abcdef"  # noqa: S105 (nobody's)


AUTHORISED = {"authorization": f"Bearer {SECRET}"}
API = create_api(service_of(token=SECRET))
schema = schemathesis.openapi.from_asgi("/openapi.json", API, headers=AUTHORISED)
NOT_ASKED = [
    CHECKS.get_one("positive_data_acceptance"),  # what fits the schema is still no network, and rightly refused
    CHECKS.get_one("ignored_auth"),  # it asks without a token by sending these headers, which hold one
]


@schema.parametrize()
@seed(0)
@settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_asked_the_answer_is_as_promised(case: Any) -> None:
    case.call_and_validate(headers=AUTHORISED, excluded_checks=NOT_ASKED)
