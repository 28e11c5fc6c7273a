"""What a catalogue is once it has been read: products, their pictures, and a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from model.feed_report import FeedReport
from model.on_disk import DiskList
from model.pictures import Pictures

#: One value of an attribute.
Scalar = str | int | float | bool
#: What a product has of an attribute: a value, or a list of strings, distinct and at least one.
Attribute = Scalar | tuple[str, ...]

#: Of an id or an attribute's name, at most; as many are taken from a feed as by the service.
MAX_ID_CHARACTERS = 512
#: Of a product that is written to the service. A feed's may have more.
MAX_ATTRIBUTES = 256


@dataclass(frozen=True, slots=True)
class Product:
    """One product of a catalogue.

    `text` is the rendered template; `title` the title column, or the text where that is empty.
    `images` are names in the catalogue's `Pictures`, one a view, at least one, in feed order.
    `attributes` are the other columns, without those that are empty: every column but the id, the
    image, the title and the description, which is free text and belongs to `text`. `lines` are
    those of the feed that name each of the images, as `BadRow.line`.
    """

    id: str
    text: str
    title: str
    images: tuple[str, ...]
    attributes: dict[str, Attribute]
    lines: tuple[int, ...] = field(default=(), compare=False)  # for reports


class Products(DiskList[Product]):
    """Products in the order of their feed, on disk: there may be more of them than memory."""

    def __init__(self) -> None:
        super().__init__(_encode_product, _decode_product)


def _encode_product(product: Product) -> Any:
    title = None if product.title == product.text else product.title
    return product.id, product.text, title, product.images, product.attributes, product.lines


def _decode_product(stored: Any) -> Product:
    id, text, title, images, attributes, lines = stored
    title = text if title is None else title
    return Product(id, text, title, tuple(images), as_attributes(attributes), tuple(lines))


def as_attributes(stored: dict[str, Any]) -> dict[str, Attribute]:
    """Attributes as JSON gives them back, with lists as tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """How a feed calls its columns, and what stands between several values in one text cell.

    `title` and `description` need not exist. `lists` are the columns whose text cells hold several
    values. An empty `separator` means one picture, or one value, a cell.
    """

    id: str = "id"
    image: str = "image"
    title: str = "title"
    description: str = "description"
    separator: str = "|"
    lists: tuple[str, ...] = ()


@dataclass(frozen=True)
class Catalogue:
    """What `read_catalogue` read. Closing it, or leaving it as a context, closes the pictures.

    `products` stand in the order of the feed. `fingerprint` is the SHA-256 of all that was taken
    from it and of the pictures' checksums: the same feed and pictures give the same one.
    `pictures_fingerprint` is of the checksums alone, in the order of the products.
    `text_template` is what the texts were made of, with the id, the title and the description
    under these names, whatever the feed calls them.
    """

    products: Sequence[Product]
    pictures: Pictures
    report: FeedReport
    fingerprint: str
    pictures_fingerprint: str
    text_template: str

    def close(self) -> None:
        """Close the pictures."""
        self.pictures.close()

    def __len__(self) -> int:
        return len(self.products)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
