"""A product as a caller writes it: looked at, and made into what the offline job would make of it.

The rules are those of a feed (`model.assembly`): blanks around ids and texts go, empty attributes
are left out, a whole number that is too large is a string. What a feed would only report is an
error here, as there is someone to tell.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from index.columns import INT64
from index.encoding import Draft, EncodedPictures
from index.images import Prepared, prepare_image
from index.items import Item
from index.live import LiveSnapshot
from model.errors import TextError
from model.feed import cell_text, strings
from model.preprocess import DEFAULT_LIMITS, MAX_TEXT_CHARACTERS, ImageLimits, check_text
from model.product import MAX_ATTRIBUTES, MAX_ID_CHARACTERS, Attribute
from model.template import TextTemplate
from service.errors import QueryError, blaming

_KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "bool": (bool,),
    "int64": (int, float),
    "double": (int, float),
    "strings": (str, tuple),
    "mixed": (str, bool, int, float, tuple),
}
_WORDS = {
    "string": "one string",
    "bool": "true or false",
    "int64": "a number",
    "double": "a number",
    "strings": "a list of strings, or one string",
}


@dataclass(frozen=True, slots=True)
class WriteLimits:
    """What one request may write."""

    max_operations: int = 500
    max_pictures: int = 16
    max_id_characters: int = MAX_ID_CHARACTERS
    max_text_characters: int = MAX_TEXT_CHARACTERS
    max_markup_characters: int = 1 << 16  # of what the template takes, before its HTML is read
    max_attributes: int = MAX_ATTRIBUTES
    max_values: int = 1024
    image: ImageLimits = DEFAULT_LIMITS


@dataclass(frozen=True, slots=True)
class ProductFields:
    """A product as it is given.

    `text` is what the model reads; by default the catalogue's template makes it of the other
    fields. `description` is for the template only. `pictures` are the bytes of files, in order;
    None keeps those that the product has.
    """

    id: str
    title: str | None
    description: str | None
    text: str | None
    attributes: Mapping[str, Attribute | None]
    pictures: tuple[bytes, ...] | None


def check_id(id: str, limits: WriteLimits) -> str:
    """An id as feeds may have them.

    Raises:
        QueryError: it cannot be one.
    """
    check_any_id(id)
    if len(id) > limits.max_id_characters:
        raise _invalid("id", f"an id has at most {limits.max_id_characters} characters")
    if id.endswith("/image"):
        raise _invalid("id", "an id does not end in /image: that would be a picture's address")
    return id


def check_any_id(id: str) -> str:
    """An id as a catalogue may have it: also one that a write may not make.

    Raises:
        QueryError: it can be none.
    """
    if not id.strip() or id != id.strip():
        raise _invalid("id", "an id is not empty and has no blanks at its ends")
    _check_unicode(id, "id")
    return id


def draft(
    fields: ProductFields, snapshot: LiveSnapshot, image_size: int, limits: WriteLimits
) -> Draft:
    """What is to be encoded of a product.

    Args:
        fields: the product.
        snapshot: the catalogue, whose template and types of attributes it follows.
        image_size: the encoder's.
        limits: what is taken.

    Raises:
        QueryError, TextError, ImageError: something of it cannot be taken.
    """
    id = check_id(fields.id, limits)
    attributes = _attributes(fields.attributes, snapshot.base.items.attribute_types, limits)
    title = "" if fields.title is None else fields.title.strip()
    with blaming("text"):
        text = _text(fields, title, attributes, snapshot, limits)
        text = check_text(text, limits.max_text_characters)
    if title:
        with blaming("title"):
            title = check_text(title, limits.max_text_characters)
    if fields.pictures is None:
        images, pictures = _kept(id, snapshot)
        return Draft(Item(id, title or text, text, images, attributes), pictures)
    prepared = _prepared(fields.pictures, image_size, limits)
    names = tuple(f"sha256:{hashlib.sha256(each.served).hexdigest()}" for each in prepared)
    return Draft(Item(id, title or text, text, names, attributes), prepared)


def _attributes(
    given: Mapping[str, Attribute | None], types: Mapping[str, str], limits: WriteLimits
) -> dict[str, Attribute]:
    if len(given) > limits.max_attributes:
        raise _invalid("attributes", f"a product has at most {limits.max_attributes} attributes")
    attributes: dict[str, Attribute] = {}
    for name, value in given.items():
        field = f"attributes.{name}"
        if not name.strip() or len(name) > limits.max_id_characters:
            raise _invalid(
                "attributes",
                f"an attribute's name has 1 to {limits.max_id_characters} characters",
            )
        _check_unicode(name, "attributes")
        if isinstance(value, float) and not math.isfinite(value):  # 1e999 is infinite too
            raise _invalid(field, f"{field} is {value}: send a number that a double can hold")
        kept = _attribute(value)
        if kept is None:
            continue
        if isinstance(kept, str | tuple):
            _check_strings(kept, field, limits)
        type = types.get(name)
        if type is not None and not _fits(kept, type):
            shown = list(kept) if isinstance(kept, tuple) else kept
            raise _invalid(
                field,
                f"attribute {name!r} is {_WORDS[type]} in this catalogue, not {shown!r:.80}",
            )
        if type == "double" and isinstance(kept, int):
            kept = float(kept)
        elif type == "strings" and isinstance(kept, str):
            kept = (kept,)
        attributes[name] = kept
    return attributes


def _attribute(value: Attribute | None) -> Attribute | None:
    """A value as a feed would have it; None if it counts as empty."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value in INT64 else str(value)
    if isinstance(value, float):
        return value
    if isinstance(value, tuple):
        return strings(value) or None
    return cell_text(value) or None


def _fits(value: Attribute, type: str) -> bool:
    if isinstance(value, bool):  # which Python takes for an int
        return type in ("bool", "mixed")
    return isinstance(value, _KINDS[type])


def _check_strings(value: str | tuple[str, ...], field: str, limits: WriteLimits) -> None:
    values = (value,) if isinstance(value, str) else value
    if len(values) > limits.max_values:
        raise _invalid(field, f"an attribute has at most {limits.max_values:,} values")
    for each in values:
        _check_unicode(each, field)


def _check_unicode(text: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _invalid(field, f"{field!a} is no valid Unicode: send it as UTF-8") from error


def _text(
    fields: ProductFields,
    title: str,
    attributes: Mapping[str, Attribute],
    snapshot: LiveSnapshot,
    limits: WriteLimits,
) -> str:
    """The text that was given, or what the catalogue's template makes."""
    if fields.text is not None:
        return fields.text
    description = "" if fields.description is None else fields.description.strip()
    values = {name: cell_text(value) for name, value in attributes.items()}
    values |= {"id": fields.id, "title": title, "description": description}
    # What a feed is read with that names no template.
    template = TextTemplate(snapshot.manifest.text_template or "{title}. {description}")
    unknown = [
        name
        for name in template.columns
        if name not in values and name not in snapshot.base.items.attribute_types
    ]
    if unknown:
        raise _invalid(
            "text",
            f"this catalogue's texts are made of {template.template!r}, and its feed has a column "
            f"{unknown[0]!r} that the service does not know: send the text itself",
        )
    for name in template.columns:
        if len(values.get(name, "")) > limits.max_markup_characters:
            raise TextError(
                f"{name} has {len(values[name]):,} characters, at most "
                f"{limits.max_markup_characters:,} are taken to make the text of",
                code="text_too_long",
            )
    text = template.render(values)
    if not text:
        raise TextError(
            f"there is nothing to make the text of: send text, or some of "
            f"{', '.join(template.columns)}",
            code="empty_text",
        )
    return text


def _kept(id: str, snapshot: LiveSnapshot) -> tuple[tuple[str, ...], EncodedPictures]:
    """The pictures that a product has, and their names."""
    try:
        row = snapshot.row_of(id)
    except KeyError:
        raise _invalid("images", "a new product needs at least one picture") from None
    rows = list(snapshot.image_rows(row))
    pictures = EncodedPictures(
        snapshot.image_states(rows),
        snapshot.image_embeddings(rows),
        tuple(snapshot.image(each)[0] for each in rows),
    )
    return snapshot.item(row).images, pictures


def _prepared(
    pictures: tuple[bytes, ...], image_size: int, limits: WriteLimits
) -> tuple[Prepared, ...]:
    if not 1 <= len(pictures) <= limits.max_pictures:
        raise _invalid("images", f"a product has 1 to {limits.max_pictures} pictures")
    prepared = []
    for number, data in enumerate(pictures):
        field = f"images.{number}"
        with blaming(field, f"{field}: "):
            prepared.append(prepare_image(data, image_size, limits.image))
    return tuple(prepared)


def _invalid(field: str, message: str) -> QueryError:
    return QueryError(message, field=field, code="invalid_request")
