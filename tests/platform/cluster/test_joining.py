"""Joining a cluster that is not there."""

from __future__ import annotations

import socket
import threading
from contextlib import nullcontext, suppress

import pytest

from gennape.errors import ServiceError
from gennape.platform.cluster import connection


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "127.0.0.1:99999", "[::1]:{}", "no-such-host.invalid:6379"]
)
def test_an_address_at_which_nothing_answers_is_refused_before_ray_tries_it(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr(connection, "ANSWER_S", 0.1)
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        asked = address.format(free.getsockname()[1])
        with pytest.raises(ServiceError, match=r"cannot reach the Ray cluster at .*: no Ray answers there .* or start"):
            connection._join(asked)


@pytest.mark.parametrize(
    ("first", "is_ray"),
    [(b"\0\0\0\4\0\0\0\0\0", True), (b"HTTP/1.1 400 Bad Request\r\n\r\n", False), (b"", False)],
)
def test_what_begins_as_ray_does_is_left_to_ray(monkeypatch: pytest.MonkeyPatch, first: bytes, is_ray: bool) -> None:
    monkeypatch.setattr(connection, "ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with suppress(OSError):  # closed at the end
                while True:
                    asking, _ = listening.accept()
                    asking.sendall(first)
                    asking.close()

        threading.Thread(target=answer, daemon=True).start()
        with nullcontext() if is_ray else pytest.raises(ServiceError, match="no Ray answers there"):
            connection._require_answer(f"127.0.0.1:{listening.getsockname()[1]}")
        listening.shutdown(socket.SHUT_RDWR)


def test_an_address_of_no_port_is_left_to_ray() -> None:
    connection._require_answer("auto")


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_a_ray_is_known_as_one() -> None:
    import ray

    with connection.local_ray(num_cpus=1):
        connection._require_answer(ray.get_runtime_context().gcs_address)
