"""The count of operations against what torch counts of the network itself."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.operations import Shape, bytes_of_pair, of_pair
from model.config import FashionBertConfig
from model.network import FashionBertModel

TEXT_TOKENS = 24


@pytest.mark.parametrize("joint_from", [0, 2, 3])
def test_of_one_pair_it_is_what_the_network_does(joint_from: int) -> None:
    config = FashionBertConfig(
        vocab_size=50,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        joint_from=joint_from,
        patches="conv",
        image_size=64,
        patch_feature_size=64,
        attention_probs_dropout_prob=0.0,
    )
    model = FashionBertModel(config).eval()
    texts = torch.randn(1, TEXT_TOKENS, 64)
    images = torch.randn(1, config.num_patches, 64)
    # The counter does not know the fused attention of processors.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.match(texts, torch.ones(1, TEXT_TOKENS), images)
    shape = Shape(4, joint_from, 4, 64, 256, TEXT_TOKENS, config.num_patches)
    assert of_pair(shape, 1).total == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_many_pairs_share_the_text() -> None:
    shape = Shape(6, 3, 12, 384, 1536, TEXT_TOKENS, 64)
    one, many = of_pair(shape, 1), of_pair(shape, 64)
    # Query, key and value of every text token but a 64th of them.
    saved = 3 * 2 * 384 * 384 * TEXT_TOKENS * (1 - 1 / 64)
    assert one.matrix - many.matrix == pytest.approx(saved)
    assert one.attention == many.attention
    assert many.total < many.dense
    assert bytes_of_pair(shape, 64) == pytest.approx(64 * 388 + 24 * 388 / 64)
