"""Layer diagrams written as Mermaid flowcharts become SVG when the site is built.

Forges draw such a block themselves. Mermaid for the site would be 3.5 MB of JavaScript, which the
theme fetches from elsewhere; for layers of boxes a page of Python does. Only this part of the
language is understood, and anything else fails the build:

    flowchart TB
      subgraph top["title of the layer"]
        direction TB
        one["name<br>a line of text<br>another"]
      end
      top --> below
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

from pymdownx.superfences import SuperFencesException

BOX_WIDTH, BOX_GAP, MARGIN = 124, 8, 12
LINE, TITLE, ARROW = 15, 24, 20
"""Heights of a line in a box, of a layer's title, and of the arrow between two layers."""

_LINE = re.compile(
    r"flowchart TB|direction TB|end|subgraph (?P<layer>\w+)\[\"(?P<title>[^\"]+)\"\]"
    r"|(?P<box>\w+)\[\"(?P<text>[^\"]+)\"\]|(?P<above>\w+) --> (?P<below>\w+)"
)


class Layer(NamedTuple):
    """A layer: its title, and the lines of text of each of its boxes."""

    title: str
    boxes: list[list[str]]


def on_config(config: Any) -> Any:
    """Let blocks of `mermaid` be drawn."""
    fence = {"name": "mermaid", "class": "diagram", "format": drawn_block}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def drawn_block(source: str, *_: object, **__: object) -> str:
    """The block as an SVG, as superfences asks for it."""
    try:
        return svg_of(layers_of(source))
    except ValueError as error:
        raise SuperFencesException(f"a diagram cannot be drawn: {error}") from error


def layers_of(source: str) -> list[Layer]:
    """The layers from top to bottom.

    Raises:
        ValueError: a line is none that we know, or an arrow does not lead to the layer below.
    """
    layers: dict[str, Layer] = {}
    arrows: list[tuple[str, str]] = []
    for line in filter(None, map(str.strip, source.splitlines())):
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"{line!r} is not understood")
        if found["layer"]:
            layers[found["layer"]] = Layer(found["title"], [])
        elif found["box"]:
            list(layers.values())[-1].boxes.append(found["text"].split("<br>"))
        elif found["above"]:
            arrows.append((found["above"], found["below"]))
    names = list(layers)
    if arrows != list(pairwise(names)):
        raise ValueError("each layer needs one arrow to the next, in their order")
    return list(layers.values())


def svg_of(layers: list[Layer]) -> str:
    """The layers as bands of boxes, in the colours of the page."""
    most = max(len(layer.boxes) for layer in layers)
    width = 2 * MARGIN + most * (BOX_WIDTH + BOX_GAP) - BOX_GAP
    parts: list[str] = []
    top = 1
    for number, layer in enumerate(layers):
        if number:
            parts.append(_arrow(width // 2, top - ARROW))
        height = TITLE + _box_height(layer) + MARGIN
        parts += _band(layer, top, width, height)
        top += height + ARROW
    words = escape("; ".join(f"{layer.title}: {_names(layer)}" for layer in layers))
    style = (
        f"display: block; width: 100%; min-width: 560px; max-width: {width}px; margin: 1em auto; "
        "font: 11px sans-serif; fill: var(--md-default-fg-color)"
    )
    return (
        f'<div style="overflow-x: auto"><svg role="img" aria-label="{words}" style="{style}" '
        f'viewBox="0 0 {width} {top - ARROW + 1}">{"".join(parts)}</svg></div>'
    )


def _names(layer: Layer) -> str:
    return ", ".join(box[0] for box in layer.boxes)


def _box_height(layer: Layer) -> int:
    return LINE * max(map(len, layer.boxes)) + MARGIN


def _band(layer: Layer, top: int, width: int, height: int) -> Iterator[str]:
    yield _rect(1, top, width - 2, height, "var(--md-code-bg-color)")
    yield f'<text x="{MARGIN}" y="{top + 16}" opacity="0.8">{escape(layer.title)}</text>'
    left = (width - len(layer.boxes) * (BOX_WIDTH + BOX_GAP) + BOX_GAP) // 2
    for box in layer.boxes:
        yield _rect(left, top + TITLE, BOX_WIDTH, _box_height(layer), "var(--md-default-bg-color)")
        for number, text in enumerate(box):
            bold = "" if number else ' font-weight="bold" font-size="12"'
            at = f'x="{left + BOX_WIDTH // 2}" y="{top + TITLE + LINE * (number + 1) + 2}"'
            yield f'<text {at} text-anchor="middle"{bold}>{escape(text)}</text>'
        left += BOX_WIDTH + BOX_GAP


def _rect(left: int, top: int, width: int, height: int, fill: str) -> str:
    return (
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="4" '
        f'style="fill: {fill}; stroke: var(--md-default-fg-color--lighter)"/>'
    )


def _arrow(middle: int, top: int) -> str:
    end = top + ARROW - 3
    return (
        f'<path d="M{middle} {top + 2}V{end}m-4 -5l4 5l4 -5" '
        f'style="fill: none; stroke: var(--md-default-fg-color--light)"/>'
    )
