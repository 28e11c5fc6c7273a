from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

from index.snapshot import Snapshot
from model.bundle import Bundle
from model.engine import Engine
from model.states import QuantisedStates
from service.callers import AbandonedError, Caller, current_caller
from service.records import SearchLimits
from service.reranking import OVER_BUDGET, WINDOW, rerank_within, score
from service.search import Searcher


@pytest.fixture(scope="module")
def query(engine: Engine) -> QuantisedStates:
    return engine.encode_texts(["red dress"]).states


@pytest.fixture(scope="module")
def pictures(snapshot: Snapshot) -> QuantisedStates:
    return snapshot.image_states(np.arange(40))


def test_with_time_enough_it_is_the_engines_scores(
    engine: Engine, query: QuantisedStates, pictures: QuantisedStates
) -> None:
    wanted = engine.match(query, pictures)
    for deadline in (None, time.perf_counter() + 60):
        found = rerank_within(engine, query, pictures, 60, deadline)
        assert found.done.all()
        assert found.degraded is None
        np.testing.assert_allclose(found.logits, wanted, atol=1e-4)
    np.testing.assert_allclose(score(engine, query, pictures), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("seconds", "deadline", "degraded"), [(0.0, None, OVER_BUDGET), (60, 0.0, None)]
)
def test_whose_time_was_up(
    seconds: float,
    deadline: float | None,
    degraded: str | None,
    engine: Engine,
    query: QuantisedStates,
    pictures: QuantisedStates,
) -> None:
    """The service's own limit makes an answer worse than asked for, the caller's does not."""
    found = rerank_within(engine, query, pictures, seconds, deadline)
    assert not found.done.any()
    assert found.degraded == degraded


def test_the_services_limit_holds_for_longer_budgets(
    engine: Engine, query: QuantisedStates, pictures: QuantisedStates
) -> None:
    found = rerank_within(engine, query, pictures, 0.0, time.perf_counter() + 60)
    assert found.degraded == OVER_BUDGET


def test_a_caller_who_left_costs_nothing(
    engine: Engine, query: QuantisedStates, pictures: QuantisedStates
) -> None:
    who = Caller()
    before = current_caller.set(who)
    try:
        assert rerank_within(engine, query, pictures, 60).done.all()
        who.leave()
        with pytest.raises(AbandonedError):
            rerank_within(engine, query, pictures, 60)
        with pytest.raises(AbandonedError):
            score(engine, query, pictures)
    finally:
        current_caller.reset(before)


def test_what_was_not_reached_follows_in_recall_order(engine: Engine, snapshot: Snapshot) -> None:
    """The caller leaves no time but for some passes: a pass more is begun by each further one."""
    searcher = Searcher(engine, snapshot, SearchLimits(rerank_seconds=60))
    everything = len(snapshot)
    whole = searcher.search_text("red dress", k=everything, candidates=everything)
    assert whole.reranked == whole.candidates == everything
    scores = {hit.item.id: hit.score for hit in whole.hits}
    reached = set()
    for milliseconds in (0, 1, 2, 3, 5, 8, 12, 20, 40, 80, 160, 100_000):
        deadline = time.perf_counter() + milliseconds / 1000
        found = searcher.search_text("red dress", everything, everything, deadline=deadline)
        reached.add(found.reranked)
        assert found.degraded is None
        assert found.candidates == everything
        first, rest = found.hits[: found.reranked], found.hits[found.reranked :]
        assert all(hit.score is not None for hit in first)
        assert all(hit.score is None for hit in rest)
        assert [h.score for h in first] == sorted((scores_of(h) for h in first), reverse=True)
        ranks = [hit.recall_rank for hit in rest]
        assert ranks == sorted(ranks)
        for hit in first:
            assert scores_of(hit) <= scores_of_id(scores, hit.item.id) + 1e-4
        assert {hit.item.id for hit in found.hits} == set(snapshot.ids)
    assert {0, everything} <= reached


def test_within_a_budget_the_best_are_not_passed_by_those_of_shorter_texts(
    bundle: Bundle, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the clock takes a second, so that some passes are done in time."""
    engine = Engine(bundle, threads=1)
    longest_first = np.argsort(-snapshot.text_lengths)
    texts, picture = snapshot.text_states(longest_first), snapshot.image_states([0])
    engine.match_tokens = 4 * (int(texts.lengths.max()) + engine.patches)
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    found = rerank_within(engine, texts, picture, 1000, time.perf_counter() + 15)
    assert 0 < found.done.sum() < WINDOW
    assert found.done[:WINDOW].sum() == found.done.sum()


def scores_of(hit: object) -> float:
    value = getattr(hit, "score", None)
    assert isinstance(value, float)
    return value


def scores_of_id(scores: dict[str, float | None], id: str) -> float:
    value = scores[id]
    assert value is not None
    return value


def test_searches_that_are_abandoned_leave_the_engine_free(
    engine: Engine, snapshot: Snapshot, query: QuantisedStates, pictures: QuantisedStates
) -> None:
    searcher = Searcher(engine, snapshot, SearchLimits(max_candidates=1000))
    errors: list[BaseException] = []

    def search(who: Caller) -> None:
        current_caller.set(who)
        try:
            searcher.search_text("coat", candidates=len(snapshot))
        except AbandonedError as error:
            errors.append(error)

    callers = [Caller(gone=True) for _ in range(8)]
    threads = [threading.Thread(target=search, args=(who,)) for who in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 8
    assert engine.passes.waiting == 0
    assert len(engine.match(query, pictures)) == 40
