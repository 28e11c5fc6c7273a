"""Passes recorded and made again."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.recording import Recording, RecordingMatcher, RecordingSession, Run, recording
from benchmarks.synthetic import states
from model.bundle import Bundle
from model.engine import Engine
from model.native import choice


@pytest.fixture
def watched(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose sessions remember."""
    monkeypatch.setattr(ort, "InferenceSession", RecordingSession)
    return Engine(bundle, threads=1)


def test_a_replay_computes_what_the_engine_did(watched: Engine) -> None:
    images = states(20, watched.patches, watched.hidden_size)
    texts = watched.encode_texts(["red dress"]).states
    with recording() as passes:
        logits = watched.match(texts, images)
    outputs = [output for run in passes.replay() for output in run if output.ndim == 1]
    assert len(passes.runs) > 0
    # Batches may go in any order, but every logit is there once.
    again = np.concatenate(outputs)
    np.testing.assert_allclose(np.sort(again)[-20:], np.sort(logits), rtol=1e-5)


@pytest.mark.usefixtures("compiled")
def test_passes_of_the_compiled_matcher_are_replayed_too(
    form_bundle: Callable[[str], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "NativeMatcher", RecordingMatcher)
    engine = Engine(form_bundle("split"), threads=1)
    assert engine.is_native
    texts = engine.encode_texts(["red dress"]).states
    images = states(50, engine.patches, engine.hidden_size)
    with recording() as passes:
        logits = engine.match(texts, images)
    again = np.concatenate([output for (output,) in passes.replay()])
    np.testing.assert_array_equal(np.sort(again), np.sort(logits))


def test_a_caller_that_ran_passes_does_so_again(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "InferenceSession", RecordingSession)
    engine = Engine(bundle, threads=2, native=False)
    texts = engine.encode_texts(["red dress"]).states
    images = states(300, engine.patches, engine.hidden_size)
    for _ in range(20):  # threads that are new may be there before their caller
        with recording() as passes:
            logits = engine.match(texts, images)
        if passes.own in {run.thread for run in passes.runs}:
            break
    assert passes.own in {run.thread for run in passes.runs}
    assert passes.at_once <= 2
    again = np.concatenate([logit for (logit,) in passes.replay()])
    np.testing.assert_allclose(np.sort(again), np.sort(logits), rtol=1e-5)


def test_nothing_is_recorded_outside(watched: Engine) -> None:
    with recording() as passes:
        watched.encode_texts(["red dress"])
    before = len(passes.runs)
    watched.encode_texts(["blue shirt"])
    assert len(passes.runs) == before > 0


def test_several_threads_replay_as_several(watched: Engine) -> None:
    from concurrent.futures import ThreadPoolExecutor

    texts = [["red dress"], ["blue shirt"], ["black hat"], ["white coat"]]
    with recording() as passes, ThreadPoolExecutor(2) as pool:
        list(pool.map(watched.encode_texts, texts))
    assert 1 <= passes.at_once <= 2
    assert len(passes.replay()) == len(passes.runs) == 4
    assert len(passes.replay(in_turn=False)) == 4


def test_no_more_are_made_again_at_a_time_than_there_were() -> None:
    """However many threads they were made by."""
    passes, again = Recording(), Recording()

    def work() -> None:
        with again.noting(work):
            time.sleep(0.002)

    spans = [(0, 2), (1, 3), (2.5, 4), (3.5, 5), (7, 8)]
    passes.runs = [Run(work, thread, *span) for thread, span in enumerate(spans)]
    assert passes.at_once == 2
    passes.replay()
    passes.runs[1].thread = passes.own
    passes.replay(in_turn=False)
    assert len(again.runs) == 2 * len(spans)
    assert again.at_once <= 2
