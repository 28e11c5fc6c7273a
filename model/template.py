"""The text of a product, put together from the columns of its row: `{title}. {description}`."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

from model.errors import CatalogueError
from model.markup import plain_text

_MARKS = r".,;:/|·–—-"
_EMPTY_BRACKETS = re.compile(r"\(\s*\)|\[\s*\]")
_AFTER_OPENING = re.compile(rf"([(\[])[\s{_MARKS}]+")
_BEFORE_CLOSING = re.compile(rf"[\s{_MARKS}]+([)\]])")
_SEVERAL_MARKS = re.compile(rf"\s*[{_MARKS}](?:\s*[{_MARKS}])+")
_SPACE_BEFORE_MARK = re.compile(r"\s+([.,;:])")


def _one_mark(run: re.Match[str]) -> str:
    marks = "".join(run[0].split())
    mark = "." if "." in marks else marks[0]
    return mark if mark in ".,;:" else f" {mark}"


def _close_gap(gap: str) -> str:
    """Tidy the literal text around a column that was empty: `. .`, ` ,` and `()` go."""
    gap = _AFTER_OPENING.sub(r"\1", gap)
    gap = _BEFORE_CLOSING.sub(r"\1", gap)
    gap = _EMPTY_BRACKETS.sub(" ", gap)
    gap = _SEVERAL_MARKS.sub(_one_mark, gap)
    return _SPACE_BEFORE_MARK.sub(r"\1", gap)


class TextTemplate:
    """A template of literal text and `{column}` places, with nothing else in the braces.

    Templates come from users, so `str.format` never sees them: a place is looked up by its name
    as it stands, and attribute or index access, conversions and format specifications are
    refused. `{{` and `}}` stand for braces.

    Raises:
        CatalogueError: the template is not of that form, or has no place at all.
    """

    def __init__(self, template: str) -> None:
        self.template = template
        self._parts: list[tuple[str, str | None]] = []
        try:
            for literal, name, specification, conversion in string.Formatter().parse(template):
                plain = name is None or (name.strip() and not set(name) & set(".[]"))
                if not plain or specification or conversion:
                    inside = f"{name}{f'!{conversion}' if conversion else ''}" + (
                        f":{specification}" if specification else ""
                    )
                    raise CatalogueError(
                        f"the text template {template!r} has {{{inside}}}: "
                        "only the plain name of a column may stand in braces, as in {title}"
                    )
                self._parts.append((literal, name))
        except ValueError as error:
            raise CatalogueError(
                f"the text template {template!r} cannot be read ({error}): "
                "write columns as {title}, and a brace itself as {{ or }}"
            ) from error
        self.columns = tuple(dict.fromkeys(name for _, name in self._parts if name is not None))
        if not self.columns:
            raise CatalogueError(
                f"the text template {template!r} names no column, so every product would have the "
                "same text: write columns in braces, as in {title}"
            )

    def renamed(self, names: Mapping[str, str]) -> str:
        """The same template with other names for some columns: `names` has the new by the old."""
        parts = []
        for literal, name in self._parts:
            parts.append(literal.replace("{", "{{").replace("}", "}}"))
            parts.append("" if name is None else f"{{{names.get(name, name)}}}")
        return "".join(parts)

    def render(self, values: Mapping[str, str]) -> str:
        """Fill the places in; a column that is not there counts as empty.

        Of HTML the plain text is taken, see `plain_text`. White space is collapsed, and the
        punctuation that an empty column leaves behind goes. The result is empty when every column
        is, whatever literal text the template has.
        """
        text, gap, left_out = "", "", False
        for literal, name in self._parts:
            gap += literal
            if name is None:
                continue
            value = " ".join(plain_text(values.get(name, "")).split())
            if not value:
                left_out = True
                continue
            text = self._append(text, gap, left_out) + value
            gap, left_out = "", False
        if not text:
            return ""
        if left_out:
            gap = _close_gap(gap).rstrip(f"{_MARKS} \t\n")
        return " ".join(self._append(text, gap, False).split())

    @staticmethod
    def _append(text: str, gap: str, left_out: bool) -> str:
        if left_out:
            gap = _close_gap(gap)
            if not text:
                gap = gap.lstrip(f"{_MARKS} \t\n")
        if text.endswith((".", "!", "?", "…")) and gap.startswith(".") and gap[:2] != "..":
            gap = gap[1:]  # the cell has brought its own full stop
        return text + gap
