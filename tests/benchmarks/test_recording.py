"""Passes recorded and made again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.recording import RecordingMatcher, RecordingSession, recording
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
    with recording() as passes:
        logits = engine.match(texts, images)
    threads = {run.thread for run in passes.runs}
    assert passes.own in threads
    assert len(threads) == passes.helpers + 1
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
    assert 1 <= passes.helpers <= 2
    assert len(passes.replay()) == len(passes.runs) == 4
