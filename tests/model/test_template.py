import pytest

from model.errors import CatalogueError
from model.template import TextTemplate


@pytest.mark.parametrize(
    ("template", "values", "expected"),
    [
        ("{title}. {description}", {"title": "Top", "description": "Soft."}, "Top. Soft."),
        ("{title}. {description}", {"title": "Top", "description": ""}, "Top"),
        ("{title}. {description}", {"title": "", "description": "Soft"}, "Soft"),
        ("{title}. {description} {colour}", {"title": "Top", "colour": "red"}, "Top. red"),
        ("{title} {colour}. {description}", {"title": "Top", "description": "S"}, "Top. S"),
        ("{title}. {a}. {b}. {c}", {"title": "Top", "c": "new"}, "Top. new"),
        ("{title}, {colour}, {size}", {"title": "Top", "size": "M"}, "Top, M"),
        ("{title} - {colour} - {size}", {"title": "Top", "size": "M"}, "Top - M"),
        ("{title} ({colour}, {size})", {"title": "Top", "size": "M"}, "Top (M)"),
        ("{title} ({colour}, {size})", {"title": "Top", "colour": "red"}, "Top (red)"),
        ("{title} ({colour}, {size})", {"title": "Top"}, "Top"),
        ("{brand}, {title}", {"title": "Top"}, "Top"),
        ("{title}.", {"title": "Top"}, "Top."),
        # What the shop wrote into a cell stays as it is.
        ("{title}. {description}", {"title": "Wow!", "description": ".5 mm"}, "Wow! .5 mm"),
        ("{title}. {description}", {"title": "Top ...", "description": "a , b"}, "Top ... a , b"),
        ("{title}. {colour}", {"title": " Long \n\t top ", "colour": "a  b"}, "Long top. a b"),
        ("{{{title}}}", {"title": "Top"}, "{Top}"),
        ("{title}. {b}", {"title": "M&amp;S", "b": "<p>Soft.</p>\n<br/>"}, "M&S. Soft."),
        ("{title}. {b}", {"title": "Top", "b": "<p>&nbsp;</p>"}, "Top"),
        ("Product Name: {Product Name}", {"Product Name": "Top"}, "Product Name: Top"),
    ],
)
def test_rendered_text(template: str, values: dict[str, str], expected: str) -> None:
    assert TextTemplate(template).render(values) == expected


def test_literal_text_alone_does_not_describe_a_product() -> None:
    assert TextTemplate("A fine {title} by Acme.").render({"title": " "}) == ""


def test_columns_are_named_once_in_order() -> None:
    assert TextTemplate("{b} {a} {b}").columns == ("b", "a")


@pytest.mark.parametrize(
    "template",
    [
        "{title.__class__}",
        "{title[0]}",
        "{title!r}",
        "{title:>10}",
        "{title:{width}}",
        "{}",
        "{ }",
        "{title",
        "title}",
    ],
)
def test_anything_but_a_plain_name_in_braces_is_refused(template: str) -> None:
    with pytest.raises(CatalogueError, match=r"\{title\}"):
        TextTemplate(template)


def test_a_template_without_columns_is_refused() -> None:
    with pytest.raises(CatalogueError, match="names no column"):
        TextTemplate("a dress")


def test_columns_by_other_names() -> None:
    template = TextTemplate("{{{name}}} by {brand}: {name}}}")
    renamed = TextTemplate(template.renamed({"name": "title", "none": "x"}))
    assert renamed.template == "{{{title}}} by {brand}: {title}}}"
    values = {"title": "Top", "brand": "Acme"}
    assert renamed.render(values) == template.render({"name": "Top", "brand": "Acme"})
