"""Text to token ids and picture to pixel array: the one place where both happen.

Training, the offline job and the service all come through here, so what the model was trained on
and what it is asked about cannot drift apart. Needs Pillow, numpy and tokenizers only.
"""

from __future__ import annotations

import contextlib
import io
import struct
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tokenizers import Tokenizer

from model.errors import BundleError, ImageError, TextError
from model.jpeg_scans import count_scans
from model.shares import Shares

#: What Pillow may try: its other forty parsers never see what a stranger sends. (With JPEG comes
#: MPO, the JPEG of phones with a second view in it.)
FORMATS = ("JPEG", "PNG", "WEBP")
#: What people also have, by its first bytes (or those after a length), to be told so.
_OTHER_FORMATS = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"ftypavif", "AVIF"),
    (b"ftypheic", "HEIC"),
    (b"ftypmif1", "HEIF"),
    (b"\0\0\1\0", "ICO"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "PSD"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
)
_MAX_SCANS = 100  # of a progressive JPEG, which has about ten
BORDER = (255, 255, 255)  # most shop pictures stand on white
MAX_TEXT_CHARACTERS = 5_000

#: Pictures beyond this share the pixels of the largest that is taken: one of 40 million takes up to
#: 320 MB (a WebP 640), and a file of a few KB can have as many, so threads must not multiply that.
_LARGE_PIXELS = 4_000_000
_TILE_PIXELS = 2**18  # that are made RGB at a time

# `ImageLimits` is stricter than Pillow's own bomb check, and typed. Pillow also warns about odd
# metadata, which nobody here can act on; set once, as `catch_warnings` is not safe on threads.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")
# Pillow asks for pixels in blocks of 16 MB, which glibc keeps for the thread that has freed them:
# each thread would hold on to a large picture's. In one piece of more than 32 MB it is given back.
Image.core.set_block_size(2**30)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What a picture may weigh: the bytes are checked before anything of it is parsed, the
    pixels after its header and before its content."""

    max_bytes: int = 10 * 1024 * 1024
    max_pixels: int = 40_000_000


DEFAULT_LIMITS = ImageLimits()
_large = Shares(DEFAULT_LIMITS.max_pixels)


def _open(data: bytes, limits: ImageLimits) -> Image.Image:
    """Parse the header only, and refuse what is too large or of another format."""
    if len(data) > limits.max_bytes:
        raise ImageError(
            f"the picture has {len(data):,} bytes, at most {limits.max_bytes:,} are taken: "
            "send a smaller one",
            code="too_many_bytes",
        )
    for start, name in _OTHER_FORMATS:
        if data.startswith(start) or data[4:12] == start:
            raise ImageError(
                f"the picture is a {name}, which is not taken: send JPEG, PNG or WebP",
                code="unsupported_format",
            )
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # what Pillow's parsers raise has no common base
        raise ImageError(
            "this is not a picture that can be read: send a JPEG, PNG or WebP file",
            code="not_an_image",
        ) from error
    if image.width * image.height > limits.max_pixels:
        raise ImageError(
            f"the picture has {image.width}×{image.height} pixels, at most "
            f"{limits.max_pixels:,} are taken: send a smaller one",
            code="too_many_pixels",
        )
    if data.startswith(b"\xff\xd8") and (scans := count_scans(data)) > _MAX_SCANS:
        raise ImageError(
            f"the picture has {scans:,} scans, at most {_MAX_SCANS} are taken, as each goes over "
            "all pixels: save it anew",
            code="too_many_pixels",
        )
    return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except (OSError, ValueError, SyntaxError, struct.error) as error:
        raise ImageError(
            f"the picture is damaged or cut short ({error}): send it again",
            code="truncated",
        ) from error


def _share(image: Image.Image) -> AbstractContextManager[object]:
    """To be held while a picture is loaded, and until it is small; see `_LARGE_PIXELS`."""
    pixels = image.width * image.height
    if pixels <= _LARGE_PIXELS:
        return contextlib.nullcontext()
    return _large.take(2 * pixels if image.format == "WEBP" else pixels)


def upright(image: Image.Image) -> None:
    """Turn a picture, in place, as its EXIF block says."""
    # A broken block, on which Pillow raises all sorts, says nothing about the pixels, and they are
    # fine. In place: they are turned before the block is written anew, which may fail.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _to_rgb(image: Image.Image) -> Image.Image:
    """EXIF rotation applied, transparency laid on the border colour, RGB; may be `image` itself."""
    upright(image)
    if image.mode != "I;16" and not _is_transparent(image):
        return image if image.mode == "RGB" else image.convert("RGB")
    # In tiles, as the steps between are of four bytes a pixel each.
    whole = Image.new("RGB", image.size)
    for box in _tiles(image.width, image.height):
        whole.paste(_tile_to_rgb(image.crop(box)), box)
    return whole


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def _tiles(width: int, height: int) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of at most `_TILE_PIXELS` that cover a picture."""
    across = min(width, _TILE_PIXELS)
    down = _TILE_PIXELS // across
    for top in range(0, height, down):
        for left in range(0, width, across):
            yield left, top, min(left + across, width), min(top + down, height)


def _tile_to_rgb(tile: Image.Image) -> Image.Image:
    if tile.mode == "I;16":
        tile = _to_eight_bits(tile)
    if _is_transparent(tile):
        tile = tile.convert("RGBA")
        ground = Image.new("RGBA", tile.size, (*BORDER, 255))
        tile = Image.alpha_composite(ground, tile)
    return tile.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit grey, its transparent value in white; Pillow would clip at 255."""
    values = np.asarray(image)
    grey = (values >> 8).astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def open_image(
    data: bytes, limits: ImageLimits = DEFAULT_LIMITS, side: int | None = None
) -> Image.Image:
    """Decode a JPEG, PNG or WebP into an upright RGB picture.

    Args:
        data: the file.
        limits: what it may weigh.
        side: shrink it to at most so many pixels a side, its aspect kept.

    Raises:
        ImageError: it is too large, of another format, or damaged.
    """
    image = _open(data, limits)
    with _share(image):
        _load(image)
        image = _to_rgb(image)
        if side is not None:
            image.thumbnail((side, side))
            image = image.copy()  # without what the file's decoder still holds
    return image


def verify_image(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> None:
    """Decode a picture as cheaply as its format allows, only to know that it can be.

    Raises:
        ImageError: as `open_image`.
    """
    image = _open(data, limits)
    image.draft("RGB", (1, 1))  # JPEG: every coefficient is read, an eighth of the pixels is made
    with _share(image):
        _load(image)


def image_to_array(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Fit a picture into a square, its aspect kept, the rest white.

    Returns:
        uint8 [size, size, 3].
    """
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    if image.mode != "RGB":  # `convert` would copy one that is
        image = image.convert("RGB")
    resized = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    square = Image.new("RGB", (size, size), BORDER)
    square.paste(resized, ((size - width) // 2, (size - height) // 2))
    return np.asarray(square)


def decode_image(data: bytes, size: int, limits: ImageLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Bytes of a picture to the array the image encoder takes.

    A large JPEG is decoded at the nearest scale that is still at least twice `size`. Pictures of
    more than 4 million pixels, at that scale, wait for each other in this process: together they
    have 40 million at most, and a WebP's count twice.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ImageError: as `open_image`.
    """
    return decode_sized(data, size, limits)[0]


def decode_sized(
    data: bytes, size: int, limits: ImageLimits = DEFAULT_LIMITS
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """As `decode_image`, and the picture's own width and height: to open it takes its time too."""
    image = _open(data, limits)
    own = image.size
    image.draft("RGB", (2 * size, 2 * size))
    with _share(image):
        _load(image)
        pixels = image_to_array(_to_rgb(image), size)
        del image  # before its share is given back
    return pixels, own


def is_written(text: str) -> bool:
    """Whether there is more to a text than blanks, control and format characters, and marks."""
    kinds = map(unicodedata.category, text)
    return any(kind not in ("Cc", "Cf") and kind[0] not in "ZM" for kind in kinds)


def check_text(text: str, max_characters: int = MAX_TEXT_CHARACTERS) -> str:
    """The text without blanks at its ends.

    Raises:
        TextError: nothing is left of it, or nothing that anybody sees; it is longer than
            `max_characters`, or holds half a character: JSON's `\\ud800`, or a byte of a command
            line that is not UTF-8.
    """
    text = text.strip()
    if not is_written(text):
        raise TextError("the text is empty: say what to look for", code="empty_text")
    if len(text) > max_characters:
        raise TextError(
            f"the text has {len(text):,} characters, at most {max_characters:,} are taken",
            code="text_too_long",
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"the text is no valid Unicode at character {error.start + 1}: send it as UTF-8",
            code="invalid_text",
        ) from error
    return text


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Token ids padded to the longest text of the batch.

    `input_ids`, `attention_mask`: int64 [B, T]; `truncated`: bool [B], the text was longer than
    the model reads.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    truncated: NDArray[np.bool_]


class TextTokenizer:
    """WordPiece from a `tokenizer.json`, cut to `max_tokens` with `[CLS]` and `[SEP]` kept."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(
                f"{path} is not a tokenizer.json that can be read: {error}"
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        pad = self._tokenizer.token_to_id("[PAD]")
        self.pad_id = 0 if pad is None else pad

    def encode(self, texts: Sequence[str]) -> TokenBatch:
        """Tokenise a batch; see `TokenBatch` for the shapes."""
        encodings = self._tokenizer.encode_batch(list(texts))
        longest = max((len(encoding.ids) for encoding in encodings), default=0)
        input_ids = np.full((len(encodings), longest), self.pad_id, dtype=np.int64)
        attention_mask = np.zeros((len(encodings), longest), dtype=np.int64)
        truncated = np.zeros(len(encodings), dtype=np.bool_)
        for row, encoding in enumerate(encodings):
            input_ids[row, : len(encoding.ids)] = encoding.ids
            attention_mask[row, : len(encoding.ids)] = 1
            truncated[row] = bool(encoding.overflowing)
        return TokenBatch(input_ids, attention_mask, truncated)
