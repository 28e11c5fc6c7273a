"""The plain text of what a shop keeps as HTML: `<p>Soft <b>cotton</b></p>` is `Soft cotton`.

Not by `html.parser`: Python 3.11's takes a minute for 64 KiB of `<a `, raises AssertionError at
`<![x`, drops what stands in CDATA, and other releases read the same text in another way.
"""

from __future__ import annotations

import re
from html import unescape

#: With its semicolon: in `black&nottoday` none is meant.
_REFERENCE = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

# Inside a word these leave it whole; all others are a space.
_INLINE = (
    "a abbr b bdi bdo big cite code del em font i ins mark q s small span strong sub sup tt u wbr"
)
_OTHERS = (
    "address article aside blockquote body br button caption center col colgroup dd details dialog"
    " div dl dt figcaption figure footer form h1 h2 h3 h4 h5 h6 head header hr html iframe img"
    " input label legend li link main meta nav noscript object ol option p picture pre script"
    " section select source style summary svg table tbody td textarea tfoot th thead time title tr"
    " ul video"
)
_WITHIN_WORDS = frozenset(_INLINE.split())
# In quotes a tag may hold `>`, but none holds `<`: so nothing is looked through for its end twice.
_ATTRIBUTES = r"""[^<>=]*(?:=(?:\s*"[^"<]*"|\s*'[^'<]*'|(?!\s*["']))[^<>=]*)*"""
#: A name that is none of HTML's is no markup: "waist <M and >S".
_TAG = re.compile(
    rf"</?({'|'.join(f'{_INLINE} {_OTHERS}'.split())})(?:[\s/]{_ATTRIBUTES})?>", re.IGNORECASE
)
#: Comments, scripts and styles to their ends; declarations; Word's `<o:p>` and custom elements.
_HIDDEN = re.compile(
    r"<!--.*?(?:-->|\Z)|<(script|style)(?:\s[^<>]*)?(?<!/)>.*?(?:</\1\s*>|\Z)|<[!?][^<>]*>"
    rf"|</?[a-z][a-z0-9]*[:-][^\s<>/]*(?:[\s/]{_ATTRIBUTES})?>",
    re.IGNORECASE | re.DOTALL,
)


def plain_text(text: str) -> str:
    """A text without its tags, comments, scripts and styles, and with its references resolved.

    Also where they are escaped once more (`&lt;br&gt;`), as XML feeds do, or stand in CDATA. A text
    without markup is what it was: a lone `&`, `<` or `>` stays. White space is not collapsed.
    """
    text = _resolved(text)
    if "<![CDATA[" in text:
        text = text.replace("<![CDATA[", "").replace("]]>", "")
    if "<" not in text or not _TAG.search(text):
        return text
    return _resolved(_TAG.sub(_gap, _HIDDEN.sub(_hidden_gap, text)))


def _resolved(text: str) -> str:
    return _REFERENCE.sub(lambda reference: unescape(reference[0]), text) if "&" in text else text


def _hidden_gap(hidden: re.Match[str]) -> str:
    return "" if hidden[0].startswith(("<!", "<?")) else " "


def _gap(tag: re.Match[str]) -> str:
    return "" if tag[1].lower() in _WITHIN_WORDS else " "
