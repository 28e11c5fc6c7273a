"""Prometheus over the running stack, with the rules and the dashboard of docker/."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

if TYPE_CHECKING:
    from tests.e2e.conftest import HasImage, Run, Stack

DOCKER = Path(__file__).parents[2] / "docker"
OPERATIONS = DOCKER.parent / "docs" / "OPERATIONS.md"
IMAGE = "docker.io/prom/prometheus:latest"


def _rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())["groups"]
    return list(group["rules"])


def _panels() -> list[dict[str, Any]]:
    dashboard = DOCKER / "grafana" / "dashboards" / "fashionbert.json"
    return list(json.loads(dashboard.read_text())["panels"])


def _expressions() -> list[str]:
    shown = [target["expr"] for panel in _panels() for target in panel["targets"]]
    # Grafana puts four scrapes in place of it.
    return [expr.replace("$__rate_interval", "40s") for expr in shown]


def test_every_alert_is_explained() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    assert re.findall(r"^\| `(FashionBert\w+)` \|", text, re.MULTILINE) == [
        rule["alert"] for rule in _rules()
    ]


def test_the_dashboard_asks_the_source_that_is_provisioned() -> None:
    provisioned = yaml.safe_load((DOCKER / "grafana/datasources/prometheus.yml").read_text())
    uids = {source["uid"] for source in provisioned["datasources"]}
    assert {panel["datasource"]["uid"] for panel in _panels()} == uids
    assert len({panel["id"] for panel in _panels()}) == len(_panels())


def test_alerts_go_off_when_they_should(engine: str, has_image: HasImage, command: Run) -> None:
    if not has_image(IMAGE):
        pytest.skip(f"{engine} cannot get the image {IMAGE}")
    ran = command(
        *(engine, "run", "--rm", "--entrypoint=promtool"),
        *(f"--volume={DOCKER}/prometheus:/rules:ro", f"--volume={Path(__file__).parent}:/tests:ro"),
        *(IMAGE, "test", "rules", "/tests/alerts.yml"),
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def prometheus(stack: Stack, has_image: HasImage) -> Iterator[httpx.Client]:
    """Prometheus beside the stack, when it has seen all there is to see."""
    if not has_image(IMAGE):
        pytest.skip(f"{stack.engine} cannot get the image {IMAGE}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stack.env["FASHIONBERT_PROMETHEUS_PORT"] = str(port)
    up = stack("--profile", "monitoring", "up", "-d", "--no-deps", "prometheus")
    assert up.returncode == 0, up.stderr

    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=60) as client:

        def sees_all() -> bool:
            try:
                if client.get(f"http://127.0.0.1:{port}/-/ready").status_code != 200:
                    return False  # it listens, and is not there yet
                return len(query(client, "up == 1")) == 4
            except httpx.TransportError:
                return False

        stack.wait_until(sees_all, "Prometheus sees three api containers and the balancer")
        yield client


def query(prometheus: httpx.Client, expression: str) -> list[dict[str, Any]]:
    answer = prometheus.get("/query", params={"query": expression})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"]["result"])


def test_every_replica_is_read(prometheus: httpx.Client, stack: Stack) -> None:
    ready = query(prometheus, "fashionbert_ready")
    assert [each["value"][1] for each in ready] == ["1"] * 3
    assert len({each["metric"]["instance"] for each in ready}) == 3
    servers = query(prometheus, 'haproxy_backend_active_servers{proxy="api"}')
    assert [each["value"][1] for each in servers] == ["3"]


def test_rules_and_dashboard_can_be_asked(prometheus: httpx.Client, stack: Stack) -> None:
    with stack.traffic() as traffic:
        traffic.more()
    for expression in [*_expressions(), *(rule["expr"] for rule in _rules())]:
        query(prometheus, expression)  # PromQL that is not valid is a 400

    names = stack.python(
        """
lines = replicas[0].get("/metrics").text.splitlines()
print(json.dumps([line.split()[2] for line in lines if line.startswith("# TYPE")]))
"""
    )
    asked = {
        name
        for expression in [*_expressions(), *(rule["expr"] for rule in _rules())]
        for name in re.findall(r"\b(?:fashionbert|process)_\w+", expression)
    }
    assert len(asked) > 20
    assert {re.sub("_(bucket|count|sum)$", "", name) for name in asked} <= set(names)


def test_no_alert_while_all_is_well(prometheus: httpx.Client) -> None:
    rules = prometheus.get("/rules").json()["data"]["groups"][0]["rules"]
    assert [rule["name"] for rule in rules] == [rule["alert"] for rule in _rules()]
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    alerts = prometheus.get("/alerts").json()["data"]["alerts"]
    # One may be pending: at the start there is no replica that was ever scraped.
    firing = [each for each in alerts if each["state"] == "firing"]
    assert [each for each in firing if each["labels"]["severity"] == "critical"] == []
