from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from model.bundle import Bundle
from model.checkpoint import FILES, export_checkpoint, load_checkpoint, read_training
from model.config import FashionBertConfig
from model.errors import TrainingError
from model.evaluate_checkpoint import EvaluatedCheckpoint
from model.network import FashionBertModel


@pytest.fixture(scope="module")
def whole(
    small: FashionBertConfig, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint that is good; not to be written to."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    FashionBertModel(small).save_pretrained(folder)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    return folder


@pytest.fixture
def checkpoint(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be harmed."""
    return Path(shutil.copytree(whole, tmp_path / "checkpoint"))


def test_a_checkpoint_is_loaded(whole: Path) -> None:
    model = load_checkpoint(whole)
    assert not model.training
    weights = load_file(whole / "model.safetensors")
    state = model.state_dict()
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(name: str, checkpoint: Path) -> None:
    (checkpoint / name).unlink()
    with pytest.raises(TrainingError) as caught:
        load_checkpoint(checkpoint)
    assert str(caught.value) == (
        f"{checkpoint} is no checkpoint (it has no {name}): give a run's best/ folder"
    )


def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be read: File name too long"):
        load_checkpoint(tmp_path / ("n" * 300))


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"is no checkpoint \(it has no config\.json\)"):
        load_checkpoint(tmp_path / "nowhere")


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def _other_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"PK\x03\x04" + bytes(500))


def _configure(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _config_text(text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "config.json").write_text(text)

    return change


def _without(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return change


def _more_tokens(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"token{number}" for number in range(500)])
    tokenizer.save(str(folder / "tokenizer.json"))


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "weights cut short": _cut,
    "no bytes": _empty,
    "another kind of file": _other_file,
    "a narrower network": _configure(hidden_size=16),
    "more layers": _configure(num_hidden_layers=5),
    "fewer layers": _configure(num_hidden_layers=3),
    "more patches": _configure(patch_grid=16),
    "a weight is missing": _without("layers.3.qkv.weight"),
    "a batch norm's statistics are missing": _without("patch_network.stem.1.running_mean"),
    "a width that is no number": _configure(hidden_size="wide"),
    "more tokens than embeddings": _more_tokens,
    "a tokenizer that is none": _no_tokenizer,
    "no JSON": _config_text("{"),
    "a JSON list": _config_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint(damage: str, checkpoint: Path) -> None:
    DAMAGES[damage](checkpoint)
    with pytest.raises(TrainingError) as caught:
        load_checkpoint(checkpoint)
    message = str(caught.value)
    assert message.startswith(f"{checkpoint} cannot be loaded (")
    assert message.endswith("it is damaged or of another shape than its config.json")
    assert "\n" not in message


def test_a_checkpoint_is_exported_with_what_its_training_knows(
    checkpoint: Path, tmp_path: Path
) -> None:
    training = {
        "text_template": "{title}. {colour}",
        "calibration": [1.5, -0.25],
        "figures": {"queries": 3},
    }
    (checkpoint / "training.json").write_text(json.dumps(training))
    bundle, difference = export_checkpoint(checkpoint, tmp_path / "bundle")
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert manifest == bundle.manifest
    assert manifest.text_template == "{title}. {colour}"
    assert tuple(manifest.calibration) == (1.5, -0.25)
    assert manifest.metrics == {"queries": 3}
    assert 0 < difference <= 1e-4


def test_a_checkpoint_from_elsewhere_has_no_training(checkpoint: Path, tmp_path: Path) -> None:
    bundle, _ = export_checkpoint(checkpoint, tmp_path / "bundle")
    assert tuple(bundle.manifest.calibration) == (1.0, 0.0)
    assert bundle.manifest.text_template is None


@pytest.mark.parametrize(
    "content",
    [
        b'{"calibration": [1.0',
        b"[]",
        b"{bad",
        b"\xff",
        b'{"calibration": 3}',
        b'{"calibration": [1, 2, 3]}',
        b'{"calibration": [1, "0"]}',
        b'{"calibration": [1, NaN]}',
        b'{"calibration": [true, 0]}',
        b'{"calibration": null}',
        b'{"text_template": 3}',
        b'{"figures": []}',
        b'{"step": "7"}',
    ],
)
def test_a_damaged_training_json(content: bytes, checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "training.json").write_bytes(content)
    for use in (
        lambda: read_training(checkpoint),
        lambda: export_checkpoint(checkpoint, tmp_path / "bundle"),
        lambda: EvaluatedCheckpoint(checkpoint, device="cpu"),
    ):
        with pytest.raises(TrainingError, match=r"training\.json cannot be used .* it is damaged"):
            use()
    assert not (tmp_path / "bundle").exists()
