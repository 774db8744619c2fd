"""mkdocs hook: diagrams are drawn when the site is built, so that a page asks no other host for a program that draws them.

The documents write diagrams in mermaid's notation, which public hosts draw. Here the part of it that they use becomes SVG: sequence
diagrams, state diagrams and flowcharts from top to bottom. What is not understood stops the build.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

CHARACTER, LINE, ROW = 6.6, 17, 34
"""Width of a character and height of a line of text, and of a row of a diagram, in the picture's units."""

ARROW = (
    '<marker id="arrow-{0}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">'
    '<path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker>'
)


class Picture:
    """SVG that grows as things are drawn; `number` keeps its ids apart from those of other pictures of a page."""

    def __init__(self, number: int) -> None:
        self.parts: list[str] = []
        self.number = number
        self.width = self.height = 0.0

    def _reach(self, x: float, y: float) -> None:
        self.width, self.height = max(self.width, x), max(self.height, y)

    def text(self, x: float, y: float, text: str, anchor: str = "middle", upright: bool = False) -> None:
        turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if upright else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{html.escape(text)}</text>')
        half = 0 if upright else len(text) * CHARACTER * {"start": 1, "middle": 0.5, "end": 0}[anchor]
        self._reach(x + half + 8, y + 8)

    def box(self, x: float, y: float, width: float, height: float, text: str = "", dashed: bool = False) -> None:
        style = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4" fill="none" stroke="currentColor"{style}/>'
        )
        if text:
            self.text(x + width / 2, y + height / 2 + 4, text)
        self._reach(x + width + 8, y + height + 8)

    def line(self, points: Sequence[tuple[float, float]], arrow: bool = True, faint: bool = False) -> None:
        path = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        end = f' marker-end="url(#arrow-{self.number})"' if arrow else ""
        thin = ' stroke-opacity="0.35"' if faint else ""
        self.parts.append(f'<path d="M{path}" fill="none" stroke="currentColor"{thin}{end}/>')
        for x, y in points:
            self._reach(x + 8, y + 8)

    def svg(self, label: str) -> str:
        return (
            f'<svg class="diagram" role="img" aria-label="{html.escape(label)}" viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
            f'width="{self.width:.0f}" style="max-width:100%;height:auto" font-size="12" fill="currentColor">'
            f"<defs>{ARROW.format(self.number)}</defs>{''.join(self.parts)}</svg>"
        )


def drawn(source: str, number: int = 0) -> str:
    """A diagram as SVG. Raises ValueError where a line of it is not understood."""
    kind, *lines = [line.strip() for line in source.strip().splitlines() if line.strip()]
    draw = {"sequenceDiagram": _sequence, "stateDiagram-v2": _states, "flowchart TD": _flowchart}.get(kind)
    if draw is None:
        raise ValueError(f"a diagram of kind {kind!r} is not drawn here")
    picture = Picture(number)
    draw(picture, lines)
    return picture.svg(" ".join([kind.removesuffix("-v2"), "-", *lines]))


def _matched(pattern: str, line: str) -> re.Match[str]:
    found = re.fullmatch(pattern, line)
    if found is None:
        raise ValueError(f"a line of a diagram is not understood: {line!r}")
    return found


def _sequence(picture: Picture, lines: list[str]) -> None:
    names: dict[str, str] = {}
    steps = []
    for line in lines:
        if declared := re.fullmatch(r"participant (\w+) as (.+)", line):
            names[declared[1]] = declared[2]
        else:
            steps.append(line)
    places = {name: place for place, name in enumerate(names)}
    step = max(150.0, *(len(text) * CHARACTER + 24 for text in names.values()))
    for line in steps:
        if (sent := re.fullmatch(r"(\w+)->>(\w+): (.+)", line)) and sent[1] != sent[2]:
            step = max(step, (len(sent[3]) * CHARACTER + 20) / abs(places[sent[1]] - places[sent[2]]))
    at = {name: step / 2 + 12 + place * step for place, name in enumerate(names)}
    for name, text in names.items():
        picture.box(at[name] - len(text) * CHARACTER / 2 - 8, 8, len(text) * CHARACTER + 16, 26, text)
    y, first, last = 58.0, min(at.values()), max(at.values())
    loops: list[tuple[float, int]] = []
    for line in steps:
        if line == "end":
            top, depth = loops.pop()
            inset = 6.0 * depth
            picture.box(first - step / 2 + inset, top - 14, last - first + step - 2 * inset, y - top, dashed=True)
        elif line.startswith("loop "):
            picture.text(first - step / 2 + 14 + 6 * len(loops), y + 2, f"loop: {line[5:]}", "start")
            loops.append((y, len(loops)))
        elif line.startswith("Note over "):
            over, text = _matched(r"Note over ([\w,]+): (.+)", line).groups()
            ends = [at[name] for name in over.split(",")]
            half = max((max(ends) - min(ends)) / 2 + 40, len(text) * CHARACTER / 2 + 8)
            middle = max((max(ends) + min(ends)) / 2, half + 8)
            picture.box(middle - half, y - 12, 2 * half, 24, text)
        else:
            source, target, text = _matched(r"(\w+)->>(\w+): (.+)", line).groups()
            if source == target:
                x = at[source]
                picture.line([(x, y - 4), (x + 24, y - 4), (x + 24, y + 8), (x + 2, y + 8)])
                picture.text(x + 32, y + 6, text, "start")
            else:
                picture.text((at[source] + at[target]) / 2, y - 2, text)
                picture.line([(at[source], y + 6), (at[target], y + 6)])
        y += ROW
    for x in at.values():
        picture.line([(x, 34), (x, y)], arrow=False, faint=True)


def _states(picture: Picture, lines: list[str]) -> None:
    """States one below the other; what leads to the next one is an arrow between them, all else has a lane of its own at the right."""
    edges: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        source, target, _, text = _matched(r"(\S+) --> ([^:\s]+)(: (.+))?", line).groups()
        edges.setdefault((source, target), []).append(text or "")
    names = list(dict.fromkeys(name for edge in edges for name in edge))
    width = max(len(name) for name in names) * CHARACTER + 24
    step = 60.0
    top = {name: 12 + place * step for place, name in enumerate(names)}
    own = {name: ", ".join(texts) for (name, target), texts in edges.items() if name == target}
    for name in names:
        picture.box(12, top[name], width, 26, name)
        if name in own:
            picture.text(12 + width + 8, top[name] - 1, f"again: {own[name]}", "start")
    after = dict(pairwise(names))
    lane = 12 + width + 30 + max((len(f"again: {text}") * CHARACTER for text in own.values()), default=0)
    for (source, target), texts in edges.items():
        text = ", ".join(each for each in texts if each)
        if source == target:
            continue
        if after.get(source) == target:
            picture.line([(12 + width / 2, top[source] + 26), (12 + width / 2, top[target])])
            picture.text(12 + width / 2 + 8, top[source] + 42, text, "start")
            continue
        ends = top[source] + 17, top[target] + 9
        picture.line([(12 + width, ends[0]), (lane, ends[0]), (lane, ends[1]), (12 + width, ends[1])])
        picture.text(lane - 3, sum(ends) / 2, text, upright=True)
        lane += 24
    lowest = max(top.values()) + 40
    picture.line([(lane, lowest), (lane, lowest)], arrow=False)


def _flowchart(picture: Picture, lines: list[str]) -> None:
    texts: dict[str, str] = {}
    edges = []
    for line in lines:
        parts = [_matched(r'(\w+)(?:\["(.+)"\])?', part.strip()) for part in line.split("-->")]
        for part in parts:
            texts[part[1]] = part[2] or texts.get(part[1], part[1])
        edges += [(one[1], other[1]) for one, other in pairwise(parts)]
    layer = dict.fromkeys(texts, 0)
    for _ in texts:
        for source, target in edges:
            layer[target] = max(layer[target], layer[source] + 1)
    rows: list[list[str]] = [
        [name for name in texts if layer[name] == depth] for depth in range(max(layer.values()) + 1)
    ]
    widths = {name: len(text) * CHARACTER + 18 for name, text in texts.items()}
    whole = max(sum(widths[name] + 24 for name in row) for row in rows)
    at: dict[str, tuple[float, float]] = {}
    for depth, row in enumerate(rows):
        x = 8 + (whole - sum(widths[name] + 24 for name in row)) / 2 + 12
        for name in row:
            at[name] = x + widths[name] / 2, 8 + depth * 78
            picture.box(x, at[name][1], widths[name], 30, texts[name])
            x += widths[name] + 24
    for source, target in edges:
        picture.line([(at[source][0], at[source][1] + 30), (at[target][0], at[target][1])])


class _Drawing:
    """Numbers the diagrams of the site."""

    def __init__(self) -> None:
        self.count = 0

    def fence(self, source: str, *_: Any, **__: Any) -> str:
        """What stands in the page in place of the notation."""
        self.count += 1
        return f'<div class="diagram">{drawn(source, self.count)}</div>'


def on_config(config: Any) -> Any:
    """Have fences drawn here."""
    fences = [{"name": "mermaid", "class": "diagram", "format": _Drawing().fence}]
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = fences
    return config
