"""Tables for a notebook."""

from cw import html


def test_a_table_of_fields_and_one_of_rows_are_escaped():
    assert html.fields("A<b>", {"x&y": "<i>"}) == (
        "<table><caption>A&lt;b&gt;</caption><tr><th>x&amp;y</th><td>&lt;i&gt;</td></tr></table>"
    )
    assert html.table("t", ["<a>", "b"], [(1, "<2>")]) == (
        "<table><caption>t</caption><tr><th>&lt;a&gt;</th><th>b</th></tr><tr><td>1</td><td>&lt;2&gt;</td></tr></table>"
    )
    assert "none" in html.table("t", ["a"], [])


def test_long_texts_are_cut():
    assert len(html.fields("t", {"a": "x" * 10_000})) < 400


def test_what_cannot_be_shown_is_left_to_the_repr():
    assert html.shown(lambda: "a") == "a" and html.shown(lambda: str(1 / 0)) is None
