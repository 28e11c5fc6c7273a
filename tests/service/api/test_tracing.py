from __future__ import annotations

from typing import Any

import anyio
import httpx
import pytest

from service.api.app import create_app
from service.live_search import LiveSearch
from service.settings import Settings
from service.tracing import Tracing

sdk = pytest.importorskip("opentelemetry.sdk.trace")

TEXT = "/v1/search/text"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def traced(settings: Settings, live: LiveSearch, *requests: tuple[str, str, Any]) -> list[Any]:
    """The spans that requests of method, path and JSON leave."""
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    provider = sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    app = create_app(settings, live)
    app.state.service.tracing = Tracing(provider)
    app.state.service.ready = True

    @app.get("/fails")
    async def fails() -> None:
        raise RuntimeError

    async def run() -> None:
        headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "X-Request-Id": "mine"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", headers=headers
        ) as client:
            for method, path, body in requests:
                await client.request(method, path, json=body)

    anyio.run(run)
    return list(spans.get_finished_spans())


@pytest.mark.parametrize("traces", [True, False])
def test_requests_are_traced_where_the_settings_say_so(
    traces: bool, settings: Settings, live: LiveSearch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    tracing = create_app(settings.model_copy(update={"traces": traces}), live).state.service.tracing
    assert (tracing is not None) == traces
    if tracing is not None:
        tracing.close()


def test_a_span_for_each_request_within_the_callers(settings: Settings, live: LiveSearch) -> None:
    search, wrong, failed = traced(
        settings,
        live,
        ("POST", TEXT, {"query": "secret wish"}),
        ("GET", "/v1/items/secret", None),
        ("GET", "/fails", None),
    )
    assert search.name == f"POST {TEXT}"
    assert f"{search.context.trace_id:032x}" == TRACE
    attributes = search.attributes
    assert attributes["http.response.status_code"] == 200
    assert attributes["fashionbert.request_id"] == "mine"
    assert attributes["fashionbert.cache"] == "miss"
    assert attributes["fashionbert.rerank_ms"] > 0
    assert wrong.name == "GET /v1/items/{item_id}"
    assert wrong.status.is_unset
    assert not failed.status.is_ok
    assert not failed.status.is_unset
    assert "secret" not in "".join(span.to_json() for span in (search, wrong, failed))
