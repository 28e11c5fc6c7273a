"""What good pictures become: colours, orientation, shape and size."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from model.preprocess import decode_image, image_to_array, open_image


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)  # type: ignore[arg-type]
    return file.getvalue()


def photo(width: int = 64, height: int = 48) -> Image.Image:
    """Smooth colours, so that JPEG and scaling change little."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    channels = (x, y, 0.5 + 0.5 * np.sin(6 * x) * np.cos(4 * y))
    return Image.fromarray((np.stack(channels, axis=-1) * 200 + 20).astype(np.uint8))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "MPO"])
def test_each_format_gives_the_picture(form: str) -> None:
    decoded = open_image(encoded(photo(), form))
    assert (decoded.mode, decoded.size) == ("RGB", (64, 48))
    difference = np.asarray(decoded).astype(int) - np.asarray(photo())
    assert np.abs(difference).mean() < (0.01 if form == "PNG" else 4)


def test_of_a_phone_picture_with_two_views_the_first_counts() -> None:
    second = Image.new("RGB", (64, 48), "black")
    data = encoded(photo(), "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    both = decode_image(data, 48), decode_image(encoded(photo(), "JPEG"), 48)
    np.testing.assert_array_equal(*both)


def test_what_is_transparent_is_white() -> None:
    square = Image.new("RGBA", (4, 2), (0, 0, 255, 255))
    square.putpixel((0, 0), (0, 0, 255, 0))
    square.putpixel((1, 0), (0, 0, 255, 128))
    for form, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        pixels = np.asarray(open_image(encoded(square, form, **options)))
        assert pixels[0, 0].tolist() == [255, 255, 255]
        assert pixels[0, 1].tolist() == pytest.approx([127, 127, 255], abs=1)
        assert pixels[1, 3].tolist() == [0, 0, 255]


def test_transparency_of_palettes_greys_and_colour_keys() -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    data = encoded(palette, "PNG", transparency=bytes([255, 0]))
    assert np.asarray(open_image(data))[0].tolist() == [[255, 0, 0], [255] * 3, [0, 0, 255]]

    grey = Image.new("LA", (2, 1))
    grey.putdata([(10, 255), (10, 0)])
    assert np.asarray(open_image(encoded(grey, "PNG")))[0, :, 0].tolist() == [10, 255]

    key = Image.new("RGB", (2, 1), (1, 2, 3))
    key.putpixel((1, 0), (9, 8, 7))
    data = encoded(key, "PNG", transparency=(9, 8, 7))
    assert np.asarray(open_image(data))[0].tolist() == [[1, 2, 3], [255, 255, 255]]


def test_colours_of_cmyk_and_grey_pictures() -> None:
    cmyk = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    assert np.asarray(open_image(cmyk))[8, 8].tolist() == pytest.approx([255, 0, 0], abs=6)
    assert decode_image(cmyk, 4)[2, 2].tolist() == pytest.approx([255, 0, 0], abs=6)
    grey = encoded(Image.linear_gradient("L"), "PNG")
    ramp = np.asarray(open_image(grey))
    np.testing.assert_array_equal(ramp[:, 7], np.repeat(np.arange(256)[:, None], 3, axis=1))
    bits = encoded(Image.linear_gradient("L").convert("1"), "PNG")
    assert set(np.unique(np.asarray(open_image(bits)))) == {0, 255}


@pytest.mark.parametrize("key", [None, 0x8000])
def test_sixteen_bit_grey_is_scaled_not_clipped(key: int | None) -> None:
    grey = Image.fromarray(np.array([[0, 0x4000, 0x8000, 0xFFFF]], np.uint16))
    data = encoded(grey, "PNG", transparency=key)
    expected = [0, 64, 128 if key is None else 255, 255]
    assert np.asarray(open_image(data))[0, :, 1].tolist() == expected


UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_exif_orientation_is_undone(orientation: int, form: str) -> None:
    tags = Image.Exif()
    tags[0x112] = orientation
    data = encoded(photo(), form, exif=tags, **({"lossless": True} if form == "WEBP" else {}))
    expected = UPRIGHT[orientation](np.asarray(photo()))
    np.testing.assert_array_equal(np.asarray(open_image(data)), expected)
    upright = image_to_array(Image.fromarray(np.ascontiguousarray(expected)), 40)
    np.testing.assert_array_equal(decode_image(data, 40), upright)


def test_the_aspect_is_kept_and_the_rest_is_white() -> None:
    wide = image_to_array(Image.new("RGB", (60, 30), (200, 0, 0)), 64)
    assert wide.dtype == np.uint8
    assert wide.shape == (64, 64, 3)
    assert (wide[:16] == 255).all()
    assert (wide[48:] == 255).all()
    assert (wide[16:48] == (200, 0, 0)).all()
    tall = image_to_array(Image.new("RGB", (30, 60), (200, 0, 0)), 64)
    np.testing.assert_array_equal(tall, wide.swapaxes(0, 1))


@pytest.mark.parametrize(("size", "seen"), [((1, 1), 64 * 64), ((1, 5000), 64), ((5000, 1), 64)])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_odd_shapes_are_decoded(size: tuple[int, int], seen: int, form: str) -> None:
    pixels = decode_image(encoded(Image.new("RGB", size, "black"), form), 64)
    assert pixels.shape == (64, 64, 3)
    assert np.count_nonzero((pixels < 10).all(axis=-1)) == seen


@pytest.mark.parametrize("size", [(1600, 1200), (500, 900), (1025, 1023)])
def test_a_cheaper_decode_gives_about_the_same(size: tuple[int, int]) -> None:
    tags = Image.Exif()
    tags[0x112] = 6
    data = encoded(photo(*size), "JPEG", quality=95, exif=tags)
    cheap = decode_image(data, 64).astype(int)
    whole = image_to_array(open_image(data), 64).astype(int)
    assert np.abs(cheap - whole).mean() < 1
    assert np.percentile(np.abs(cheap - whole), 99) < 16  # the rim, where rounding shifts it


def test_a_cheaper_decode_keeps_what_the_size_can_show() -> None:
    stripes = np.where(np.arange(1600) // 12 % 2, 60, 200).astype(np.uint8)
    picture = Image.fromarray(np.broadcast_to(stripes[None, :, None], (1200, 1600, 3)).copy())
    data = encoded(picture, "JPEG", quality=95)
    cheap = decode_image(data, 300).astype(int)
    whole = image_to_array(open_image(data), 300).astype(int)
    assert whole[150].std() > 30, "the stripes are there"
    assert np.abs(cheap - whole).mean() < 3
