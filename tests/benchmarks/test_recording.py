"""Passes recorded and made again."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.recording import RecordingSession, recording
from benchmarks.synthetic import states
from model.bundle import Bundle
from model.engine import Engine


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
