"""How figures are shown: tables, numbers, spreads, and what contenders are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

_NAMES = {
    "k0-fp32": "FashionBERT, k = 0, fp32",
    "khalf-fp32": "FashionBERT, k = 3, fp32",
    "khalf-int8": "FashionBERT, k = 3, int8",
    "small-fp32": "`small` as it ships (25 patches), fp32",
    "small-int8": "`small` as it ships (25 patches), int8",
    "sentence-transformers": "sentence-transformers CrossEncoder (torch)",
    "fastembed": "fastembed TextCrossEncoder (ONNX Runtime)",
    "bare-onnxruntime": "bare ONNX Runtime, fp32",
    "bare-onnxruntime-int8": "bare ONNX Runtime, dynamic int8",
    "ours-match": "FashionBERT `/v1/match`, int8",
    "ours-search": "FashionBERT `/v1/search/text`, int8",
    "infinity-onnx": "infinity `/rerank` (ONNX)",
    "infinity-torch": "infinity `/rerank` (torch)",
    "sessions": "the bare sessions, the same passes",
    "engine": "the engine (`encode_texts`, `match`)",
    "searcher": "the search in the process: recall, states, rerank, hits",
    "http": "the same over HTTP, one client",
    "http-empty": "an empty request over HTTP (`/healthz`)",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Three figures or so."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{value:,.{digits}f}"


def shown(spread: dict[str, Any]) -> str:
    """A median, and the range in brackets."""
    low, high = number(spread["low"]), number(spread["high"])
    return f"{number(spread['median'])} ({low}–{high})"


def name_of(name: str) -> str:
    """What a contender is called in a table."""
    return _NAMES.get(name, name)
