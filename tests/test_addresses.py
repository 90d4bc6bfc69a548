"""Addresses of servers: what is one, and that no secret in one is repeated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gennape.addresses import web_address
from gennape.errors import ConfigError


def test_web_addresses() -> None:
    assert web_address("http://host:5000/x", "it").port == 5000
    assert web_address("https://[::1]:5000", "it").hostname == "::1"
    assert web_address("https://host/file@v1.csv", "it").path == "/file@v1.csv"


@pytest.mark.parametrize("text", ["", "host:5000", "http://", "file:///etc/hostname", "http://[::1", "https:host"])
def test_others_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^it must be an address http://\.\.\. or https://\.\.\., got"):
        web_address(text, "it")


@given(st.sampled_from(["http://", "https://", "http:/", "http://[", "", "ftp://"]), st.sampled_from(["u:", ""]))
def test_no_secret_is_repeated(scheme: str, user: str) -> None:
    with pytest.raises(ConfigError, match="it holds a user or password; leave them out") as refused:
        web_address(f"{scheme}{user}hush@host", "it")
    assert "hush" not in str(refused.value)
