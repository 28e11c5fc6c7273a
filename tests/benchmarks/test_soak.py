"""The soak's judge: it must see what is wrong, and only that."""

from __future__ import annotations

import pytest

from benchmarks import soak
from benchmarks.soaking.judge import Answer, Judge, Snapshot, World, explained, parse_version

FEEDS = {"a": {"1": "red", "2": "blue"}, "b": {"1": "red II", "3": "green"}}


@pytest.fixture
def judge() -> Judge:
    world = World(FEEDS)
    world.snapshots = {"00000001": Snapshot("a", 0), "00000002": Snapshot("b", 3)}
    return Judge(world)


def write(judge: Judge, id: str, state: str | None, number: int | None) -> None:
    judge.world.begin(id, state).number = number


def complaints(judge: Judge, version: str, titles: dict[str, str], *, whole: bool = True) -> int:
    before = len(judge.wrong), len(judge.lost)
    judge.answer(Answer(version, titles, whole))
    return len(judge.wrong) - before[0] + len(judge.lost) - before[1]


def test_versions(judge: Judge) -> None:
    snapshots = judge.world.snapshots
    assert parse_version("00000001+57", snapshots) == ("a", 57)
    assert parse_version("00000002", snapshots) == ("b", 3)
    assert parse_version("00000009+1", snapshots) is None
    with pytest.raises(ValueError, match="no version"):
        parse_version("00000001+x", snapshots)


def test_what_the_feed_says(judge: Judge) -> None:
    assert complaints(judge, "00000001", {"1": "red", "2": "blue"}) == 0
    assert complaints(judge, "00000002", {"1": "red II", "3": "green"}) == 0
    assert (judge.wrong, judge.lost, judge.judged["whole"]) == ([], [], 2)


def test_a_mixed_answer(judge: Judge) -> None:
    assert complaints(judge, "00000001", {"1": "red II", "2": "blue"}) == 1
    assert complaints(judge, "00000001", {"1": "red", "2": "blue", "3": "green"}) == 1
    assert len(judge.wrong) == 2
    assert "not 'red'" in judge.wrong[0]
    assert "not deleted" in judge.wrong[1]


def test_a_deleted_product_that_appears(judge: Judge) -> None:
    write(judge, "1", None, 1)
    assert complaints(judge, "00000001", {"1": "red", "2": "blue"}) == 0  # before it
    assert complaints(judge, "00000001+1", {"2": "blue"}) == 0
    assert complaints(judge, "00000001+1", {"1": "red"}, whole=False) == 1
    assert complaints(judge, "00000002+4", {"1": "red II", "3": "green"}) == 1  # nor elsewhere


def test_a_stale_text_and_one_from_the_future(judge: Judge) -> None:
    write(judge, "2", "navy", 5)
    write(judge, "2", "black", 8)
    for version, title, wrong in (
        ("00000001+4", "blue", 0),
        ("00000001+5", "navy", 0),
        ("00000001+7", "blue", 1),
        ("00000001+7", "black", 1),
        ("00000001+8", "black", 0),
        ("00000002+9", "navy", 1),
    ):
        assert complaints(judge, version, {"2": title}, whole=False) == wrong, (version, title)


def test_a_lost_write(judge: Judge) -> None:
    write(judge, "new", "hat", 2)
    assert complaints(judge, "00000001+1", {"1": "red", "2": "blue"}) == 0
    assert complaints(judge, "00000001+2", {"1": "red", "2": "blue", "new": "hat"}) == 0
    assert complaints(judge, "00000001+2", {"1": "red", "2": "blue"}) == 1
    assert complaints(judge, "00000001+2", {"1": "red"}, whole=False) == 0  # not all was asked for
    assert "new is not found" in judge.lost[0]


def test_a_write_without_an_answer_may_have_happened_or_not(judge: Judge) -> None:
    unanswered = judge.world.begin("1", "crimson")
    assert judge.world.last("1", "a") == {"red", "crimson"}
    assert complaints(judge, "00000001+3", {"1": "red", "2": "blue"}) == 0
    assert complaints(judge, "00000001+3", {"1": "crimson", "2": "blue"}) == 0
    assert complaints(judge, "00000001+3", {"1": "pink", "2": "blue"}) == 1
    write(judge, "1", None, 4)  # the one after it counts, whatever became of it
    assert complaints(judge, "00000001+4", {"1": "crimson", "2": "blue"}) == 1
    judge.world.undo("1", unanswered)
    assert complaints(judge, "00000001+3", {"1": "crimson", "2": "blue"}) == 1


def test_an_answer_of_a_snapshot_that_is_not_known_yet(judge: Judge) -> None:
    judge.answer(Answer("00000003+2", {"1": "red"}))
    judge.answer(Answer("00000004", {"1": "red"}))
    assert judge.judged.total() == 0
    judge.known("00000003", Snapshot("b", 2))
    assert len(judge.wrong) == 1
    judge.close()
    assert "00000004 is no snapshot that was made" in judge.wrong[1]


def test_what_a_replica_says_of_one_product(judge: Judge) -> None:
    assert judge.item("one", "1", "red", {"red"})
    assert judge.item("one", "1", None, {"red", None})
    assert not judge.item("one", "1", None, {"red"})
    assert not judge.item("two", "1", "red", {None})
    assert (len(judge.lost), len(judge.wrong)) == (1, 1)


@pytest.mark.parametrize(
    ("status", "code", "retry_after", "crowded", "fine"),
    [
        (503, "overloaded", "1", True, True),
        (503, "overloaded", "1", False, False),
        (503, "overloaded", None, True, False),
        (503, "write_busy", "1", True, False),
        (500, "internal", "1", True, False),
    ],
)
def test_which_failures_are_explained(
    status: int, code: str, retry_after: str | None, crowded: bool, fine: bool
) -> None:
    assert explained(status, code, retry_after, crowded=crowded) == fine


def test_memory_is_flat_or_grows() -> None:
    flat = [{"one": 100.0 + number % 3} for number in range(60)]
    assert abs(soak.growth(flat)["one"]["percent"]) < 2
    leaking = [{"one": 100.0 + number} for number in range(60)]
    assert soak.growth(leaking)["one"]["percent"] > 20


def test_the_summary_says_whether_it_held() -> None:
    found = {
        "minutes": 1.0,
        "share": 0.8,
        "capacity_per_second": 10.0,
        "offered_per_second": 8.0,
        "requests": 480,
        "milliseconds": {"text": {"p50": 9.0, "p95": 20.0, "p99": 30.0, "n": 400}},
        "replica_milliseconds": None,
        "judged": {"hits": 400},
        "wrong": 0,
        "lost": 0,
        "failed_events": [],
        "failed": {},
        "explained": {"503 overloaded": 2},
        "unexplained": {},
        "degraded": {},
        "events": {"compact": 2},
        "growth": {"one": {"first": 100.0, "last": 101.0, "percent": 1.0}},
    }
    assert "**held**" in soak.summary(found)
    assert "| text | 400 | 9.0 | 20.0 | 30.0 |" in soak.summary(found)
    assert "**not held**" in soak.summary({**found, "lost": 1})
    assert "**not held**" in soak.summary({**found, "unexplained": {"500 internal": 1}})
