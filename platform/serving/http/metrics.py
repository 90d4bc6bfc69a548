"""Metrics of the HTTP API, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
GRAPHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
OTHER_PATH = "other"


class Metrics:
    """Metrics of one HTTP process, whatever the number of replicas behind it."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("gennape_requests", "Requests answered.", ("path", "status"), registry=self._registry)
        self._seconds = Histogram(
            "gennape_request_seconds",
            "From a request to its answer.",
            ("path",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._refused = Counter(
            "gennape_refused", "Requests refused because too many were in progress.", registry=self._registry
        )
        self._graphs = Counter("gennape_graphs", "Networks predicted.", ("path",), registry=self._registry)
        self._batches = Histogram(
            "gennape_batch_graphs",
            "Networks that a replica computed at once, for each request.",
            buckets=GRAPHS,
            registry=self._registry,
        )
        self._inside = Gauge(
            "gennape_requests_in_progress", "Requests being answered or waiting.", registry=self._registry
        )
        self._most = Gauge("gennape_requests_limit", "Most requests in progress.", registry=self._registry)
        self._checkpoint = Gauge(
            "gennape_checkpoint_info", "1 for the checkpoint that answers.", ("sha256",), registry=self._registry
        )

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count one request. ``path`` must be one of few, since each is a time series."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def refused(self) -> None:
        """Count one request that was not admitted."""
        self._refused.inc()

    def predicted(self, path: str, graphs: int, together: int) -> None:
        """Count the networks of one request, and the batch that they were computed in."""
        self._graphs.labels(path).inc(graphs)
        self._batches.observe(together)

    def exposition(self, inside: int, most: int, sha256: str) -> bytes:
        """All metrics as text, including gauges that are read now."""
        self._inside.set(inside)
        self._most.set(most)
        self._checkpoint.clear()
        self._checkpoint.labels(sha256).set(1)
        return generate_latest(self._registry)
