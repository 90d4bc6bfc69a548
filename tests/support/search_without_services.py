"""``gennape search`` with its predictor, serving and tracking replaced by stand-ins; run as a script, or in a test.

    python search_without_services.py actors|local SECONDS_PER_CALL ARGUMENTS...

The islands are Ray actors, or with ``inline`` objects of this process in their place; the predictor is a formula that
takes a while.
"""

from __future__ import annotations

import signal
import sys
import time
from contextlib import contextmanager, nullcontext

import gennape.platform.cluster.connection
import gennape.platform.search.ray_islands
import gennape.platform.serving.deployment
import gennape.platform.tracking.tracker
import gennape.predictors.model.checkpoint
from gennape.jobs import cli
from gennape.jobs.search import search
from gennape.platform.search.islands import LocalIslands
from gennape.platform.search.searchers.testing import SyntheticPredictor


class _Tracker:
    """Remembers what it is told."""

    run_id = "tracked-1"

    def __init__(self):
        self.steps = []
        self.folders = []
        self.images = []
        self.islands = {}
        self.continued = self.server = None

    def run_id_so_far(self):
        return self.run_id

    def metrics(self, step, values, child=None):
        if child is None:
            self.steps.append((step, dict(values)))
        else:
            self.islands[child] = dict(values)

    def image(self, path, step):
        assert path.read_bytes().startswith(b"\x89PNG")
        self.images.append(step)

    def artifacts(self, folder):
        self.folders.append(folder)


class _Slow:
    """A predictor that takes its time."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.sha256 = SyntheticPredictor.sha256

    def predict(self, graphs):
        time.sleep(self.seconds)
        return SyntheticPredictor().predict(graphs)


class InlineIslands(LocalIslands):
    """Islands of this process, used as those on Ray are."""

    def prepare(self):
        pass

    def stop(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def replace(set_attribute, islands, seconds, tracker):
    """Put the stand-ins in place by ``set_attribute(module, name, value)``."""

    @contextmanager
    def track(_workspace, _name, _parameters, run_id=None, server=None):
        tracker.continued, tracker.server = run_id, server
        yield tracker

    set_attribute(gennape.predictors.model.checkpoint, "load_checkpoint", lambda *_, **__: _Slow(seconds))
    set_attribute(
        gennape.platform.serving.deployment, "serve_ensemble", lambda _config, *_: nullcontext(_Slow(seconds))
    )
    set_attribute(gennape.platform.tracking.tracker, "track", track)
    if islands == "inline":
        set_attribute(gennape.platform.cluster.connection, "local_ray", lambda _address=None: nullcontext())
        set_attribute(gennape.platform.search.ray_islands, "RayIslands", InlineIslands)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it from birth
    replace(setattr, sys.argv[1], float(sys.argv[2]), _Tracker())
    if "search" not in [command.name or command.callback.__name__ for command in cli.app.registered_commands]:
        cli.app.command()(search)
    sys.argv[1:] = sys.argv[3:]
    # The predictor must reach the actors by value: they cannot import this file.
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules["__main__"])
    cli.main()
