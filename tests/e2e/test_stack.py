"""The compose project as a shop's backend sees it, while things happen to its containers."""

from __future__ import annotations

import base64
import csv
import re
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml

from model.bundle import Bundle
from model.pretrained import pretrained

if TYPE_CHECKING:
    from tests.e2e.conftest import Run, Stack

ROOT = Path(__file__).parents[2]
MOST_SECONDS = 2.0  # from the answer to a write until every replica finds it

#: Puts a product through the first replica, deletes it through the last one. Prints the seconds
#: until all others found it, and until none does.
_WRITE = """
id, picture = arguments
product = {"title": id, "attributes": {}, "images": [picture]}

def finds(replica):
    search = {"query": "dress", "k": 100, "rerank": False}
    answer = replica.post("/v1/search/text", json=search)
    answer.raise_for_status()
    return any(hit["id"] == id for hit in answer.json()["hits"])

def seconds_until(wanted):
    start = time.monotonic()
    while any(finds(replica) != wanted for replica in replicas):
        assert time.monotonic() < start + 30, f"not in 30 s: found is {wanted}"
        time.sleep(0.02)
    return time.monotonic() - start

put = replicas[0].put(f"/v1/items/{id}", json=product, headers=admin)
assert put.status_code == 201, put.text
found = seconds_until(True)
deleted = replicas[-1].delete(f"/v1/items/{id}", headers=admin)
assert deleted.json()["outcome"] == "deleted", deleted.text
print(json.dumps([len(replicas), found, seconds_until(False)]))
"""

_REDIS_UP = """
def up(replica):
    lines = replica.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("fashionbert_redis_up"))

print(json.dumps([up(replica) for replica in replicas]))
"""


@pytest.fixture(scope="module")
def picture(demo_catalogue: Path) -> bytes:
    """A product's JPEG."""
    with tarfile.open(demo_catalogue / "images.tar") as tar:
        member = next(member for member in tar if member.name.endswith(".jpg"))
        file = tar.extractfile(member)
        assert file is not None
        return file.read()


def _written_through_one_is_found_through_all(stack: Stack, id: str, picture: bytes) -> None:
    replicas, found, gone = stack.python(_WRITE, id, base64.b64encode(picture).decode())
    assert replicas == len(stack.containers("api"))
    assert found <= MOST_SECONDS
    assert gone <= MOST_SECONDS


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker/tls.compose.yml"])
def test_no_port_is_open_to_others_unless_that_was_asked_for(file: str) -> None:
    services = yaml.safe_load((ROOT / file).read_text())["services"].values()
    ports = [port for service in services for port in service.get("ports", ())]
    assert ports
    # Callers without a key may search as long as nobody says else.
    assert [port for port in ports if not re.match(r"127\.|\$\{\w+:-127\.", port)] == []


def test_searches_both_ways(stack: Stack, picture: bytes) -> None:
    with httpx.Client(base_url=stack.address, timeout=60) as client:
        index = client.get("/v1/index").json()
        assert index["products"] == 32

        by_text = client.post("/v1/search/text", json={"query": "navy striped shirt", "k": 5})
        assert by_text.status_code == 200, by_text.text
        hits = by_text.json()["hits"]
        assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5]
        image = client.get(f"/v1/items/{hits[0]['id']}/image")
        assert image.headers["content-type"] == "image/jpeg"

        # The larger one is spooled to a file: the root is read-only, /tmp is not.
        for data in (picture, picture + bytes(3 << 20)):
            by_image = client.post(
                "/v1/search/image", files={"image": ("a.jpg", data)}, data={"k": "3"}
            )
            assert by_image.status_code == 200, by_image.text
            assert len(by_image.json()["hits"]) == 3


def test_what_the_balancer_lets_in(stack: Stack) -> None:
    with httpx.Client(base_url=stack.address, timeout=60) as client:
        for path in ("/metrics", "/%6detrics", "/metrics/"):
            hidden = client.get(path)
            assert (hidden.status_code, hidden.json()["code"]) == (404, "not_found"), path
        assert client.get("/v1/status").json()["status"] == "ready"
        assert client.put("/v1/items/x", json={"title": "x"}).status_code == 401
        given = client.get("/healthz", headers={"X-Request-Id": "from-outside"})
        assert given.headers["X-Request-Id"] == "from-outside"


def test_written_through_one_found_through_all(stack: Stack, picture: bytes) -> None:
    _written_through_one_is_found_through_all(stack, "new", picture)


def test_redis_is_killed(stack: Stack, command: Run, picture: bytes) -> None:
    (redis,) = stack.containers("redis")
    with stack.traffic() as traffic:
        traffic.more()
        assert command(stack.engine, "stop", "--time", "0", redis).returncode == 0
        traffic.more()
        stack.wait_until(lambda: not any(stack.python(_REDIS_UP)), "it is known to be down")
        _written_through_one_is_found_through_all(stack, "while-down", picture)
        assert command(stack.engine, "start", redis).returncode == 0
        stack.wait_until(lambda: all(stack.python(_REDIS_UP)), "it is known to be up")
        traffic.more()
        assert (traffic.failed, traffic.dropped) == ([], 0)
    _written_through_one_is_found_through_all(stack, "up-again", picture)


def test_an_api_container_is_killed(stack: Stack, command: Run, picture: bytes) -> None:
    victim = stack.containers("api")[-1]
    with stack.traffic() as traffic:
        traffic.more()
        assert command(stack.engine, "kill", "--signal", "KILL", victim).returncode == 0
        traffic.more(60)
        command(stack.engine, "start", victim)  # where its restart policy has not
        stack.wait_for_replicas(3)
        traffic.more()
        assert not traffic.failed
        assert traffic.dropped <= 2  # each thread's that was in the container's hands, at worst
    _written_through_one_is_found_through_all(stack, "with-a-new-one", picture)


def test_a_new_snapshot_goes_live(stack: Stack, shop: Path) -> None:
    feed = shop / "feed.csv"
    with feed.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    before = httpx.get(f"{stack.address}/v1/index").json()
    with feed.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([*rows[1:], {**rows[0], "id": "of-the-new-feed"}])

    with stack.traffic() as traffic:
        traffic.more()
        built = stack("run", "--rm", "--no-deps", "indexer")
        assert built.returncode == 0, built.stdout + built.stderr

        def shown() -> list[Any]:
            script = 'print(json.dumps([r.get("/v1/index").json()["snapshot"] for r in replicas]))'
            return [name.partition("+")[0] for name in stack.python(script)]

        new = f"{int(before['snapshot'].partition('+')[0]) + 1:08d}"
        stack.wait_until(lambda: shown() == [new] * 3, f"all replicas serve {new}")
        traffic.more()
        assert (traffic.failed, traffic.dropped) == ([], 0)
    assert httpx.get(f"{stack.address}/v1/items/of-the-new-feed").status_code == 200
    assert httpx.get(f"{stack.address}/v1/items/{rows[0]['id']}").status_code == 404


def test_up_again_keeps_the_snapshot(stack: Stack) -> None:
    before = httpx.get(f"{stack.address}/v1/index").json()
    down = stack("down", "--remove-orphans", "--timeout", "1")  # killed, if that is too soon
    assert down.returncode == 0, down.stderr
    stack.up("--scale", "api=3")
    stack.wait_for_replicas(3)
    assert httpx.get(f"{stack.address}/v1/index").json() == before


def test_as_it_stands_it_serves_the_demo_with_the_model_that_comes_along(
    new_stack: Callable[..., AbstractContextManager[Stack]],
) -> None:
    with new_stack(FASHIONBERT_KEYS="") as stack:
        index = httpx.get(f"{stack.address}/v1/index").json()
        assert index["products"] == 16
        assert index["model"] == Bundle.open(pretrained()).model_id
        search = {"query": "navy shirt"}
        found = httpx.post(f"{stack.address}/v1/search/text", json=search, timeout=60)
        assert found.status_code == 200, found.text
        assert found.json()["hits"][0]["id"].startswith("demo-024")
