"""Views as HTML: tables whose numbers can be copied, and pictures beside them. Every text of others is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from hansa.printable import printable
from hansa.views.chart import View
from hansa.views.drawing import can_draw, draw
from hansa.views.palette import LIGHT, Scheme, page_variables

_STYLE = """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.5rem; background: var(--surface); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Arial, sans-serif; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin: 2rem 0 .3rem; }
p { color: var(--muted); max-width: 46rem; overflow-wrap: anywhere; }
figure { margin: .8rem 0; max-width: 34rem; } figure svg { width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
@media print { body { max-width: none; padding: 0; } section { break-inside: avoid-page; } .scroll { overflow: visible; }
  th, td { white-space: normal; } }
"""


def _escape(text: str) -> str:
    """Text of others for a page: escaped, and what is not plainly visible in it shown as an escape."""
    return html.escape(printable(text))


def html_table(rows: Sequence[Sequence[str]], label: str = "") -> str:
    """A table of texts, its first row the head, as HTML. label: what a screen reader calls it."""
    head, *body = rows
    cells = "".join(f'<th scope="col">{_escape(text)}</th>' for text in head)
    lines = "".join("<tr>" + "".join(f"<td>{_escape(text)}</td>" for text in row) + "</tr>" for row in body)
    named = f' aria-label="{_escape(label)}"' if label else ""
    return f"<table{named}><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"


def notebook_html(facts: str, views: Iterable[View]) -> str:
    """What a notebook shows: dark on white whatever its theme is; tables alone where matplotlib is not installed."""
    shown = "".join(view_html(view, "light", f"v{place}", "h4") for place, view in enumerate(views))
    # A background of its own: the pictures' colours are those of a light page.
    style = f"background:{LIGHT['surface']};color:{LIGHT['ink']};padding:.5em;max-width:56em"
    return f'<div style="{style}"><p>{_escape(facts)}</p>{shown}</div>'


def page_html(title: str, facts: str, views: Iterable[View]) -> str:
    """A whole page that loads nothing from elsewhere and runs nothing, light and dark, to read and to print."""
    shown = "".join(view_html(view, "page", f"v{place}", "h2") for place, view in enumerate(views))
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escape(title)}</title><style>{page_variables()}{_STYLE}</style></head>"
        f"<body><main><h1>{_escape(title)}</h1><p>{_escape(facts)}</p>{shown}</main></body></html>\n"
    )


def view_html(view: View, scheme: Scheme, prefix: str, heading: str) -> str:
    """A view: its picture where it can be drawn, and its table, which scrolls by itself where it is wide.

    Args:
        prefix: of the picture's ids. heading: the element of its title, such as "h2".
    """
    drawn = ""
    if view.chart is not None and can_draw():
        drawn = f"<figure>{draw(view.chart, view.alt, scheme, prefix)}</figure>"
    note = f'<p class="note">{_escape(view.note)}</p>' if view.note else ""
    title = _escape(view.title)
    table = ""
    if view.table:
        table = f'<div class="scroll" role="region" aria-label="{title}" tabindex="0">{html_table(view.table, view.title)}</div>'
    return f'<section class="view"><{heading}>{title}</{heading}>{note}{drawn}{table}</section>'
