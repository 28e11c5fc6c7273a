"""fastembed's TextCrossEncoder on the cross-encoder's ONNX export."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from fastembed.common.model_description import ModelSource
from fastembed.rerank.cross_encoder import TextCrossEncoder
from protocol import Prepare, serve, settings


def make() -> tuple[Prepare, dict[str, Any]]:
    """Settings: `folder`, `queries`, `documents`. Requests name `batch`."""
    given = settings()
    name = "local/cross-encoder"
    TextCrossEncoder.add_custom_model(
        model=name, sources=ModelSource(hf=name), model_file="model.onnx"
    )
    model = TextCrossEncoder(name, specific_model_path=given["folder"], cuda=False)
    queries = itertools.cycle(given["queries"])
    documents = given["documents"]

    def prepare(request: dict[str, Any]) -> Callable[[], object]:
        def work() -> object:
            return list(model.rerank(next(queries), documents, batch_size=request["batch"]))

        return work

    pair = (given["queries"][0], documents[0])
    return prepare, {"tokens": model.token_count([pair])}


serve(make)
