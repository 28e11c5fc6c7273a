"""What a shop's backend sends, and what becomes of it."""

from __future__ import annotations

import asyncio
import base64
import io
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx
from PIL import Image

from benchmarks.soaking.judge import Answer, Judge, State, explained

#: Requests of each kind, of a hundred.
MIX = {"text": 66, "image": 14, "item": 10, "write": 8, "whole": 2}
COLOURS = ("red", "navy", "black", "beige", "green", "white", "pink", "grey")
GARMENTS = ("dress", "shirt", "coat", "skirt", "trousers", "jumper", "hat", "jacket")
WORDS = ("long", "striped", "cotton", "summer", "warm", "slim", "dotted", "wide", "silk", "short")
REPEATED = 0.2  # of the text searches, from a few that come again: a cache has them
REPLICA_SECONDS = 10.0  # in which a write must be found everywhere
CROWDED = 60  # requests under way at one replica: 8 are computed and 64 may wait
EVERYTHING = 1000  # most hits of one answer


def picture(rng: random.Random) -> bytes:
    """A small picture that was never sent before."""
    image = Image.new("RGB", (96, 128), tuple(rng.randrange(256) for _ in range(3)))
    image.paste(rng.choice(COLOURS), (rng.randrange(60), rng.randrange(60), 90, 120))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


@dataclass
class Outcome:
    """What became of the requests; times are milliseconds from when a request was due."""

    milliseconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    replica_milliseconds: list[float] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    unexplained: Counter[str] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)


class Traffic:
    """Requests to replicas, each judged.

    Args:
        addresses: of the replicas.
        judge: is told every answer.
        feed: the name of the feed that is served now.
        seed: for what is drawn.
    """

    def __init__(
        self, addresses: list[str], judge: Judge, feed: Callable[[], str], seed: int = 0
    ) -> None:
        limits = httpx.Limits(max_connections=400, max_keepalive_connections=64)
        self.clients = [
            httpx.AsyncClient(base_url=one, limits=limits, timeout=60, trust_env=False)
            for one in addresses
        ]
        self.judge = judge
        self.feed = feed
        self.rng = random.Random(seed)
        self.outcome = Outcome()
        self.under_way = [0] * len(addresses)
        self.pool = [f"soak-{number}" for number in range(60)]
        self.pool += sorted(judge.world.feeds[feed()])[:60]
        self.busy: set[str] = set()
        self.sent = 0

    async def close(self) -> None:
        """Close the connections."""
        for client in self.clients:
            await client.aclose()

    def draw(self) -> str:
        """The kind of the next request."""
        (kind,) = self.rng.choices(list(MIX), list(MIX.values()))
        return kind

    async def send(self, kind: str, due: float | None = None) -> None:
        """Send a request that was due at a time (of `time.perf_counter`), by default now."""
        due = time.perf_counter() if due is None else due
        self.sent += 1
        replica = self.sent % len(self.clients)
        acts: dict[str, Callable[[int], Awaitable[bool]]] = {
            "text": self._text,
            "image": self._image,
            "item": self._item,
            "write": self._write,
            "whole": self._whole,
        }
        if await acts[kind](replica):
            self.outcome.milliseconds[kind].append(1000 * (time.perf_counter() - due))

    async def _ask(self, replica: int, method: str, path: str, **given: Any) -> httpx.Response:
        """The answer; one that failed is counted, and one that never came is a 599."""
        crowded = self.under_way[replica] >= CROWDED
        self.under_way[replica] += 1
        try:
            answer = await self.clients[replica].request(method, path, **given)
        except httpx.HTTPError as error:
            self.outcome.unexplained[type(error).__name__] += 1
            return httpx.Response(599)
        finally:
            self.under_way[replica] -= 1
        if answer.status_code >= 500:
            self._count(answer, crowded)
        elif answer.status_code >= 400 and not (method == "GET" and answer.status_code == 404):
            self.outcome.failed[f"{answer.status_code} {_code(answer)}"] += 1
        return answer

    def _count(self, answer: httpx.Response, crowded: bool) -> None:
        status, code = answer.status_code, _code(answer)
        fine = explained(status, code, answer.headers.get("retry-after"), crowded=crowded)
        kind = self.outcome.explained if fine else self.outcome.unexplained
        kind[f"{status} {code}"] += 1

    async def _text(self, replica: int) -> bool:
        rng = random.Random(self.rng.randrange(8)) if self.rng.random() < REPEATED else self.rng
        words = [rng.choice(COLOURS), *rng.choices(WORDS, k=5), rng.choice(GARMENTS)]
        return await self._search(replica, "text", {"query": " ".join(words), "k": 10})

    async def _image(self, replica: int) -> bool:
        image = base64.b64encode(picture(self.rng)).decode()
        return await self._search(replica, "image", {"image": image, "k": 10})

    async def _whole(self, replica: int) -> bool:
        """All products there are, by text or by picture."""
        body: dict[str, Any] = {"k": EVERYTHING, "rerank": False}
        if self.rng.random() < 0.5:
            return await self._search(replica, "text", {"query": "a dress", **body}, whole=True)
        image = base64.b64encode(picture(self.rng)).decode()
        return await self._search(replica, "image", {"image": image, **body}, whole=True)

    async def _search(
        self, replica: int, kind: str, body: dict[str, Any], *, whole: bool = False
    ) -> bool:
        answer = await self._ask(replica, "POST", f"/v1/search/{kind}", json=body)
        if answer.status_code != 200:
            return False
        found = answer.json()
        if found["degraded"] is not None:
            self.outcome.degraded[found["degraded"]["reason"]] += 1
        titles = {hit["id"]: hit["item"]["title"] for hit in found["hits"]}
        self.judge.answer(Answer(found["snapshot"], titles, whole))
        return True

    async def _item(self, replica: int) -> bool:
        id = self.rng.choice(self.pool)
        answer = await self._ask(replica, "GET", address(id))
        return answer.status_code in (200, 404)

    async def _write(self, replica: int) -> bool:
        id = self.rng.choice([one for one in self.pool if one not in self.busy])
        self.busy.add(id)
        try:
            return await self._write_to(replica, id)
        finally:
            self.busy.discard(id)

    async def _write_to(self, replica: int, id: str) -> bool:
        state: State = None
        given: dict[str, Any] = {}
        if self.rng.random() < 0.7:
            state = f"{self.rng.choice(COLOURS)} {self.rng.choice(GARMENTS)} {self.sent}"
            image = base64.b64encode(picture(self.rng)).decode()
            given = {"json": {"text": state, "images": [image]}}
        write = self.judge.world.begin(id, state)
        answer = await self._ask(
            replica, "DELETE" if state is None else "PUT", address(id), **given
        )
        if answer.status_code not in (200, 201):
            if answer.status_code != 599:
                self.judge.world.undo(id, write)  # by name: nothing was written
            return False
        write.number = int(answer.json()["snapshot"].partition("+")[2])
        await self._look_for(replica, id, state)
        return True

    async def _look_for(self, replica: int, id: str, state: State) -> None:
        """At once where it was written, and within some seconds at the others."""
        here = await self._state(replica, id)
        if here is not None:
            self.judge.item(f"replica {replica}", id, here[0], {state})
        start = time.perf_counter()
        for other in range(len(self.clients)):
            if other == replica:
                continue
            while True:
                there = await self._state(other, id)
                spent = time.perf_counter() - start
                if (there is not None and there[0] == state) or spent > REPLICA_SECONDS:
                    break
                await asyncio.sleep(0.02)
            if there is not None:
                self.judge.item(f"replica {other} after {spent:.1f} s", id, there[0], {state})
            self.outcome.replica_milliseconds.append(1000 * spent)

    async def _state(self, replica: int, id: str) -> tuple[State] | None:
        """What a replica says of a product; None if it did not answer."""
        answer = await self._ask(replica, "GET", address(id))
        if answer.status_code == 404:
            return (None,)
        return (answer.json()["title"],) if answer.status_code == 200 else None

    async def sweep(self) -> None:
        """At the end, with nothing under way: every product at every replica, both ways."""
        feed = self.feed()
        for replica in range(len(self.clients)):
            for id in sorted(self.judge.world.ids(feed)):
                state = await self._state(replica, id)
                if state is not None:
                    allowed = self.judge.world.last(id, feed)
                    self.judge.item(f"replica {replica} at the end", id, state[0], allowed)
            for _ in range(4):
                await self._whole(replica)


def address(id: str) -> str:
    """An item's."""
    return f"/v1/items/{quote(id, safe='')}"


def _code(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["code"])
    except (ValueError, KeyError, TypeError):
        return "no problem document"


async def closed_loop(traffic: Traffic, clients: int, seconds: float) -> float:
    """Requests a second when so many clients each send their next when they have an answer."""
    done = 0
    start = time.perf_counter()

    async def client() -> None:
        nonlocal done
        while time.perf_counter() - start < seconds:
            await traffic.send(traffic.draw())
            done += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return done / (time.perf_counter() - start)


async def open_loop(traffic: Traffic, rate: float, seconds: float) -> int:
    """Send a request every 1 / `rate` seconds, whatever became of those before; how many."""
    start = time.perf_counter()
    sending: set[asyncio.Task[None]] = set()
    number = 0
    while (due := start + number / rate) < start + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(traffic.send(traffic.draw(), due))
        sending.add(task)
        task.add_done_callback(_finished(sending))
        number += 1
    await asyncio.gather(*sending)
    return number


def _finished(sending: set[asyncio.Task[None]]) -> Callable[[asyncio.Task[None]], None]:
    def finish(task: asyncio.Task[None]) -> None:
        if task.exception() is None:  # else `gather` raises it
            sending.discard(task)

    return finish
