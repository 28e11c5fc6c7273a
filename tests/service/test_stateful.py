"""Two real servers on one folder against a plain dictionary of what must be found.

Products are put and deleted through either, alone and in batches; snapshots are built from three
feeds, published, rolled back, compacted and pruned; servers are restarted. After every step both
must find exactly what the dictionary has, by text and by picture, with today's texts: nothing
lost, nothing deleted comes back, nothing stale, from no cache either.
"""

from __future__ import annotations

import base64
import csv
import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from PIL import Image

from index.build import build, last_written
from index.compact import compact, prune_snapshots
from index.snapshot_folder import current, list_snapshots, make_current
from model.catalogue import read_catalogue
from model.engine import Engine
from model.product import Catalogue

COLOURS = ("red", "navy", "white")
NEVER = 3600.0  # seconds between two looks at the folder: the test says when

#: What products are called, by id.
Titles = dict[str, str]


def picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = {colour: picture(colour) for colour in COLOURS}


@pytest.fixture(scope="module")
def feeds(
    demo_catalogue: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Catalogue]]:
    """Three small feeds: some products, some of them with others, and the first with new texts."""
    with (demo_catalogue / "train.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:10]
    renamed = [{**row, "title": f"{row['title']} II"} for row in rows[:6]]
    folder = tmp_path_factory.mktemp("feeds")
    with ExitStack() as stack:
        catalogues = []
        for number, chosen in enumerate((rows[:6], rows[4:], renamed)):
            path = folder / f"{number}.csv"
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(chosen)
            feed = read_catalogue(path, images=demo_catalogue / "images.tar")
            catalogues.append(stack.enter_context(feed))
        yield catalogues


class Model:
    """What must be found: the snapshots that there are, and all writes in their order."""

    def __init__(self) -> None:
        self.snapshots: dict[str, tuple[Titles, int]] = {}
        self.writes: list[tuple[str, str | None]] = []

    def of(self, snapshot: str) -> Titles:
        """The products while a snapshot is served: its own, and on top the writes that it has not
        superseded."""
        own, superseded = self.snapshots[snapshot]
        titles = dict(own)
        for id, title in self.writes[superseded:]:
            titles.pop(id, None)
            if title is not None:
                titles[id] = title
        return titles


def test_both_servers_find_what_was_written(
    serve: Any, engine: Engine, feeds: list[Catalogue]
) -> None:
    ids = st.sampled_from([*(product.id for product in feeds[0].products[4:]), "a", "b/ü", "c"])
    numbers = st.integers(0, 2)
    operations = st.tuples(ids, st.none() | numbers)

    class Shop(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            self.root = Path(tempfile.mkdtemp())
            self.model = Model()
            self.build(0, supersede=False)
            self.open = [ExitStack(), ExitStack()]
            self.servers = [self.start(stack) for stack in self.open]

        def start(self, stack: ExitStack) -> Any:
            return stack.enter_context(serve(snapshots=self.root, watch=NEVER))

        def client(self, server: bool) -> httpx.Client:
            return self.servers[server].client

        def now(self) -> Titles:
            return self.model.of(current(self.root))

        @rule(feed=numbers, supersede=st.booleans())
        def build(self, feed: int, supersede: bool) -> None:
            before = current(self.root) if self.model.snapshots else None
            names = set(list_snapshots(self.root))
            written = last_written(self.root) if supersede else None
            made = build(feeds[feed], engine, self.root, progress=False, supersede=written).name
            if made not in names:
                superseded = len(self.model.writes)
                if not supersede:
                    superseded = 0 if before is None else self.model.snapshots[before][1]
                own = {product.id: product.title for product in feeds[feed].products}
                self.model.snapshots[made] = own, superseded

        @rule(server=st.booleans(), id=ids, number=numbers)
        def put(self, server: bool, id: str, number: int) -> None:
            known = id in self.now()
            answer = self.client(server).put(
                f"/v1/items/{quote(id, safe='')}", json=self.product(id, number)
            )
            assert answer.status_code == (200 if known else 201), answer.text
            self.model.writes.append((id, title(id, number)))

        @rule(server=st.booleans(), id=ids, number=numbers)
        def retitle(self, server: bool, id: str, number: int) -> None:
            """A put that keeps the pictures."""
            known = id in self.now()
            body = {"text": title(id, number)}
            answer = self.client(server).put(f"/v1/items/{quote(id, safe='')}", json=body)
            assert answer.status_code == (200 if known else 422), answer.text
            if known:
                self.model.writes.append((id, title(id, number)))

        @rule(server=st.booleans(), id=ids)
        def delete(self, server: bool, id: str) -> None:
            outcome = "deleted" if id in self.now() else "absent"
            answer = self.client(server).delete(f"/v1/items/{quote(id, safe='')}")
            assert (answer.status_code, answer.json()["outcome"]) == (200, outcome)
            self.model.writes.append((id, None))

        @rule(server=st.booleans(), batch=st.lists(operations, min_size=1, max_size=4))
        def batch(self, server: bool, batch: list[tuple[str, int | None]]) -> None:
            body = [
                {"op": "delete", "id": id}
                if number is None
                else {"op": "put", "id": id, **self.product(id, number)}
                for id, number in batch
            ]
            answer = self.client(server).post("/v1/items:batch", json=body)
            assert (answer.status_code, answer.json()["refused"]) == (200, 0), answer.text
            for id, number in batch:
                self.model.writes.append((id, None if number is None else title(id, number)))

        def product(self, id: str, number: int) -> dict[str, Any]:
            image = base64.b64encode(PICTURES[COLOURS[number]]).decode()
            return {"text": title(id, number), "images": [image]}

        @precondition(lambda self: self.now())
        @rule()
        def compact(self) -> None:
            own, (_, superseded) = self.now(), self.model.snapshots[current(self.root)]
            made = compact(self.root)
            if made is not None:
                self.model.snapshots[made.name] = own, superseded

        @rule(data=st.data())
        def publish(self, data: st.DataObject) -> None:
            make_current(self.root, data.draw(st.sampled_from(list_snapshots(self.root))))

        @rule(keep=st.integers(1, 3))
        def prune(self, keep: int) -> None:
            for server in self.servers:
                server.service.live.index.refresh()
            removed, _ = prune_snapshots(self.root, keep)
            for name in removed:
                del self.model.snapshots[name]

        @rule(server=st.booleans())
        def restart(self, server: bool) -> None:
            self.open[server].close()
            self.open[server] = ExitStack()
            if self.now():  # a service of nothing does not get ready
                self.servers[server] = self.start(self.open[server])

        @precondition(lambda self: hasattr(self, "servers"))
        @invariant()
        def both_find_it(self) -> None:
            expected = self.now()
            answers = []
            for server in self.servers:
                server.service.live.index.refresh()
                assert server.service.live.index.problem is None
                answers.append(found(server.client, expected))
            assert answers[0] == answers[1]
            written = [id for id, text in expected.items() if text.endswith(f"coat of {id}")]
            for id in sorted(written)[:1]:
                self.check_states(id, expected[id])

        def check_states(self, id: str, text: str) -> None:
            """What is stored of a product is what its text and its picture give."""
            client = self.client(True)
            image = client.get(f"/v1/items/{quote(id, safe='')}/image").content
            if image not in PICTURES.values():
                return  # the feed's: states are of the file, and what is served is smaller
            pairs = [
                {"text_item_id": id, "image_item_id": id},
                {"text": text, "image": base64.b64encode(image).decode()},
            ]
            scores = client.post("/v1/match", json={"pairs": pairs}).json()["scores"]
            assert scores[0]["score"] == pytest.approx(scores[1]["score"], abs=0.02)

        def teardown(self) -> None:
            if hasattr(self, "open"):
                for stack in self.open:
                    stack.close()
                shutil.rmtree(self.root)

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Shop,
        settings=settings(
            max_examples=6,
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def title(id: str, number: int) -> str:
    return f"{COLOURS[number]} coat of {id}"


def found(client: httpx.Client, expected: Titles) -> str:
    """Search both ways and look: exactly this is there. Returns the version that was answered."""
    searches = (
        ("/v1/search/text", {"query": "a red coat", "k": 200}),
        ("/v1/search/text", {"query": "a red coat", "k": 200, "rerank": False}),
        ("/v1/search/image", {"image": base64.b64encode(PICTURES["red"]).decode(), "k": 200}),
    )
    versions = set()
    for path, body in searches:
        answer = client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        hits = answer.json()["hits"]
        assert len(hits) == len({hit["id"] for hit in hits})
        assert {hit["id"]: hit["item"]["title"] for hit in hits} == expected
        versions.add(answer.json()["snapshot"])
    (version,) = versions
    return str(version)
