"""ONNX Runtime alone on the cross-encoder's graph: token ids in, logits out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
from protocol import Prepare, serve, settings


def make() -> tuple[Prepare, dict[str, Any]]:
    """Settings: `model`, `candidates`, `tokens` of a pair. Requests name `batch`."""
    given = settings()
    session = ort.InferenceSession(given["model"], providers=["CPUExecutionProvider"])
    shape = (given["candidates"], given["tokens"])
    rng = np.random.default_rng(0)
    ids = rng.integers(5, given["vocabulary"], shape, dtype=np.int64)
    types = np.zeros(shape, dtype=np.int64)
    types[:, given["query_tokens"] :] = 1
    ones = np.ones(shape, dtype=np.int64)

    def prepare(request: dict[str, Any]) -> Callable[[], object]:
        rows = [slice(at, at + request["batch"]) for at in range(0, shape[0], request["batch"])]
        feeds = [
            {"input_ids": ids[row], "attention_mask": ones[row], "token_type_ids": types[row]}
            for row in rows
        ]

        def work() -> object:
            return [session.run(None, feed) for feed in feeds]

        return work

    return prepare, {"tokens": shape[1], "onnxruntime": ort.__version__}


serve(make)
