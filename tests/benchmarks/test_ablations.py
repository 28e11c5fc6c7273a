from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.ablations import _NETWORK, VARIANTS, folder_of, teacher_of
from model.config import PRESETS, FashionBertConfig, check_config
from model.errors import TrainingError

DISTILLED = "+ alignment, k = 3, distilled from k = 0"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_can_be_built(name: str) -> None:
    fields = {**PRESETS["small"]["config"], **_NETWORK, **VARIANTS[name][0]}
    check_config(FashionBertConfig(num_hidden_layers=6, **fields))


def test_a_run_goes_on_by_its_number(tmp_path: Path) -> None:
    assert folder_of("paper, equal weights", 0, tmp_path).name == "variant-00-seed-0"
    assert folder_of("+ alignment, without MLM", 2, tmp_path).name == "variant-10-seed-2"
    assert folder_of(DISTILLED, 1, tmp_path).name == "variant-12-seed-1"


def test_the_teachers_run_comes_first(tmp_path: Path) -> None:
    assert teacher_of("+ alignment", 0, tmp_path) is None
    with pytest.raises(TrainingError, match=r"whose run of seed 1 is not through .* --only 11"):
        teacher_of(DISTILLED, 1, tmp_path)
    folder = tmp_path / "variant-11-seed-1"
    folder.mkdir()
    (folder / "result.json").write_text("{}")
    assert teacher_of(DISTILLED, 1, tmp_path) == folder / "best"
