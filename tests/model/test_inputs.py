from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import inputs as module
from model.backbones import new_config, new_model
from model.errors import TrainingError
from model.inputs import ImageInputs, prepare_inputs
from model.network import FashionBertModel
from model.pictures import TarPictures
from model.preprocess import decode_image
from model.product import Catalogue

FilesUpTo = Callable[[int], AbstractContextManager[None]]


class Fragile(TarPictures):
    """A tar that counts what is read of it, and breaks at one of the readings."""

    def __init__(self, path: Path, breaks_at: int = 10**9) -> None:
        super().__init__(path)
        self.names: list[str] = []
        self.breaks_at = breaks_at

    def read(self, name: str) -> bytes:
        self.names.append(name)
        if len(self.names) == self.breaks_at:
            raise KeyboardInterrupt
        return super().read(name)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes how far it is after every batch of 32."""
    monkeypatch.setattr(module, "NOTE_EVERY", 1)


@pytest.fixture(scope="module")
def frozen(resnet: Path) -> FashionBertModel:
    """A network with a frozen CNN."""
    return new_model(config_with(resnet))


def config_with(cnn: Path, **overrides: Any) -> Any:
    fields = {"patches": "grid", "image_size": 64, "cnn_image_size": 64, "freeze_cnn": True}
    torch.manual_seed(0)
    return new_config("tiny", vocab_size=100, cnn=str(cnn), **{**fields, **overrides})


@pytest.fixture
def pixels_model(small: Any) -> FashionBertModel:
    return FashionBertModel(small)


def names_of(catalogue: Catalogue) -> list[str]:
    return [name for product in catalogue.products for name in product.images]


def fragile(catalogue: Catalogue, tar: Path, breaks_at: int = 10**9) -> tuple[Catalogue, Fragile]:
    pictures = Fragile(tar, breaks_at)
    return replace(catalogue, pictures=pictures), pictures


@pytest.fixture
def tar(demo_catalogue: Path) -> Path:
    return demo_catalogue / "images.tar"


def test_pixels_are_the_decoded_pictures(
    learn: Catalogue, pixels_model: FashionBertModel, tmp_path: Path
) -> None:
    found = prepare_inputs(pixels_model, learn, tmp_path / "new" / "cache")
    names = names_of(learn)
    assert not found.are_features
    assert found.array.shape == (len(names), 64, 64, 3)
    for row in (0, 31, 32, len(names) - 1):
        wanted = decode_image(learn.pictures.read(names[row]), 64)
        assert np.array_equal(found.array[row], wanted)
    batch = found.batch([3, 1, 3])
    assert batch.keys() == {"pixels"}
    assert batch["pixels"].dtype == torch.uint8
    assert np.array_equal(batch["pixels"].numpy(), found.array[[3, 1, 3]])


def test_features_are_the_patch_networks(
    learn: Catalogue, frozen: FashionBertModel, tmp_path: Path
) -> None:
    found = prepare_inputs(frozen, learn, tmp_path)
    names = names_of(learn)
    assert found.are_features
    assert found.array.shape == (len(names), 64, 16)
    rows = [0, 40, len(names) - 1]
    pixels = np.stack([decode_image(learn.pictures.read(names[row]), 64) for row in rows])
    with torch.inference_mode():
        wanted = frozen.patch_network(torch.from_numpy(pixels))
    batch = found.batch(rows)["features"]
    assert batch.dtype == torch.float32
    # Through a network in bf16, whose step is 1/256, and kept in fp16.
    difference = (batch - wanted).abs()
    assert float(difference.max() / wanted.abs().max()) < 0.03
    assert float(difference.mean() / wanted.abs().mean()) < 0.01


@pytest.mark.parametrize("kind", ["pixels", "features"])
def test_interrupted_it_goes_on(
    kind: str,
    learn: Catalogue,
    frozen: FashionBertModel,
    pixels_model: FashionBertModel,
    tar: Path,
    tmp_path: Path,
) -> None:
    model = frozen if kind == "features" else pixels_model
    whole = prepare_inputs(model, learn, tmp_path / "whole").array
    names = names_of(learn)
    cache = tmp_path / "cache"

    broken, _ = fragile(learn, tar, breaks_at=80)
    with pytest.raises(KeyboardInterrupt):
        prepare_inputs(model, broken, cache)
    assert list(cache.glob("*.npy")) == []
    (note,) = cache.glob("*.json")
    done = json.loads(note.read_text())["rows"]
    assert done in (32, 64)

    # Interrupted a second time, before there is anything new.
    with pytest.raises(KeyboardInterrupt):
        prepare_inputs(model, fragile(learn, tar, breaks_at=1)[0], cache)
    rest, pictures = fragile(learn, tar)
    found = prepare_inputs(model, rest, cache)
    assert sorted(pictures.names) == sorted(names[done:])
    assert np.array_equal(found.array, whole)
    assert [path.suffix for path in cache.iterdir()] == [".npy"]


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _another(path: Path) -> None:
    np.save(path, np.zeros((2, 3), dtype=np.uint8))


@pytest.mark.parametrize("damage", [_half, _nothing, _another])
def test_a_damaged_array_is_made_anew(
    damage: Callable[[Path], None],
    learn: Catalogue,
    pixels_model: FashionBertModel,
    tmp_path: Path,
) -> None:
    whole = np.array(prepare_inputs(pixels_model, learn, tmp_path).array)
    (file,) = tmp_path.glob("*.npy")
    damage(file)
    assert np.array_equal(prepare_inputs(pixels_model, learn, tmp_path).array, whole)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_an_array_that_cannot_be_looked_at_stays(
    learn: Catalogue,
    pixels_model: FashionBertModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That nothing more can be opened does not make it a damaged one."""
    prepare_inputs(pixels_model, learn, tmp_path)
    (file,) = tmp_path.glob("*.npy")
    made = file.stat().st_ino

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(TrainingError, match="Too many open files"):
        prepare_inputs(pixels_model, learn, tmp_path)
    assert file.stat().st_ino == made


@pytest.mark.parametrize("noted", ["", "[]", '{"rows": "x"}', '{"rows": 9999}', '{"rows": -1}'])
def test_a_note_that_says_nothing_is_no_progress(
    noted: str, learn: Catalogue, pixels_model: FashionBertModel, tar: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare_inputs(pixels_model, fragile(learn, tar, breaks_at=80)[0], tmp_path)
    (note,) = tmp_path.glob("*.json")
    note.write_text(noted)
    rest, pictures = fragile(learn, tar)
    prepare_inputs(pixels_model, rest, tmp_path)
    assert sorted(pictures.names) == sorted(names_of(learn))


def test_what_was_made_is_found_again(
    learn: Catalogue, pixels_model: FashionBertModel, tar: Path, tmp_path: Path
) -> None:
    first = prepare_inputs(pixels_model, learn, tmp_path)
    again, pictures = fragile(learn, tar)
    found = prepare_inputs(pixels_model, again, tmp_path)
    assert pictures.names == []
    assert np.array_equal(found.array, first.array)
    assert len(list(tmp_path.iterdir())) == 1
    assert isinstance(found.array, np.memmap)
    assert not found.array.flags.writeable


def test_only_what_it_depends_on_makes_another_file(
    learn: Catalogue,
    unseen: Catalogue,
    resnet: Path,
    frozen: FashionBertModel,
    small: Any,
    tmp_path: Path,
) -> None:
    def files() -> int:
        return len(list(tmp_path.glob("*.npy")))

    few = replace(learn, products=learn.products[:8], pictures_fingerprint="few")
    prepare_inputs(frozen, few, tmp_path)
    # The same CNN, whatever is drawn anew around it.
    prepare_inputs(new_model(config_with(resnet, num_hidden_layers=3)), few, tmp_path)
    assert files() == 1
    other = new_model(config_with(resnet))
    with torch.no_grad():
        next(other.patch_network.parameters()).add_(1e-3)
    prepare_inputs(other, few, tmp_path)
    assert files() == 2
    prepare_inputs(new_model(config_with(resnet, cnn_image_size=32)), few, tmp_path)
    assert files() == 3
    prepare_inputs(frozen, replace(few, fingerprint="another text or price"), tmp_path)
    assert files() == 3
    prepare_inputs(frozen, replace(few, pictures_fingerprint="other"), tmp_path)
    assert files() == 4
    # Pixels depend on the picture's side, and on no weight.
    for _ in range(2):
        prepare_inputs(FashionBertModel(small), few, tmp_path)
        assert files() == 5


def test_the_cnn_computes_as_if_it_were_served(
    learn: Catalogue, frozen: FashionBertModel, tmp_path: Path
) -> None:
    few = replace(learn, products=learn.products[:4], fingerprint="few")
    first = prepare_inputs(frozen.train(), few, tmp_path / "a").array
    second = prepare_inputs(frozen.eval(), few, tmp_path / "b").array
    assert np.array_equal(first, second)


def test_the_crops_of_few_pictures_are_read_at_once(
    learn: Catalogue, resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 224 pixels the paper's 64 of a picture take about 1.2 GB in a ResNet-50."""
    model: Any = new_model(config_with(resnet, patches="crop", cnn_image_size=16))
    few = replace(learn, products=learn.products[:4], fingerprint="few")
    read, passes = model.patch_network.feature_map, []

    def feature_map(crops: torch.Tensor) -> torch.Tensor:
        passes.append(len(crops))
        states: torch.Tensor = read(crops)
        return states

    monkeypatch.setattr(model.patch_network, "feature_map", feature_map)
    found = prepare_inputs(model, few, tmp_path)
    assert passes == [64] * len(names_of(few))
    pixels = np.stack([decode_image(few.pictures.read(name), 64) for name in names_of(few)])
    with torch.inference_mode():
        wanted = model.patch_network(torch.from_numpy(pixels))
    features = found.batch(range(len(pixels)))["features"]
    torch.testing.assert_close(features, wanted, rtol=0.05, atol=0.05)


def test_the_room_is_taken_before_all_of_it_is_needed(
    pixels_model: FashionBertModel, learn: Catalogue, tar: Path, tmp_path: Path
) -> None:
    """On a disk that fills up later, a mapped page without any would kill the process."""
    broken, _ = fragile(learn, tar, breaks_at=80)
    with pytest.raises(KeyboardInterrupt):
        prepare_inputs(pixels_model, broken, tmp_path)
    begun = [next(tmp_path.glob(f"*.{kind}")).stat() for kind in ("part", "sums")]
    assert begun[0].st_size > len(names_of(learn)) * 64 * 64 * 3
    assert all(512 * file.st_blocks >= file.st_size for file in begun)


def test_a_full_disk_is_told(
    learn: Catalogue, pixels_model: FashionBertModel, tmp_path: Path, files_up_to: FilesUpTo
) -> None:
    with pytest.raises(TrainingError) as caught, files_up_to(500_000):
        prepare_inputs(pixels_model, learn, tmp_path)
    message = str(caught.value)
    assert f"the pictures cannot be written to {tmp_path}" in message
    assert "File too large" in message
    assert "make room for 2 MB, or choose another folder with --cache" in message
    # Nor does what is half there take any more room.
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    prepare_inputs(pixels_model, learn, tmp_path)


def test_a_folder_that_cannot_be_made(
    learn: Catalogue, pixels_model: FashionBertModel, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"cannot be written to .*/file/cache"):
        prepare_inputs(pixels_model, learn, tmp_path / "file" / "cache")


def test_rows_in_memory_do_as_well() -> None:
    features = np.arange(12, dtype=np.float16).reshape(3, 2, 2)
    batch = ImageInputs(features).batch(np.array([2, 0]))
    assert batch["features"].tolist() == features[[2, 0]].tolist()


def test_maps_of_frozen_stages_and_their_mirror_images(
    learn: Catalogue, resnet: Path, tmp_path: Path
) -> None:
    model = new_model(config_with(resnet, freeze_cnn=False, frozen_cnn_stages=1)).eval()
    found = prepare_inputs(model, learn, tmp_path, maps=True)
    names = names_of(learn)
    assert found.are_maps
    assert found.array.shape == (len(names), 2, 16, 16, 8)
    rows = [0, 40, len(names) - 1]
    pixels = np.stack([decode_image(learn.pictures.read(names[row]), 64) for row in rows])
    pixels[1] = pixels[1, :, ::-1]
    mirrored = np.array([False, True, False])
    with torch.inference_mode():
        wanted = model.patch_network(torch.from_numpy(pixels))
        features = model.patch_features(**found.batch(rows, mirrored))
    assert float((features - wanted).abs().max() / wanted.abs().max()) < 0.03
    assert not torch.equal(found.batch(rows)["maps"][1], found.batch(rows, mirrored)["maps"][1])
    # What is trained above them changes nothing of what is kept; what is below does.
    with torch.no_grad():
        model.patch_network.cnn.encoder.stages[1].layers[0].shortcut.convolution.weight += 1
    prepare_inputs(model, learn, tmp_path, maps=True)
    assert len(list(tmp_path.glob("*.npy"))) == 1
    with torch.no_grad():
        model.patch_network.cnn.embedder.embedder.convolution.weight += 1
    prepare_inputs(model, learn, tmp_path, maps=True)
    assert len(list(tmp_path.glob("*.npy"))) == 2


def test_maps_without_mirror_images_take_half_the_room(
    learn: Catalogue, resnet: Path, tmp_path: Path
) -> None:
    model = new_model(config_with(resnet, freeze_cnn=False, frozen_cnn_stages=1)).eval()
    both = prepare_inputs(model, learn, tmp_path, maps=True)
    one = prepare_inputs(model, learn, tmp_path, maps=True, mirror=False)
    assert one.array.shape == (len(names_of(learn)), 1, 16, 16, 8)
    assert np.array_equal(one.array[:, 0], both.array[:, 0])
    assert torch.equal(one.batch([3, 1])["maps"], both.batch([3, 1])["maps"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"patches": "crop"}, "patches=grid"), ({"frozen_cnn_stages": 0}, "frozen_cnn_stages")],
)
def test_maps_where_there_are_none(
    changes: dict[str, Any], message: str, learn: Catalogue, resnet: Path, tmp_path: Path
) -> None:
    fields = {"freeze_cnn": False, "frozen_cnn_stages": 1, **changes}
    with pytest.raises(TrainingError, match=message):
        prepare_inputs(new_model(config_with(resnet, **fields)), learn, tmp_path, maps=True)


def same_pictures(catalogue: Catalogue, count: int) -> Catalogue:
    """The first `count` products all show the picture of the first one."""
    products = [
        replace(product, images=catalogue.products[0].images[:1] if row < count else product.images)
        for row, product in enumerate(catalogue.products)
    ]
    return replace(catalogue, products=products, fingerprint=f"same {count}")


@pytest.mark.parametrize("kind", ["pixels", "features"])
def test_pictures_that_are_all_one_are_refused(
    kind: str,
    learn: Catalogue,
    frozen: FashionBertModel,
    pixels_model: FashionBertModel,
    tar: Path,
    tmp_path: Path,
) -> None:
    model = frozen if kind == "features" else pixels_model
    blank = same_pictures(learn, len(learn.products))
    told = "all 96 pictures are the same, pixel for pixel, so no text can find its own"
    for _ in range(2):
        with pytest.raises(TrainingError, match=told):
            prepare_inputs(model, blank, tmp_path)
        assert [path.suffix for path in tmp_path.iterdir()] in ([], [".lock"])
    # Also where it was interrupted, and goes on.
    with pytest.raises(KeyboardInterrupt):
        prepare_inputs(model, fragile(blank, tar, breaks_at=80)[0], tmp_path)
    with pytest.raises(TrainingError, match=told):
        prepare_inputs(model, blank, tmp_path)


def test_many_pictures_that_are_one_are_told(
    learn: Catalogue, pixels_model: FashionBertModel, tar: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    prepare_inputs(pixels_model, same_pictures(learn, 3), tmp_path, note=notes.append)
    assert notes == []  # 3 of more than 96
    some = same_pictures(learn, 20)
    with pytest.raises(KeyboardInterrupt):
        prepare_inputs(pixels_model, fragile(some, tar, breaks_at=80)[0], tmp_path)
    prepare_inputs(pixels_model, some, tmp_path, note=notes.append)
    count = len(names_of(some))
    assert notes == [
        f"20 of {count} pictures are the same as another, pixel for pixel, one of them 20 times: "
        "are they placeholders?"
    ]
