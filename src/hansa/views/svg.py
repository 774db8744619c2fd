"""A figure of matplotlib as SVG that a strict Content-Security-Policy lets pass: no style, no script, nothing from elsewhere.

matplotlib writes colours and fonts as style attributes and a style element, which such a policy refuses. Here they become attributes of
their own ("presentation attributes"). The same figure gives the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from hansa.printable import printable
from hansa.views.palette import Scheme, colours_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
FONTS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"

_FONT = re.compile(r"(?P<before>.*?)(?P<size>[\d.]+px)\s.*")
_URL = re.compile(r"url\(#([^)]*)\)")


def svg_of(figure: Figure, scheme: Scheme, alt: str, prefix: str = "") -> str:
    """The figure as one SVG element.

    Args:
        scheme: which colours. alt: what it shows, for whoever does not see it. prefix: of all ids, so that several figures can stand in
            one page.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "hansa", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    # The document is matplotlib's own; names that others chose stand in it as escaped texts.
    root = ElementTree.fromstring(re.sub(r"<!DOCTYPE[^>]*>", "", buffer.getvalue()))
    return ElementTree.tostring(_plain(root, scheme, alt, prefix), encoding="unicode")


def _plain(root: ElementTree.Element, scheme: Scheme, alt: str, prefix: str) -> ElementTree.Element:
    colours = colours_of(scheme)
    for parent in list(root.iter()):
        for child in [each for each in parent if each.tag in (f"{SVG}metadata", f"{SVG}style")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        found = dict(_attributes(element))
        for name, value in found.items():
            found[name] = _rewritten(name, value, colours, prefix)
        element.attrib.clear()
        element.attrib.update(found)
    root.attrib.pop("version", None)
    # What the style element said.
    root.attrib |= {"role": "img", "aria-label": printable(alt), "font-family": FONTS}
    if scheme != "page":  # it may be a file of its own
        root.set("xmlns", SVG[1:-1])
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    return root


def _attributes(element: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """The attributes, with each declaration of a style as one of its own."""
    for name, value in element.attrib.items():
        if name != "style":
            yield name.removeprefix(XLINK), value
            continue
        for declaration in value.split(";"):
            key, _, declared = (part.strip() for part in declaration.partition(":"))
            if key == "font":
                match = _FONT.match(declared)
                assert match is not None, declared
                yield "font-size", match["size"]
                if "bold" in match["before"] or "700" in match["before"]:
                    yield "font-weight", "bold"
            elif key and key != "font-family":
                yield key, declared


def _rewritten(name: str, value: str, colours: dict[str, str], prefix: str) -> str:
    if name in ("fill", "stroke"):
        value = colours.get(value, value)
    elif prefix and name == "id":
        value = f"{prefix}-{value}"
    elif prefix and name == "href":
        value = f"#{prefix}-{value.removeprefix('#')}"
    return _URL.sub(rf"url(#{prefix}-\1)", value) if prefix else value
