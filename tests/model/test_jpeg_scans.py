from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from model.errors import ImageError
from model.jpeg_scans import count_scans
from model.preprocess import decode_image, open_image, verify_image


def jpeg(*, progressive: bool, colour: bool = True, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = Image.effect_noise((64, 48), 60)
    picture = picture.convert("RGB") if colour else picture
    picture.save(buffer, "JPEG", progressive=progressive, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def with_scans(count: int, side: int = 512) -> bytes:
    """A grey progressive JPEG with so many scans on top that change nothing."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 128).save(buffer, "JPEG", progressive=True)
    # One code, of the one bit 0: end of band for 16,384 blocks and what the next 14 bits say.
    table = b"\xff\xc4" + struct.pack(">HB", 20, 0x10) + bytes([1] + [0] * 15) + b"\xe0"
    runs = -(-((side // 8) ** 2) // 32767)
    bits = ("0" + "1" * 14) * runs
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    scan = b"\xff\xda" + struct.pack(">H6B", 8, 1, 1, 0, 1, 63, 0) + data
    return buffer.getvalue()[:-2] + table + scan * count + b"\xff\xd9"


def test_scans_of_ordinary_pictures() -> None:
    assert count_scans(jpeg(progressive=False)) == 1
    assert count_scans(jpeg(progressive=True)) == 10
    assert count_scans(jpeg(progressive=True, colour=False)) == 6


def test_what_only_looks_like_a_scan_is_none() -> None:
    segment = b"\xff\xe1" + struct.pack(">H", 2 + 6000) + b"\xff\xda\0\x02\xff\xd9" * 1000
    data = jpeg(progressive=False)
    assert count_scans(data[:2] + segment + data[2:]) == 1
    assert count_scans(jpeg(progressive=False, restart_marker_blocks=1)) == 1
    assert count_scans(data + b"\xff\xda" * 500) == 1  # after the end


@pytest.mark.parametrize("data", [b"", b"\xff", b"\xff\xd8", b"\xff\xda", b"\xff\xda\0", b"\0" * 9])
def test_what_is_no_picture(data: bytes) -> None:
    assert count_scans(data) in (0, 1)


def test_of_a_file_full_of_markers_it_finds_the_end() -> None:
    assert count_scans(b"\xff\xda\0\0" * 100_000) > 0
    assert count_scans(b"\xff\0" * 5_000_000) == 0


def test_scans_that_are_taken_and_not() -> None:
    assert count_scans(with_scans(90)) == 96
    assert open_image(with_scans(90)).size == (512, 512)
    for take in (open_image, verify_image, lambda data: decode_image(data, 32)):
        with pytest.raises(ImageError, match="20,006 scans") as caught:
            take(with_scans(20_000))  # type: ignore[no-untyped-call]
        assert caught.value.code == "too_many_pixels"
