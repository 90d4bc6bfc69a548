"""Addresses of servers: what is one, and that no secret in one is repeated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gennape.addresses import holds_secret, web_address, without_query
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


@pytest.mark.parametrize(
    "address",
    [
        "http://user:hush@host/x", "https://host/x?token=hush", "https://host/x?a=1&access_key=hush", "s3://b/x?X-Amz-Signature=hush",
        "https://b/x?sv=2024&sig=hush", "https://host/x#access_token=hush", "https://host/?Pass%77ord=hush",
        "--tracking-uri=https://host/?api_key=hush", "https://host/x?q=4f9cc21ab7704f2b88d0", "https://host/?eyJhbGciOiJIUzI1NiIsInR5.e30",
        "ftp://host/x;password=hush",
    ],
)  # fmt: skip
def test_addresses_with_secrets_are_known(address: str) -> None:
    assert holds_secret(address)
    assert "hush" not in without_query(address) or "?" not in address


@pytest.mark.parametrize(
    "text",
    ["https://host/x", "https://host/x?download=1", "http://host:5000/a@b", "a?token=x", "https://host/#/runs/3",
     "--seed", "", "https://host/?file=mobilenet_v3_large-224.onnx"],
)  # fmt: skip
def test_others_hold_none(text: str) -> None:
    assert not holds_secret(text)


def test_a_query_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as refused:
        web_address("ftp://host/x?token=hush", "it")
    assert "hush" not in str(refused.value)
    assert without_query("http://host/x?token=hush#a") == "http://host/x?..."
