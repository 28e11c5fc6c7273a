"""The plain text of what a shop keeps as HTML: `<p>Soft <b>cotton</b></p>` is `Soft cotton`."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser

#: With its semicolon: in `black&nottoday` none is meant.
_REFERENCE = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

# Inside a word these leave it whole; all others are a space.
_INLINE = "a abbr b bdi bdo big cite code del em font i ins mark q s small span strong sub sup tt u"
_OTHERS = (
    "address article aside blockquote body br button caption center col colgroup dd details dialog"
    " div dl dt figcaption figure footer form h1 h2 h3 h4 h5 h6 head header hr html iframe img"
    " input label legend li link main meta nav noscript object ol option p picture pre script"
    " section select source style summary svg table tbody td textarea tfoot th thead time title tr"
    " ul video wbr"
)
#: A name that is none of HTML's is no markup: "waist <M and >S".
_TAG = re.compile(
    rf"</?(?:{'|'.join(f'{_INLINE} {_OTHERS}'.split())})(?:\s[^<>]*)?/?>", re.IGNORECASE
)
_KNOWN = frozenset(f"{_INLINE} {_OTHERS}".split())
_WITHIN_WORDS = frozenset([*_INLINE.split(), "wbr"])
_HIDDEN = frozenset(["script", "style"])


def plain_text(text: str) -> str:
    """A text without its tags, comments, scripts and styles, and with its references resolved.

    Also where they are escaped once more (`&lt;br&gt;`), as XML feeds do. A text without markup is
    what it was: a lone `&`, `<` or `>` stays. White space is not collapsed.
    """
    if "&" in text:
        text = _REFERENCE.sub(lambda reference: unescape(reference[0]), text)
    if "<" not in text or not _TAG.search(text):
        return text
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return "".join(reader.parts)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in _HIDDEN
        self._mark(tag, self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False
        self._mark(tag, f"</{tag}>")

    def _mark(self, tag: str, written: str) -> None:
        if tag not in _KNOWN and not set(tag) & set(":-"):  # Word's <o:p> and custom elements
            self.parts.append(written)
        elif tag not in _WITHIN_WORDS:
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)
