"""Smoothing that the values take over, on a real export."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from model.bundle import Bundle
from model.eight_bit import exact_8_bit
from model.fuse import fuse
from model.graphs import GRAPHS, Feeds, Graphs
from model.onnx_graph import Graph, products
from model.quantise_products import Range, activation_ranges, quantise_products
from model.samples import noise
from model.smooth_values import smooth_values


@pytest.fixture(scope="module")
def feeds(bundle: Bundle) -> dict[str, list[Feeds]]:
    return Graphs(bundle).feeds(noise(bundle.manifest.image_size, 3))


def run(model: ModelProto, feeds: Feeds) -> list[NDArray[Any]]:
    options = ort.SessionOptions()
    exact_8_bit(options)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs: list[NDArray[Any]] = session.run(None, feeds)
    return outputs


def fused(bundle: Bundle, name: str, feeds: list[Feeds]) -> tuple[ModelProto, dict[str, Range]]:
    model = fuse(onnx.load(str(bundle.path / f"{name}.onnx")), "cpu")
    sources = {node.input[0] for node in products(Graph(model), bundle.manifest.hidden_size)}
    return model, activation_ranges(model, sources, feeds)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graph_computes_the_same_with_fewer_operations(
    bundle: Bundle, feeds: dict[str, list[Feeds]], name: str
) -> None:
    width = bundle.manifest.hidden_size
    model, ranges = fused(bundle, name, feeds[name])
    smoothed, new_ranges = smooth_values(copy.deepcopy(model), width, ranges)
    attentions = Counter(node.op_type for node in model.graph.node)["Attention"]
    changed = [one for one in ranges if not np.array_equal(ranges[one], new_ranges[one])]
    assert len(changed) == attentions > 0
    for sample in feeds[name]:
        for ours, theirs in zip(run(smoothed, sample), run(model, sample), strict=True):
            assert np.abs(ours - theirs).max() <= 1e-5
    before, after = (
        Counter(node.op_type for node in quantise_products(one, width, bounds).graph.node)["Mul"]
        for one, bounds in ((model, ranges), (smoothed, new_ranges))
    )
    assert before - after == attentions


def test_the_ranges_are_those_of_the_new_graph(
    bundle: Bundle, feeds: dict[str, list[Feeds]]
) -> None:
    model, ranges = fused(bundle, "matcher", feeds["matcher"])
    smoothed, new_ranges = smooth_values(model, bundle.manifest.hidden_size, ranges)
    measured = activation_ranges(smoothed, ranges, feeds["matcher"])
    for name, bounds in measured.items():
        np.testing.assert_allclose(bounds, new_ranges[name], rtol=1e-3, atol=1e-5)


def test_without_ranges_nothing_changes(bundle: Bundle) -> None:
    model = fuse(onnx.load(str(bundle.path / "matcher.onnx")), "cpu")
    before = model.SerializeToString()
    unchanged, ranges = smooth_values(model, bundle.manifest.hidden_size, {})
    assert ranges == {}
    assert unchanged.SerializeToString() == before
