"""Large pictures: in tiles as at once, in little memory, so many at a time."""

from __future__ import annotations

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model import preprocess
from model.preprocess import decode_image, image_to_array, open_image, verify_image

#: By the mode that Pillow opens them in, and how they say what is transparent.
FORMS: list[tuple[str, object]] = [
    ("1", None),
    ("L", None),
    ("L", 7),
    ("LA", None),
    ("P", None),
    ("P", 3),
    ("P", bytes(range(0, 200, 2))),
    ("RGB", None),
    ("RGB", (1, 2, 3)),
    ("RGBA", None),
    ("I;16", None),
    ("I;16", 0x1234),
]
SIZES = [(1, 1), (1, 150), (150, 1), (37, 23), (64, 64)]
TILE = 61  # pixels: several tiles a picture, the last ones cut


def drawn(mode: str, size: tuple[int, int]) -> Image.Image:
    """Noise, so that every row differs."""
    noise = np.random.default_rng(3)
    shape = size[::-1]
    if mode == "I;16":
        return Image.fromarray(noise.integers(0x1200, 0x1300, shape).astype(np.uint16))
    if mode == "P":
        indices = noise.integers(0, 256, shape, dtype=np.uint8)
        image = Image.frombytes("P", size, indices.tobytes())
        image.putpalette(noise.integers(0, 256, 768, dtype=np.uint8).tobytes())
        return image
    colours = noise.integers(0, 256, (*shape, 4), dtype=np.uint8)
    return Image.fromarray(colours).convert(mode)


def at_once(image: Image.Image) -> Image.Image:
    """What `open_image` makes of pixels, without tiles."""
    if image.mode == "I;16":
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        grey[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("mode", "transparency"), FORMS)
def test_tiles_give_the_pixels_of_the_whole(
    mode: str, transparency: object, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess, "_TILE_PIXELS", TILE)
    buffer = io.BytesIO()
    drawn(mode, size).save(buffer, "PNG", transparency=transparency)
    data = buffer.getvalue()
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.mode == mode
        expected = at_once(image)
    opened = open_image(data)
    assert (opened.mode, opened.size) == ("RGB", size)
    assert opened.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(decode_image(data, 16), image_to_array(expected, 16))


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa", "CMYK"])
def test_modes_that_no_file_has_here(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "_TILE_PIXELS", TILE)
    image = drawn("LA", (37, 23)).convert(mode) if mode == "La" else drawn("RGBA", (37, 23))
    image = image.convert(mode)
    try:
        expected = at_once(image.copy())
    except ValueError as error:  # Pillow has no way from `La` to RGB
        with pytest.raises(ValueError, match=str(error)):
            preprocess._to_rgb(image)
    else:
        assert preprocess._to_rgb(image).tobytes() == expected.tobytes()


def test_a_picture_is_shrunk_as_pillow_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "_TILE_PIXELS", TILE)
    buffer = io.BytesIO()
    drawn("RGBA", (90, 70)).save(buffer, "PNG")
    expected = open_image(buffer.getvalue())
    expected.thumbnail((40, 40))
    shrunk = open_image(buffer.getvalue(), side=40)
    assert shrunk.size == (40, 31)
    assert shrunk.tobytes() == expected.tobytes()


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many pixels as are taken, of a palette with transparency, in 15 KB."""
    file = tmp_path_factory.mktemp("large") / "bomb.png"
    image = Image.new("P", (6324, 6324))
    image.putpalette([9, 8, 7] * 256)
    image.save(file, transparency=bytes(range(256)), optimize=True)
    assert file.stat().st_size < 100_000
    return file


_PEAK = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from index.images import served_image
from model.preprocess import decode_image
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
data = Path(sys.argv[1]).read_bytes()
ways = [lambda: decode_image(data, 160), lambda: served_image(data)] * 4
before = peak()
with ThreadPoolExecutor(len(ways)) as threads:
    for future in [threads.submit(way) for way in ways]:
        future.result()
print(peak() - before)
"""


def test_eight_at_once_take_the_memory_of_one(bomb: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _PEAK, str(bomb)], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 300  # MiB, of which a palette and RGB are 200


def test_small_ones_do_not_wait_for_large_ones() -> None:
    buffer, small = io.BytesIO(), io.BytesIO()
    Image.new("L", (2001, 2000)).save(buffer, "PNG")
    Image.new("L", (2000, 2000)).save(small, "PNG")
    jpeg = io.BytesIO()
    Image.new("L", (4000, 4000)).save(jpeg, "JPEG")  # which is decoded at an eighth
    with ThreadPoolExecutor(1) as threads:
        with preprocess._large.take(36_000_000):
            verify_image(small.getvalue())
            decode_image(small.getvalue(), 16)
            decode_image(jpeg.getvalue(), 16)
            waiting = threads.submit(decode_image, buffer.getvalue(), 16)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.2)
        assert waiting.result().shape == (16, 16, 3)
