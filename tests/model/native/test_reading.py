from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from model.bundle import Bundle
from model.native.reading import UnknownGraphError, read_matcher

Bundles = Callable[[str], Bundle]


def test_the_parts_of_each_form(form_bundle: Bundles, form: str) -> None:
    bundle = form_bundle(form)
    weights = read_matcher(bundle.path / "matcher.onnx")
    config = bundle.manifest.config
    hidden = config["hidden_size"]
    assert weights.hidden == hidden
    assert weights.heads == config["num_attention_heads"]
    assert len(weights.layers) == config["num_hidden_layers"] - config["joint_from"]
    assert weights.keys.shape == (weights.heads, hidden // weights.heads, hidden)
    assert weights.pooler.shape == (hidden, hidden)
    assert weights.classifier.shape == weights.value_bias.shape == (hidden,)
    recall, alignment = weights.recall, weights.alignment
    assert (recall is None) == (not config["stack_recall"])
    assert (alignment is None) == (not config["alignment_size"])
    if recall is not None:
        assert form == "released" or recall.weight == pytest.approx(2.0)
        assert recall.text.shape == recall.image.shape == (hidden, config["recall_size"])
        assert not np.array_equal(recall.text, recall.image)
    if alignment is not None:
        assert form == "released" or alignment.weight == pytest.approx(3.0)
        assert alignment.salience is not None
        assert alignment.salience.shape == (hidden,)


def test_channels_that_are_apart(form_bundle: Bundles) -> None:
    weights = read_matcher(form_bundle("released").path / "matcher.onnx")
    products = [product for layer in weights.layers for product in layer.products]
    output = products[3]
    for product in products:
        assert product.weight.dtype == np.int8
        assert product.rounding is not None
        assert bool(product.rounding.apart.size) == (product is output)
    assert output.rounding is not None
    assert not output.weight[output.rounding.apart].any()
    assert output.rounding.apart_rows.any()


def test_an_fp32_graph_has_its_own_matrices(form_bundle: Bundles) -> None:
    weights = read_matcher(form_bundle("aligned, fp32").path / "matcher.onnx")
    for layer in weights.layers:
        for product in layer.products:
            assert product.weight.dtype == np.float32
            assert product.rounding is None
            assert product.bias.shape == product.weight.shape[1:]


def test_a_graph_that_is_not_fused_is_not_one(bundle: Bundle) -> None:
    with pytest.raises(UnknownGraphError, match="large products"):
        read_matcher(bundle.path / "matcher.onnx")


def test_a_graph_that_measures_its_inputs_is_not_one(form_bundle: Bundles) -> None:
    """int8 without a calibration."""

    def measured(model: ModelProto) -> None:
        node = first(model, "QuantizeLinear")
        node.CopyFrom(helper.make_node("DynamicQuantizeLinear", node.input[:1], node.output))

    refuse(form_bundle, measured, "does not come of QuantizeLinear")


def first(model: ModelProto, kind: str) -> NodeProto:
    return next(node for node in model.graph.node if node.op_type == kind)


def refuse(form_bundle: Bundles, change: Callable[[ModelProto], None], told: str) -> None:
    source = form_bundle("aligned").path / "matcher.onnx"
    model = onnx.load(str(source))
    change(model)
    changed = source.with_name("changed.onnx")
    onnx.save(model, str(changed))
    try:
        with pytest.raises(UnknownGraphError, match=told):
            read_matcher(changed)
    finally:
        changed.unlink()


def test_another_scale_of_attention_is_refused(form_bundle: Bundles) -> None:
    def scaled(model: ModelProto) -> None:
        for attribute in first(model, "Attention").attribute:
            if attribute.name == "scale":
                attribute.f = 0.5

    refuse(form_bundle, scaled, r"attention is scaled by 0\.5")


def test_another_activation_is_refused(form_bundle: Bundles) -> None:
    def replaced(model: ModelProto) -> None:
        first(model, "Erf").op_type = "Tanh"

    refuse(form_bundle, replaced, "not the exact GELU")


def test_a_matrix_with_a_zero_point_is_refused(form_bundle: Bundles) -> None:
    def shifted(model: ModelProto) -> None:
        zero = numpy_helper.from_array(np.array(3, dtype=np.int8), "weight_zero")
        model.graph.initializer.append(zero)
        first(model, "MatMulIntegerToFloat").input[5] = "weight_zero"

    refuse(form_bundle, shifted, "zero point")


def test_an_attention_with_more_to_it_is_refused(form_bundle: Bundles) -> None:
    def capped(model: ModelProto) -> None:
        first(model, "Attention").attribute.append(helper.make_attribute("softcap", 5.0))

    refuse(form_bundle, capped, "its attention has softcap")


def test_an_attention_without_mask_is_refused(form_bundle: Bundles) -> None:
    def unmasked(model: ModelProto) -> None:
        del first(model, "Attention").input[3]

    refuse(form_bundle, unmasked, "other inputs")


def test_a_bias_beside_its_product_is_refused(form_bundle: Bundles) -> None:
    def moved(model: ModelProto) -> None:
        node = first(model, "MatMulIntegerToFloat")
        bias, target = node.input[6], node.output[0]
        node.input[6] = ""
        node.output[0] = "unbiased"
        at = list(model.graph.node).index(node)
        model.graph.node.insert(at + 1, helper.make_node("Add", ["unbiased", bias], [target]))

    refuse(form_bundle, moved, "a constant is added after")


def test_arrays_of_other_sizes_are_refused(form_bundle: Bundles) -> None:
    """C takes them to be as long as they should be."""

    def broadcast(model: ModelProto) -> None:
        classifier, pooler = [node for node in model.graph.node if node.op_type == "Gemm"][:-3:-1]
        assert classifier.output != pooler.output
        one = numpy_helper.from_array(np.zeros(1, dtype=np.float32), "one_bias")
        model.graph.initializer.append(one)
        pooler.input[2] = "one_bias"

    refuse(form_bundle, broadcast, r"an array of \(128,\) is \(1,\)")


def test_another_score_in_the_sum_is_refused(form_bundle: Bundles) -> None:
    def added(model: ModelProto) -> None:
        output = model.graph.output[0].name
        for node in model.graph.node:
            for at, name in enumerate(node.output):
                if name == output:
                    node.output[at] = "before"
        model.graph.node.append(helper.make_node("Neg", ["before"], ["negative"]))
        model.graph.node.append(helper.make_node("Add", ["before", "negative"], [output]))

    refuse(form_bundle, added, "does not come of ReduceSum")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_matcher(tmp_path / "none.onnx")
