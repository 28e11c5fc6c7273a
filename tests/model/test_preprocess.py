"""Bad pictures: refused with a code, or decoded all the same."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.errors import ImageError
from model.preprocess import ImageLimits, decode_image, open_image, verify_image

Decode = Callable[[bytes, ImageLimits], object]
#: The three ways in; what one refuses, all refuse.
WAYS: dict[str, Decode] = {
    "open": open_image,
    "verify": verify_image,
    "decode": lambda data, limits: decode_image(data, 32, limits),
}
#: Pillow warns about odd metadata; `model.preprocess` silences that, and pytest unsilences it.
QUIET = pytest.mark.filterwarnings("ignore:.*:UserWarning")


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)  # type: ignore[arg-type]
    return file.getvalue()


def photo(width: int = 64, height: int = 48) -> Image.Image:
    """Smooth colours, so that JPEG and scaling change little."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    channels = (x, y, 0.5 + 0.5 * np.sin(6 * x) * np.cos(4 * y))
    return Image.fromarray((np.stack(channels, axis=-1) * 200 + 20).astype(np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def png_bomb() -> bytes:
    """A few KB that would be 400 million pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(2501 * 1000)))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def exif(*entries: tuple[int, int, int, bytes], cut: int = 0) -> bytes:
    """An EXIF block of (tag, type, count, four bytes) entries, little-endian."""
    body = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    block = b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)
    return b"Exif\0\0" + block[: len(block) - cut]


TURNED = (0x112, 3, 1, struct.pack("<HH", 6, 0))  # orientation 6: a quarter turn to the right

REFUSED = {
    "a text file": (b"id,title\n1,dress\n" * 40, "not_an_image"),
    "nothing": (b"", "not_an_image"),
    "a header alone": (b"\x89PNG\r\n\x1a\n", "not_an_image"),
    "a JPEG cut short": (encoded(photo(), "JPEG")[:-30], "truncated"),
    "a PNG cut short": (encoded(photo(), "PNG")[:-300], "truncated"),
    "a bomb": (png_bomb(), "too_many_pixels"),
    "a GIF": (encoded(photo(), "GIF"), "unsupported_format"),
    "a BMP": (encoded(photo(), "BMP"), "unsupported_format"),
    "too many bytes": (encoded(photo(), "PNG") + bytes(200_000), "too_many_bytes"),
}


@QUIET
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", REFUSED)
def test_bad_pictures_are_refused_with_a_code(what: str, way: str) -> None:
    data, code = REFUSED[what]
    with pytest.raises(ImageError) as caught:
        WAYS[way](data, ImageLimits(max_bytes=200_000))
    assert caught.value.code == code


def test_the_bomb_is_small() -> None:
    assert len(png_bomb()) < 10_000


@pytest.mark.parametrize("way", WAYS)
def test_limits_are_the_largest_that_is_taken(way: str) -> None:
    data = encoded(photo(40, 25), "PNG")
    WAYS[way](data, ImageLimits(max_bytes=len(data), max_pixels=1000))
    with pytest.raises(ImageError, match=r"at most .* are taken") as caught:
        WAYS[way](data, ImageLimits(max_bytes=len(data) - 1, max_pixels=1000))
    assert caught.value.code == "too_many_bytes"
    with pytest.raises(ImageError, match="40×25 pixels, at most 999") as caught:
        WAYS[way](data, ImageLimits(max_bytes=len(data), max_pixels=999))
    assert caught.value.code == "too_many_pixels"


def test_bytes_are_counted_before_anything_is_parsed() -> None:
    with pytest.raises(ImageError) as caught:
        open_image(b"no picture at all", ImageLimits(max_bytes=16))
    assert caught.value.code == "too_many_bytes"


@QUIET
def test_damaged_pictures_of_any_format_are_decoded_or_refused() -> None:
    image = photo(24, 16)
    seeds = [
        encoded(image, form)
        for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "DDS", "ICO", "AVIF")
    ]
    seeds += [encoded(image, form, exif=exif(TURNED)) for form in ("JPEG", "PNG", "WEBP")]
    seeds += [encoded(image, "MPO", save_all=True, append_images=[image])]
    rng = random.Random(5)
    outcomes = set()
    for _ in range(1200):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 2, 6))):
            data[rng.randrange(min(len(data), rng.choice((40, 200, 10_000))))] = rng.randrange(256)
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        try:
            assert decode_image(bytes(data), 16).shape == (16, 16, 3)
            verify_image(bytes(data))
            outcomes.add("decoded")
        except ImageError as error:
            outcomes.add(error.code)
    assert outcomes >= {"decoded", "not_an_image", "truncated", "unsupported_format"}


# What Pillow 12 and 13 raise on each tag when they write a block without its orientation.
ODD_TAGS = {
    "struct.error": (0x103, 2, 2, b"x\0\0\0"),  # a compression that is a text
    "AttributeError": (0x10F, 11, 1, struct.pack("<f", 1.5)),  # a maker that is a number
    "TypeError": (0x11A, 7, 3, b"abc\0"),  # a resolution that is bytes
}


@QUIET
@pytest.mark.parametrize("odd", ODD_TAGS)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_broken_tag_costs_neither_the_picture_nor_its_rotation(odd: str, form: str) -> None:
    entries = sorted([TURNED, ODD_TAGS[odd]])
    data = encoded(photo(64, 32), form, exif=exif(*entries))
    verify_image(data)
    assert open_image(data).size == (32, 64)
    assert (decode_image(data, 64)[:, :10] == 255).all()


@QUIET
@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0garbage", exif()])
def test_a_block_that_cannot_be_read_at_all_costs_nothing(block: bytes) -> None:
    for form in ("JPEG", "PNG", "WEBP"):
        assert open_image(encoded(photo(), form, exif=block)).size == (64, 48)


def test_pillows_warnings_are_silent_where_warnings_are_errors(tmp_path: Path) -> None:
    """A block that Pillow warns about: in a process of its own, without pytest's filters."""
    (tmp_path / "p.jpg").write_bytes(
        encoded(photo(64, 32), "JPEG", exif=exif(TURNED, (0x10F, 2, 9, bytes(4)), cut=10))
    )
    code = (
        "import pathlib, sys\nfrom model.preprocess import open_image\n"
        "print(open_image(pathlib.Path(sys.argv[1]).read_bytes()).size)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code, str(tmp_path / "p.jpg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("(32, 64)\n", "")


@QUIET
def test_decoding_on_threads_leaves_the_warning_filters_alone() -> None:
    pictures = [
        encoded(photo(200, 100), "JPEG"),
        encoded(photo(), "JPEG", exif=exif(TURNED, ODD_TAGS["struct.error"])),
        encoded(photo().convert("RGBA"), "PNG"),
        encoded(photo(), "WEBP"),
    ] * 8
    alone = [decode_image(data, 32) for data in pictures]
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda data: decode_image(data, 32), pictures))
    assert list(warnings.filters) == before
    np.testing.assert_array_equal(np.stack(together), np.stack(alone))
