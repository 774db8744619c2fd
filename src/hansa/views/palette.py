"""Colours of pictures, light and dark, that colour-blind people tell apart.

The series are those of Okabe and Ito ("Color Universal Design", 2008): of each, those that stand out from the background, one of them
made darker until it does (contrast 3 to 1, as WCAG 2.2 asks of graphics). No picture says anything by colour alone: lines differ by
dashes and marks too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Scheme = Literal["light", "dark", "page"]
"""Fixed colours for a light or a dark background, or variables of the page that the picture stands in."""

KEYS: Mapping[str, str] = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "surface": "#040404",
    "series-1": "#050501",
    "series-2": "#050502",
    "series-3": "#050503",
    "series-4": "#050504",
    "series-5": "#050505",
}
"""Name -> the colour that stands for it while a picture is drawn; nothing else has such a colour."""

LIGHT: Mapping[str, str] = {
    "ink": "#17212b",
    "muted": "#5b6876",
    "line": "#dfe4e8",
    "surface": "#ffffff",
    "series-1": "#0072b2",
    "series-2": "#d55e00",
    "series-3": "#009e73",
    "series-4": "#b9608f",
    "series-5": "#000000",
}
DARK: Mapping[str, str] = {
    "ink": "#e6ebef",
    "muted": "#9aa8b4",
    "line": "#2d3842",
    "surface": "#182027",
    "series-1": "#56b4e9",
    "series-2": "#d55e00",
    "series-3": "#e69f00",
    "series-4": "#cc79a7",
    "series-5": "#f0e442",
}

SERIES = tuple(name for name in KEYS if name.startswith("series"))


def colours_of(scheme: Scheme) -> dict[str, str]:
    """Key colour -> what stands in the picture."""
    if scheme == "page":
        return {key: f"var(--{name})" for name, key in KEYS.items()}
    chosen = LIGHT if scheme == "light" else DARK
    return {key: chosen[name] for name, key in KEYS.items()}


def page_variables() -> str:
    """CSS that gives a page's variables their colours, light and dark."""

    def declared(colours: Mapping[str, str]) -> str:
        return " ".join(f"--{name}: {value};" for name, value in colours.items())

    return (
        f":root {{ color-scheme: light dark; {declared(LIGHT)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {declared(DARK)} }} }}\n"
        f"@media print {{ :root {{ color-scheme: light; {declared(LIGHT)} }} }}"
    )
