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
from tokenizers import Tokenizer

from model.errors import BundleError, ImageError, TextError
from model.preprocess import (
    ImageLimits,
    TextTokenizer,
    check_text,
    decode_image,
    image_to_array,
    open_image,
    verify_image,
)
from model.wordpiece import save_tokenizer, train_wordpiece

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


def png(width: int, height: int, *, depth: int, colour: int, pixels: bytes, more: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = header + more + chunk(b"IDAT", zlib.compress(pixels))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def png_bomb() -> bytes:
    """A few KB that would be 400 million pixels."""
    pixels = bytes(2501 * 1000)
    return png(20_000, 20_000, depth=1, colour=0, pixels=pixels, more=b"")


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
    pixels = b"\0" + struct.pack(">4H", 0, 0x4000, 0x8000, 0xFFFF)
    more = b"" if key is None else chunk(b"tRNS", struct.pack(">H", key))
    data = png(4, 1, depth=16, colour=0, pixels=pixels, more=more)
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


def test_texts_lose_the_blanks_at_their_ends() -> None:
    assert check_text(" \t red  dress\n\u3000") == "red  dress"
    assert check_text("👗 été", max_characters=5) == "👗 été"


@pytest.mark.parametrize("text", ["", " ", "\n\t\u3000"])
def test_empty_texts_are_refused(text: str) -> None:
    with pytest.raises(TextError) as caught:
        check_text(text)
    assert caught.value.code == "empty_text"


def test_long_texts_are_refused() -> None:
    assert check_text(" " + "a" * 10 + " ", max_characters=10) == "a" * 10
    with pytest.raises(TextError, match="11 characters, at most 10") as caught:
        check_text("a" * 11, max_characters=10)
    assert caught.value.code == "text_too_long"
    with pytest.raises(TextError):
        check_text("a" * 5001)


@pytest.mark.parametrize("text", ["red \ud800", "red \udcff dress", "red \udc57\ud83d"])
def test_half_a_character_is_refused(text: str) -> None:
    with pytest.raises(TextError, match="at character 5: send it as UTF-8") as caught:
        check_text("  " + text)
    assert caught.value.code == "invalid_text"


TEXTS = ["a red dress with long sleeves", "a blue coat", "striped trousers with a zip", "dress"]


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wordpiece") / "tokenizer.json"
    save_tokenizer(train_wordpiece(TEXTS, vocab_size=200), path)
    return path


def test_batches_are_padded_to_their_longest_text(wordpiece: Path) -> None:
    tokenizer = TextTokenizer(wordpiece, 32)
    alone = [tokenizer.encode([text]) for text in TEXTS]
    batch = tokenizer.encode(TEXTS)
    lengths = [one.input_ids.shape[1] for one in alone]
    assert len(set(lengths)) > 1
    assert batch.input_ids.shape == batch.attention_mask.shape == (4, max(lengths))
    assert batch.input_ids.dtype == batch.attention_mask.dtype == np.int64
    assert batch.attention_mask.sum(axis=1).tolist() == lengths
    for row, (one, length) in enumerate(zip(alone, lengths, strict=True)):
        np.testing.assert_array_equal(batch.input_ids[row, :length], one.input_ids[0])
        assert (batch.input_ids[row, length:] == tokenizer.pad_id).all()
        assert (batch.attention_mask[row] == (np.arange(max(lengths)) < length)).all()
    assert not batch.truncated.any()


def test_long_texts_are_cut_and_say_so(wordpiece: Path) -> None:
    whole = TextTokenizer(wordpiece, 100).encode(TEXTS)
    length = int(whole.attention_mask[0].sum())
    exact = TextTokenizer(wordpiece, length).encode(TEXTS)
    assert not exact.truncated[0]
    cut = TextTokenizer(wordpiece, length - 1).encode(TEXTS)
    assert cut.truncated.tolist() == (whole.attention_mask.sum(axis=1) >= length).tolist()
    assert cut.input_ids.shape[1] == length - 1
    first, last = whole.input_ids[0, 0], whole.input_ids[0, length - 1]
    np.testing.assert_array_equal(cut.input_ids[0, :-1], whole.input_ids[0, : length - 2])
    assert cut.input_ids[0, 0] == first  # [CLS]
    assert cut.input_ids[0, -1] == last  # [SEP]


def test_no_texts_and_texts_of_no_words(wordpiece: Path) -> None:
    tokenizer = TextTokenizer(wordpiece, 16)
    nothing = tokenizer.encode([])
    assert nothing.input_ids.shape == (0, 0)
    assert nothing.truncated.shape == (0,)
    assert tokenizer.encode(["\u200b"]).attention_mask.tolist() == [[1, 1]]


def test_padding_and_truncation_left_in_the_file_do_not_count(
    wordpiece: Path, tmp_path: Path
) -> None:
    other = Tokenizer.from_file(str(wordpiece))
    other.enable_padding(length=50)
    other.enable_truncation(3)
    other.save(str(tmp_path / "t.json"))
    ours, theirs = (
        TextTokenizer(path, 16).encode(TEXTS) for path in (wordpiece, tmp_path / "t.json")
    )
    np.testing.assert_array_equal(ours.input_ids, theirs.input_ids)
    assert not theirs.truncated.any()


def test_the_padding_id_is_the_vocabularys(tmp_path: Path, wordpiece: Path) -> None:
    text = wordpiece.read_text()
    assert text.count('"[PAD]": 0') == 1
    assert '"id": 0,' in text
    text = text.replace('"[PAD]": 0', '"[PAD]": 1').replace('"[UNK]": 1', '"[UNK]": 0')
    text = text.replace('"id": 0,', '"id": -1,').replace('"id": 1,', '"id": 0,')
    (tmp_path / "t.json").write_text(text.replace('"id": -1,', '"id": 1,'))
    tokenizer = TextTokenizer(tmp_path / "t.json", 16)
    assert tokenizer.pad_id == 1
    batch = tokenizer.encode(TEXTS)
    assert (batch.input_ids[batch.attention_mask == 0] == 1).all()


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for data in (None, b"", b"{}", b"\xff\xfe"):
        path = tmp_path / "tokenizer.json"
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(BundleError, match=r"tokenizer\.json is not a tokenizer\.json that"):
            TextTokenizer(path, 16)


def test_tokenising_on_threads_gives_the_same(wordpiece: Path) -> None:
    tokenizer = TextTokenizer(wordpiece, 16)
    expected = tokenizer.encode(TEXTS).input_ids
    with ThreadPoolExecutor(8) as threads:
        for batch in threads.map(lambda _: tokenizer.encode(TEXTS), range(40)):
            np.testing.assert_array_equal(batch.input_ids, expected)
