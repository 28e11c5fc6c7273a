"""sentence-transformers' CrossEncoder on torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from protocol import Prepare, serve, settings
from sentence_transformers import CrossEncoder


def make() -> tuple[Prepare, dict[str, Any]]:
    """Settings: `folder`, `queries`, `documents`. Requests name `batch`."""
    given = settings()
    model = CrossEncoder(given["folder"], device="cpu", local_files_only=True)
    queries = itertools.cycle(given["queries"])
    documents = given["documents"]

    def prepare(request: dict[str, Any]) -> Callable[[], object]:
        def work() -> object:
            query = next(queries)
            pairs = [(query, document) for document in documents]
            return model.predict(pairs, batch_size=request["batch"], show_progress_bar=False)

        return work

    tokens = model.tokenizer(given["queries"][0], documents[0])["input_ids"]
    return prepare, {"tokens": len(tokens)}


serve(make)
