from __future__ import annotations

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
        ("<p>Top<o:p></o:p></p>", "Top"),  # pasted from Word
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
