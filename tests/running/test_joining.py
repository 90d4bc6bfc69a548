"""Joining a cluster that is not there."""

from __future__ import annotations

import socket

import pytest

from gennape.errors import ServiceError
from gennape.platform import cluster


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "127.0.0.1:99999", "[::1]:{}", "no-such-host.invalid:6379"]
)
def test_an_address_at_which_nothing_answers_is_refused_before_ray_tries_it(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(cluster, "ANSWER_S", 0.1)
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        asked = address.format(free.getsockname()[1])
        with pytest.raises(
            ServiceError, match=r"cannot reach the Ray cluster at .*: nothing answers there .* or start"
        ):
            cluster._join(asked)


def test_what_answers_is_left_to_ray() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        cluster._require_answer(f"127.0.0.1:{listening.getsockname()[1]}")
    cluster._require_answer("auto")
