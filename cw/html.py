"""Tables for a notebook: plain HTML without colours of its own, so that it is legible on a light and a dark page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

LONGEST = 200
"""Number of characters of a text that is shown. Larger: a table fills the page. Smaller: more texts are cut."""


def shown(make: Callable[[], str]) -> str | None:
    """Return what `make` does; None, for which a notebook shows the repr, if it raises."""
    try:
        return make()
    except Exception:
        return None


def fields(title: str, values: Mapping[str, object]) -> str:
    """Return a table with a line for each name and its value."""
    lines = (f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in values.items())
    return f"<table><caption>{_text(title)}</caption>{''.join(lines)}</table>"


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a head."""
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    lines = ("".join(f"<td>{_text(value)}</td>" for value in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines) or f'<tr><td colspan="{len(columns)}">none</td></tr>'
    return f"<table><caption>{_text(title)}</caption><tr>{head}</tr>{body}</table>"


def _text(value: object) -> str:
    from html import escape  # rarely needed

    text = str(value)
    return escape(text if len(text) <= LONGEST else f"{text[:LONGEST]} ...")
