"""Pictures made to harm: each is taken as a picture or refused by name, over every way in."""

from __future__ import annotations

import base64
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageCms

from model.errors import ImageError
from model.preprocess import decode_image

#: Pillow warns of odd metadata; `model.preprocess` silences that, and pytest unsilences it.
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning")

TAKEN = "taken"


def photo(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    return Image.radial_gradient("L").resize((width, height)).convert(mode)


def encoded(form: str, image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or photo()).save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def png(width: int, height: int, pixels: bytes, *more: bytes, depth: int = 8) -> bytes:
    """A grey PNG; `pixels` is not compressed yet."""
    header = chunk(b"IHDR", struct.pack(">II5B", width, height, depth, 0, 0, 0, 0))
    body = header + b"".join(more) + chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def in_png(*more: bytes) -> bytes:
    """A small PNG with chunks before its pixels."""
    return png(16, 16, bytes(17 * 16), *more)


def webp(kind: bytes, data: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def canvas(width: int, height: int) -> bytes:
    """Of an extended WebP; with nothing on it."""
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return webp(b"VP8X", b"\x02\0\0\0" + sides)


def jpeg_of_size(width: int, height: int) -> bytes:
    data = encoded("JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def exif(count: int, value: int) -> bytes:
    """A directory whose entries say that they have so many values, and where."""
    tags = (0x10E, 0x112, 0x8769, 0x8825, 0x9286)
    entries = b"".join(struct.pack("<HHII", tag, 4, count, value) for tag in tags)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 8)


ZEROS = zlib.compress(bytes(60_000_000), 9)  # 58 KB
ZIP = b"PK\x05\x06" + bytes(18)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
FRAMES = [photo().rotate(angle) for angle in range(0, 80, 4)]

#: By what they are: the file, and the code of its refusal.
PICTURES: dict[str, tuple[bytes, str]] = {
    # More pixels than bytes let think.
    "PNG of 20,000 x 20,000": (
        png(20_000, 20_000, bytes(2501 * 20_000), depth=1),
        "too_many_pixels",
    ),
    "PNG that says 2 billion x 2 billion": (png(2**31 - 1, 2**31 - 1, b"\0"), "too_many_pixels"),
    "PNG of one row of 2 billion": (png(2**31 - 1, 1, b"\0"), "too_many_pixels"),
    "JPEG that says 65,535 x 65,535": (jpeg_of_size(65_535, 65_535), "too_many_pixels"),
    "WebP canvas of 16,384 x 16,384": (canvas(16_384, 16_384), "not_an_image"),
    "lossless WebP that says 16,384 x 16,384": (
        webp(b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(40)),
        "too_many_pixels",
    ),
    "WebP of 8,000 x 8,000": (
        encoded("WEBP", Image.new("L", (8_000, 8_000)), lossless=True, method=0),
        "too_many_pixels",
    ),
    # More data than the pixels need.
    "PNG of 16 x 16 with 60 MB of pixels": (
        png(16, 16, bytes(60_000_000)),
        TAKEN,
    ),
    "PNG with 60 MB of text": (in_png(chunk(b"zTXt", b"a\0\0" + ZEROS)), "not_an_image"),
    "PNG with 60 MB of profile": (in_png(chunk(b"iCCP", b"a\0\0" + ZEROS)), "not_an_image"),
    "PNG with 60 MB of translated text": (
        in_png(chunk(b"iTXt", b"a\0\1\0\0\0" + ZEROS)),
        "not_an_image",
    ),
    "PNG with 1,000 texts": (in_png(*[chunk(b"tEXt", b"a\0b" * 20)] * 1000), TAKEN),
    # Moving ones: the first frame counts.
    "animated WebP": (encoded("WEBP", save_all=True, append_images=FRAMES), TAKEN),
    "animated PNG": (encoded("PNG", save_all=True, append_images=FRAMES), TAKEN),
    "PNG that says 4 billion frames": (in_png(chunk(b"acTL", b"\xff" * 8)), TAKEN),
    # Odd pixels.
    "CMYK JPEG": (encoded("JPEG", photo(mode="CMYK")), TAKEN),
    "grey PNG of 16 bits": (encoded("PNG", photo().convert("I;16")), TAKEN),
    "PNG of 16 bits a channel": (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">II5B", 2, 2, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress((b"\0" + bytes(range(12))) * 2))
        + chunk(b"IEND", b""),
        TAKEN,
    ),
    "palette with transparency": (
        encoded("PNG", photo().quantize(8), transparency=bytes([0, 99, 255])),
        TAKEN,
    ),
    "palette with a colour key beyond it": (
        encoded("PNG", photo().quantize(8), transparency=b"\0" * 256),
        TAKEN,
    ),
    "one pixel": (encoded("PNG", photo(1, 1)), TAKEN),
    "a line": (encoded("PNG", photo(9_000, 1)), TAKEN),
    "no pixels at all": (png(0, 0, b""), "not_an_image"),
    "JPEG without a height": (jpeg_of_size(64, 0), "not_an_image"),
    # Two things at once.
    "JPEG with a ZIP behind it": (encoded("JPEG") + ZIP, TAKEN),
    "PNG with a page behind it": (encoded("PNG") + b"<script>alert(1)</script>", TAKEN),
    "JPEG with a script in its comment": (encoded("JPEG", comment=b"*/alert(1)/*"), TAKEN),
    "script that begins as a GIF": (b"GIF89a/*" + bytes(20) + b"*/=alert(1)", "unsupported_format"),
    "PDF with a JPEG in it": (b"%PDF-1.7\n" + encoded("JPEG"), "unsupported_format"),
    "ZIP with a PNG before its end": (ZIP + encoded("PNG"), "not_an_image"),
    # What is not taken, under whatever name.
    "SVG": (SVG, "unsupported_format"),
    "SVG with a prologue": (b'<?xml version="1.0"?>' + SVG, "not_an_image"),
    "GIF": (encoded("GIF"), "unsupported_format"),
    "TIFF": (encoded("TIFF"), "unsupported_format"),
    "BMP": (encoded("BMP"), "unsupported_format"),
    "ICO": (encoded("ICO"), "unsupported_format"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(40), "unsupported_format"),
    "AVIF": (b"\0\0\0\x18ftypavif" + bytes(40), "unsupported_format"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_an_image"),
    "ImageMagick's": (b"push graphic-context\nimage over 0,0 0,0 'ephemeral:/x'", "not_an_image"),
    "a lone RIFF": (b"RIFF\xff\xff\xff\xffWEBP", "not_an_image"),
    # Metadata that nobody can mean.
    "EXIF with 4 billion values": (encoded("JPEG", exif=exif(2**32 - 1, 0)), TAKEN),
    "EXIF that leads to itself": (encoded("JPEG", exif=exif(1, 8)), TAKEN),
    "EXIF that leads beyond the file": (encoded("WEBP", exif=exif(9, 2**32 - 9)), TAKEN),
    "EXIF of 64 KB": (encoded("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 65_000), TAKEN),
    "a profile": (encoded("JPEG", icc_profile=SRGB), TAKEN),
    "no profile in its place": (encoded("JPEG", icc_profile=b"\xff" * 60_000), TAKEN),
    "half a profile": (encoded("PNG", icc_profile=SRGB[:200]), TAKEN),
    "a profile for other pixels": (encoded("WEBP", icc_profile=SRGB[::-1]), TAKEN),
}  # fmt: skip
STATUSES = {
    "not_an_image": 400,
    "too_many_pixels": 413,
    "unsupported_format": 415,
}


@pytest.mark.parametrize("what", PICTURES)
def test_a_search(what: str, client: httpx.Client) -> None:
    data, code = PICTURES[what]
    assert len(data) < 150_000  # else its size alone would do
    form = client.post("/v1/search/image", files={"image": ("hat.jpg", data, "image/jpeg")})
    body = {"image": base64.b64encode(data).decode(), "k": 3, "rerank": False}
    for answer in (form, client.post("/v1/search/image", json=body)):
        if code == TAKEN:
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["hits"]) in (3, 10)
        else:
            assert answer.json()["code"] == code, answer.text
            assert answer.status_code == STATUSES[code]


def test_what_is_written_is_served_as_a_picture_and_nothing_else(serve: Any, root: Path) -> None:
    with serve(snapshots=root) as running:
        for number, (data, code) in enumerate(PICTURES.values()):
            address = f"/v1/items/hostile-{number}"
            images = [base64.b64encode(data).decode()]
            put = running.client.put(address, json={"text": "A hat", "images": images})
            if code != TAKEN:
                assert (put.status_code, put.json()["code"]) == (STATUSES[code], code)
                assert running.client.get(address).status_code == 404
                continue
            assert put.status_code == 201, put.text
            served = running.client.get(f"{address}/image")
            assert served.headers["content-type"] in ("image/jpeg", "image/png", "image/webp")
            assert served.headers["x-content-type-options"] == "nosniff"
            picture = Image.open(io.BytesIO(served.content))
            assert max(picture.size) <= 512
            assert f"image/{(picture.format or '').lower()}" == served.headers["content-type"]
        found = running.client.post("/v1/search/text", json={"query": "a hat", "k": 200}).json()
        taken = sum(code == TAKEN for _, code in PICTURES.values())
        assert sum(hit["id"].startswith("hostile-") for hit in found["hits"]) == taken


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_cut_off_anywhere(form: str) -> None:
    whole = encoded(form, photo(24, 20))
    codes = set()
    for length in range(len(whole)):
        try:
            decode_image(whole[:length], 16)
            codes.add(TAKEN)
            assert length > len(whole) - 24  # all of the pixels were there
        except ImageError as error:
            codes.add(error.code)
    # What is no whole WebP is found at its header.
    assert codes - {TAKEN} == {"not_an_image"} | ({"truncated"} if form != "WEBP" else set())


def test_none_takes_much_memory(tmp_path: Path) -> None:
    for number, (data, _) in enumerate(PICTURES.values()):
        (tmp_path / f"{number}.bin").write_bytes(data)
    code = """
import resource, sys
from pathlib import Path
from model.errors import ImageError
from model.preprocess import decode_image
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decode_image(file.read_bytes(), 64)
    except ImageError:
        pass
print(peak() - before)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(ran.stdout) < 100  # MiB; 40 million pixels would be 120
