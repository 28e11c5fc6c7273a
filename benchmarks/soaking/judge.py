"""What must be found, and whether an answer is it.

Every write that was answered for has a number, and every answer names the version it is of:
`00000003+57` is snapshot 3 with the writes up to number 57. So of each product it is known, exactly
and without a clock, what an answer of that version must say: what its last write up to then said,
or else the feed that the snapshot comes from. Only a write whose answer is not there (yet) may have
happened or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: A product's title; None where it is not there.
State = str | None


@dataclass(slots=True)
class Write:
    """A write to one product: what it says, and its number once that was answered."""

    state: State
    number: int | None = None


@dataclass(slots=True)
class Snapshot:
    """Which feed a snapshot comes from, and the last write that it holds."""

    feed: str
    folded: int


def parse_version(version: str, snapshots: Mapping[str, Snapshot]) -> tuple[str, int] | None:
    """The feed and the number of the last write of a version; None if it is of an unknown snapshot.

    Raises:
        ValueError: it is no version.
    """
    name, plus, number = version.partition("+")
    if plus and not number.isdecimal():
        raise ValueError(f"{version!r} is no version")
    snapshot = snapshots.get(name)
    if snapshot is None:
        return None
    return snapshot.feed, int(number) if plus else snapshot.folded


@dataclass
class World:
    """The catalogue as it must be.

    Args:
        feeds: the titles by id of each feed.
    """

    feeds: Mapping[str, Mapping[str, str]]
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    writes: dict[str, list[Write]] = field(default_factory=dict)

    def begin(self, id: str, state: State) -> Write:
        """A write is sent. Of one product, only one at a time."""
        write = Write(state)
        self.writes.setdefault(id, []).append(write)
        return write

    def undo(self, id: str, write: Write) -> None:
        """A write was refused: it did not happen."""
        self.writes[id].remove(write)

    def may_be(self, id: str, feed: str, number: int) -> set[State]:
        """What a product may be in a version: one state, and more where a write is unanswered."""
        states: set[State] = {self.feeds[feed].get(id)}
        for write in self.writes.get(id, ()):
            if write.number is None:
                states.add(write.state)
            elif write.number <= number:
                states = {write.state}
        return states

    def last(self, id: str, feed: str) -> set[State]:
        """What a product may be now."""
        return self.may_be(id, feed, 1 << 62)

    def ids(self, feed: str) -> set[str]:
        """Every product that there may be."""
        return set(self.feeds[feed]) | set(self.writes)


@dataclass(frozen=True, slots=True)
class Answer:
    """A search's answer: the version, and the titles by id; `whole` if everything was asked for."""

    version: str
    titles: Mapping[str, str]
    whole: bool = False


@dataclass
class Judge:
    """Counts what is wrong. `wrong` and `lost` must stay empty.

    `wrong`: a deleted product that appears, a text of another version, one version's answer with
    another's products. `lost`: what was answered for and is not found.
    """

    world: World
    judged: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    waiting: list[Answer] = field(default_factory=list)

    def answer(self, answer: Answer) -> None:
        """Judge an answer, now or once its snapshot is known: a new one may be served before the
        command that made it has said so."""
        version = parse_version(answer.version, self.world.snapshots)
        if version is None:
            self.waiting.append(answer)
            return
        feed, number = version
        self.judged["whole" if answer.whole else "hits"] += 1
        for id, title in answer.titles.items():
            allowed = self.world.may_be(id, feed, number)
            if title not in allowed:
                self.wrong.append(f"{answer.version}: {id} is {title!r}, not {_shown(allowed)}")
        if not answer.whole:
            return
        for id in self.world.ids(feed) - set(answer.titles):
            allowed = self.world.may_be(id, feed, number)
            if None not in allowed:
                self.lost.append(f"{answer.version}: {id} is not found, though {_shown(allowed)}")

    def item(self, where: str, id: str, state: State, allowed: Iterable[State]) -> bool:
        """Judge what a replica says of one product; False if it is not what is allowed."""
        self.judged["items"] += 1
        if state in set(allowed):
            return True
        kind = self.lost if state is None else self.wrong
        kind.append(f"{where}: {id} is {state!r}, not {_shown(allowed)}")
        return False

    def known(self, name: str, snapshot: Snapshot) -> None:
        """A snapshot is there: judge the answers that waited for it."""
        self.world.snapshots[name] = snapshot
        waiting, self.waiting = self.waiting, []
        for answer in waiting:
            self.answer(answer)

    def close(self) -> None:
        """No further snapshot will come: answers of unknown ones are wrong."""
        self.wrong += [f"{each.version} is no snapshot that was made" for each in self.waiting]
        self.waiting = []


def _shown(states: Iterable[State]) -> str:
    return " or ".join(sorted("deleted" if each is None else repr(each) for each in states))


def explained(status: int, code: str, retry_after: str | None, *, crowded: bool) -> bool:
    """Whether a 5xx is one that may be: sent away, by name and with a time, when there was more
    under way than the service takes."""
    return status == 503 and code == "overloaded" and retry_after is not None and crowded
