"""State that the parts of the HTTP API share: predictor, limits, metrics and the format of errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from gennape.errors import ConfigError, InvalidArchitectureError, InvalidDataError, InvalidGraphError, ServiceError
from gennape.platform.serving.answers import OutOfTimeError, OverloadedError
from gennape.platform.serving.config import RequestLimits
from gennape.platform.serving.http.admission import Gate
from gennape.platform.serving.http.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from gennape.errors import GennapeError
    from gennape.platform.serving.answers import Answer
    from gennape.predictors.evaluation.scale import AccuracyScale
    from gennape.search_spaces.graphs.graph import PackedGraphs

MAX_MESSAGE = 500
INVALID = (InvalidArchitectureError, InvalidGraphError, InvalidDataError, ConfigError)


@dataclass
class HttpService:
    """One service over HTTP.

    ``ask`` predicts packed graphs. ``sha256``: the checkpoint that answered last. ``token``: None admits everyone.
    ``healthy``: whether the predictor answered the last time. ``scales``: the accuracy scale per SHA-256 of a
    checkpoint, which names the family that it was fine-tuned on.
    """

    ask: Callable[[PackedGraphs], Awaitable[Answer]]
    sha256: str
    limits: RequestLimits = field(default_factory=RequestLimits)
    token: str | None = field(default=None, repr=False)
    metrics: Metrics = field(default_factory=Metrics)
    healthy: bool = True
    scales: dict[str, AccuracyScale] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gate = Gate(self.limits.max_requests)

    def warning(self, sha256: str, family: str | None) -> str | None:
        """A warning if the checkpoint was fine-tuned on another family than that of the networks; else None."""
        scale = self.scales.get(sha256)
        return None if scale is None else scale.warning([family])

    def error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """The format of every error."""
        shown = message if len(message) <= MAX_MESSAGE else message[:MAX_MESSAGE] + " ..."
        # A request's JSON may contain a lone surrogate, which UTF-8 cannot encode.
        content = {"error": shown.encode("utf-8", "backslashreplace").decode(), "checkpoint": self.sha256}
        return JSONResponse(content, status, headers)

    def refusal(self, error: GennapeError) -> JSONResponse:
        """The HTTP answer for an error of gennape."""
        if isinstance(error, INVALID):
            return self.error(422, str(error))
        if isinstance(error, OutOfTimeError):
            return self.error(504, str(error))
        if isinstance(error, OverloadedError):
            self.metrics.refused()
            seconds = max(self.gate.retry_after_s, round(error.retry_after_s))
            return self.error(503, str(error), {"retry-after": str(seconds)})
        if isinstance(error, ServiceError):
            return self.error(503, str(error), {"retry-after": str(self.gate.retry_after_s)})
        return self.error(500, str(error))
