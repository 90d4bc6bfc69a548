"""``import platform`` stays the standard library's inside a Ray worker."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import ray

from gennape.platform.cluster.connection import local_ray

# Ray workers cannot import test modules.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def _where() -> tuple[str, str]:
    import platform

    import gennape.platform.workspace.files

    return platform.__file__, f"{platform.python_version()} {gennape.platform.workspace.files.__name__}"


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_imports_the_standard_platform() -> None:
    with local_ray(None, num_cpus=1):
        file, told = ray.get(ray.remote(_where).remote())
    assert Path(file).name == "platform.py"
    assert told.startswith("3.")
    assert told.endswith("gennape.platform.workspace.files")
