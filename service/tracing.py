"""OpenTelemetry traces: one span a request, where the extra `otel` is installed and asked for.

Where spans go, and under which name, is said with OpenTelemetry's own variables, `OTEL_…`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from model.errors import FashionBertError
from service.logs import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_SERVER_ERROR = 500


class Tracing:
    """Makes the spans. Those of a caller that sends `traceparent` are within the caller's.

    Args:
        provider: of OpenTelemetry; by default one that exports over OTLP and HTTP.

    Raises:
        FashionBertError: OpenTelemetry is not installed.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        try:
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

            self._provider = provider or _exporting()
        except ImportError as error:
            raise FashionBertError(
                "FASHIONBERT_TRACES is set, but OpenTelemetry is not installed: pip install "
                "'fashionbert[otel]', or unset it",
                code="settings",
            ) from error
        self._tracer = self._provider.get_tracer("fashionbert")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def request(self, headers: Mapping[str, str], record: RequestRecord) -> Iterator[Any]:
        """A request's span; `describe` it before the block ends."""
        from opentelemetry.trace import SpanKind

        with self._tracer.start_as_current_span(
            "request",
            self._propagator.extract(headers),
            SpanKind.SERVER,
            {"fashionbert.request_id": record.id},
        ) as span:
            yield span

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


def describe(span: Any, method: str, route: str, status: int, record: RequestRecord) -> None:
    """Name a request's span, and say how it went: by OpenTelemetry's names for HTTP, and stages."""
    from opentelemetry.trace import StatusCode

    span.update_name(f"{method} {route}")
    attributes = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
        "fashionbert.cache": record.cache,
        "fashionbert.degraded": record.degraded,
        **{f"fashionbert.{stage}_ms": spent for stage, spent in record.timings.items()},
    }
    span.set_attributes({name: value for name, value in attributes.items() if value is not None})
    if status >= _SERVER_ERROR:
        span.set_status(StatusCode.ERROR)


def _exporting() -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = Resource({SERVICE_NAME: "fashionbert"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
