from __future__ import annotations

import time

import pytest

from model.markup import plain_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<p>Soft <b>cotton</b></p>", "Soft cotton"),
        ("Crew neck.<br>Long sleeves.<BR/>Rib knit", "Crew neck. Long sleeves. Rib knit"),
        ("<ul><li>Slim fit</li><li>98&nbsp;% cotton</li></ul>", "Slim fit 98 % cotton"),
        ('Soft <span class="x">cot</span>ton', "Soft cotton"),
        ('<a title="a > b" href="/care">Care</a> label', "Care label"),
        ("Dolce &amp; Gabbana, Levi&#39;s, Fa&#xE7;onnable", "Dolce & Gabbana, Levi's, Façonnable"),
        # As XML feeds escape it, once more.
        ("&lt;p&gt;Soft&lt;br&gt;M&amp;amp;S&lt;/p&gt;", "Soft M&S"),
        ("<style>p { color: red }</style><p>Top</p><script>if (a < b) c()</script>", "Top"),
        ("<!-- <p>Draft</p> --><p>Top</p>", "Top"),
        ("<p>Size<!-- -->s</p><script>if (a", "Sizes"),
        ("<p>Top<o:p></o:p></p>", "Top"),  # pasted from Word
        ("<p><![if !supportLists]>1.<![endif] >Top</p><?xml:namespace />", "1.Top"),
        ("<![CDATA[<p>Soft <b>cotton</b></p>]]>", "Soft cotton"),
        ("&lt;![CDATA[Soft &amp; light]]&gt;", "Soft & light"),
        ("<svg><style/>red</svg>", "red"),
        ("<p>Soft<![x]> and <![ light <![</p>", "Soft and <![ light <!["),
        # No markup, beside some and alone.
        ("<p>Waist <M and >S, R&D</p>", "Waist <M and >S, R&D"),
        ("waist <M and >S", "waist <M and >S"),
        ("I <3 it & more -> see", "I <3 it & more -> see"),
        ("black&nottoday &bogus; &", "black&nottoday &bogus; &"),
    ],
)
def test_plain_text(text: str, expected: str) -> None:
    assert " ".join(plain_text(text).split()) == expected


def test_a_text_without_markup_is_what_it_was() -> None:
    text = " Long \n\t top, 5 > 3 "
    assert plain_text(text) == text


@pytest.mark.parametrize(
    "part",
    [
        "<a ",
        "<!--",
        "<![",
        "<![CDATA[",
        "<",
        "</",
        "<?",
        "<a b='",
        '="<a "',
        "<script ",
        "<p a",
        "&#",
    ],
)
def test_what_is_never_closed_takes_no_longer_the_more_there_is_of_it(part: str) -> None:
    start = time.process_time()
    assert plain_text("<p>Top " + part * (200_000 // len(part))).startswith(" Top")
    assert time.process_time() - start < 10  # quadratic time would be minutes
