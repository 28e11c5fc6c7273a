from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from index.images import prepare_image, served_image
from model.errors import ImageError
from model.preprocess import ImageLimits, decode_image


def _encoded(size: tuple[int, int], kind: str, mode: str = "RGB", **options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_small_picture_is_served_as_it_is(kind: str) -> None:
    data = _encoded((120, 200), kind)
    assert served_image(data) is data


@pytest.mark.parametrize(
    ("size", "kind", "mode", "served"),
    [
        ((1100, 600), "JPEG", "RGB", (512, 279)),
        ((600, 1200), "JPEG", "CMYK", (256, 512)),
        ((513, 100), "WEBP", "RGB", (512, 100)),
        ((700, 1400), "PNG", "P", (256, 512)),
        ((512, 512), "PNG", "RGB", (512, 512)),  # too many bytes
    ],
)
def test_a_large_one_is_a_jpeg_of_512_pixels(
    size: tuple[int, int], kind: str, mode: str, served: tuple[int, int]
) -> None:
    with Image.open(io.BytesIO(served_image(_encoded(size, kind, mode)))) as image:
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        assert image.size == served


def test_a_large_one_is_upright_and_on_white() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to see it
    turned = _encoded((1024, 600), "JPEG", exif=exif.tobytes())
    with Image.open(io.BytesIO(served_image(turned))) as image:
        assert image.size == (300, 512)
        assert 0x0112 not in image.getexif()
    buffer = io.BytesIO()
    Image.new("RGBA", (600, 600), (255, 0, 0, 0)).save(buffer, "PNG")
    with Image.open(io.BytesIO(served_image(buffer.getvalue()))) as image:
        assert image.getpixel((256, 256)) == (255, 255, 255)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_broken_exif_block_does_no_harm() -> None:
    broken = _encoded((1024, 600), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    with Image.open(io.BytesIO(served_image(broken))) as image:
        assert image.size == (512, 300)


@pytest.mark.parametrize(
    ("tag", "kind", "count", "value"),
    [(0x103, 2, 2, b"x\0\0\0"), (0x10F, 11, 1, b"\0\0\xc0\x3f"), (0x11A, 7, 3, b"abc\0")],
)
def test_a_tag_that_cannot_be_written_again_does_no_harm(
    tag: int, kind: int, count: int, value: bytes
) -> None:
    """Pillow raises `struct.error`, `AttributeError` and `TypeError` on these."""
    entries = sorted([(tag, kind, count, value), (0x112, 3, 1, b"\6\0\0\0")])
    block = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + block + bytes(4)
    prepared = prepare_image(_encoded((1024, 600), "JPEG", exif=exif), 64)
    with Image.open(io.BytesIO(prepared.served)) as image:
        assert image.size == (300, 512)
    assert (prepared.pixels[:, :10] == 255).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_no_other_parser_sees_a_picture(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _encoded((900, 700), kind)
    Image.init()  # all parsers that Pillow has
    tried: set[str] = set()

    def traced(name: str, factory: Any) -> Any:
        def parse(*arguments: Any) -> Any:
            tried.add(name)
            return factory(*arguments)

        return parse

    parsers = {name: (traced(name, one[0]), one[1]) for name, one in Image.OPEN.items()}
    monkeypatch.setattr(Image, "OPEN", parsers)
    assert len(prepare_image(data, 64).served) < len(data)
    assert tried == {kind}


def test_pixels_are_those_of_the_service() -> None:
    data = _encoded((900, 700), "JPEG")
    np.testing.assert_array_equal(prepare_image(data, 64).pixels, decode_image(data, 64))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "not_an_image"),
        (_encoded((1024, 600), "JPEG")[:9000], "truncated"),
        (_encoded((50, 50), "GIF"), "unsupported_format"),
        (_encoded((200, 200), "PNG"), "too_many_pixels"),
    ],
)
def test_a_bad_picture_is_refused(data: bytes, code: str) -> None:
    limits = ImageLimits(max_pixels=39_999) if code == "too_many_pixels" else ImageLimits()
    with pytest.raises(ImageError) as caught:
        prepare_image(data, 64, limits)
    assert caught.value.code == code
