"""A description of the pooled table as one page of HTML, which loads nothing from elsewhere: its pictures are SVG, drawn here."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path

from hansa.data.description import FINE, ColumnDescription, Description, densities, ends, short
from hansa.files import write_whole
from hansa.views.html import html_table

MOST_CATEGORIES = 12
"""Categories that are drawn; the table has them all."""

WIDTH, HEIGHT = 260, 90
"""Of a picture, in its own units."""

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f8; --surface: #fff; --ink: #17212b; --muted: #5b6876; --line: #dfe4e8; --bar: #0f6e84; }
@media (prefers-color-scheme: dark) {
  :root { --page: #10161b; --surface: #182027; --ink: #e6ebef; --muted: #9aa8b4; --line: #2d3842; --bar: #55b7cf; }
}
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.5rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Arial, sans-serif; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p, figcaption { color: var(--muted); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.columns { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
figure { margin: 0; padding: .8rem; background: var(--surface); border: 1px solid var(--line); border-radius: 8px; }
figcaption { font-size: .82rem; } figcaption b { color: var(--ink); }
rect { fill: var(--bar); } text { fill: var(--muted); font-size: 9px; } svg { width: 100%; height: auto; }
"""


def write_page(path: Path, description: Description) -> None:
    """Write the page to `path` (UTF-8, one file). Raises OutputError."""
    write_whole(path, page(description).encode(), private=False)


def page(description: Description) -> str:
    """The page as text. Every name in it is escaped."""
    tables = "".join(f'<div class="wide">{html_table(rows)}</div><br>' for rows in description.tables())
    figures = "".join(_figure(own, description.min_cell_rows) for own in description.columns)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>The pooled table</title><style>{_STYLE}</style></head><body><h1>The pooled table</h1>"
        f"<p>{html.escape(description.facts())}. Plan {html.escape(description.plan)}, run {html.escape(description.run)}.</p>"
        f"<h2>In numbers</h2>{tables}<h2>Column by column</h2>"
        "<p>Values: rows by width of a bin; the bins at both ends have no width and are not drawn. Categories: rows.</p>"
        f'<div class="columns">{figures}</div></body></html>\n'
    )


def _figure(column: ColumnDescription, least: int) -> str:
    missing = f"fewer than {least}" if column.missing is None else f"{column.missing:,}"
    picture = _bars(column) if column.levels else _shape(column)
    return (
        f"<figure>{picture}<figcaption><b>{html.escape(column.name)}</b><br>{missing} of {column.rows:,} rows without a value"
        f"</figcaption></figure>"
    )


def _svg(parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 14}" role="img">{"".join(parts)}</svg>'


def _shape(column: ColumnDescription) -> str:
    """The distribution of ordered values: a bar for each bin that has two ends, as wide as it."""
    drawn = densities(column, FINE)
    if not drawn:
        rows = sum(own.rows for own in column.bins)
        return _svg(list(_rows_as_bars([(ends(own.low, own.high), own.rows) for own in column.bins], rows)))
    low, high = drawn[0][0], drawn[-1][1]
    scale = WIDTH / (high - low)
    bars = [
        f'<rect x="{(start - low) * scale:.2f}" y="{HEIGHT * (1 - tall):.2f}" width="{max((end - start) * scale - 0.5, 0.3):.2f}" '
        f'height="{HEIGHT * tall:.2f}"/>'
        for start, end, tall in drawn
    ]
    labels = [
        f'<text x="0" y="{HEIGHT + 11}">{short(low)}</text>',
        f'<text x="{WIDTH}" y="{HEIGHT + 11}" text-anchor="end">{short(high)}</text>',
    ]
    return _svg([*bars, *labels])


def _bars(column: ColumnDescription) -> str:
    """Rows of the largest categories, and of the others."""
    ranked = sorted(column.categories, key=lambda own: (-own.rows, str(own.level)))
    drawn = [(str(own.level), own.rows) for own in ranked[:MOST_CATEGORIES]]
    rest = column.other + sum(own.rows for own in ranked[MOST_CATEGORIES:])
    return _svg(list(_rows_as_bars([*drawn, *([("other", rest)] if rest else [])], column.rows)))


def _rows_as_bars(named: Sequence[tuple[str, int]], total: int) -> Iterator[str]:
    """Lying bars, one below the other, with their names and shares."""
    most, step = max((rows for _, rows in named), default=0) or 1, (HEIGHT + 14) / max(len(named), 4)
    for place, (name, rows) in enumerate(named):
        y = place * step
        text = html.escape(name if len(name) <= 18 else name[:17] + "…")
        yield f'<rect x="90" y="{y + 1:.1f}" width="{130 * rows / most:.1f}" height="{max(step - 2, 1):.1f}"/>'
        yield f'<text x="86" y="{y + step / 2 + 3:.1f}" text-anchor="end">{text}</text>'
        yield f'<text x="{94 + 130 * rows / most:.1f}" y="{y + step / 2 + 3:.1f}">{rows / max(total, 1):.1%}</text>'
