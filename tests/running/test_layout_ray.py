"""``import platform`` stays the standard library's inside a Ray worker."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from gennape.platform.cluster import local_ray


def _where() -> tuple[str, str]:
    import platform  # noqa: PLC0415 (what a worker imports)

    import gennape.platform.workspace  # noqa: PLC0415

    return platform.__file__, f"{platform.python_version()} {gennape.platform.workspace.__name__}"


@pytest.mark.cluster
def test_a_worker_imports_the_standard_platform() -> None:
    # By value: a worker cannot import test modules.
    source = _where
    source.__module__ = "__main__"
    with local_ray(None, num_cpus=1):
        file, told = ray.get(ray.remote(source).remote())
    assert Path(file).name == "platform.py"
    assert told.startswith("3.")
    assert told.endswith("gennape.platform.workspace")
