"""A figure as SVG inside a page: no style that a content security policy refuses, colours that the page chooses."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FONT = re.compile(r"(?:(bold|\d+) )?([\d.]+)px")
_DROPPED = ("metadata", "style", "title")


def svg(figure: Any, colours: Mapping[str, str], label: str) -> str:
    """The `<svg>` element of a matplotlib figure.

    What lies inside axes is wrapped in a clipped group and in one of the class `x`, which a page's script may stretch
    along time (texts: class `xt`, which it may move).

    Parameters
    ----------
    figure : a `matplotlib.figure.Figure`.
    colours : names of the page's CSS variables by the figure's colours, `#rrggbb`; others stay.
    label : what a screen reader says.
    """
    from matplotlib import rc_context

    drawn = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "perun", "path.simplify": False}):
        figure.savefig(drawn, format="svg", metadata={"Date": None}, transparent=True)
    root = ElementTree.fromstring(drawn.getvalue())
    _clean(root, colours)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label, "class": "chart"}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _clean(element: ElementTree.Element, colours: Mapping[str, str]) -> None:
    for child in list(element):
        if child.tag.removeprefix(_SVG).rpartition("}")[2] in _DROPPED:
            element.remove(child)
            continue
        _clean(child, colours)
        clip = child.attrib.pop("clip-path", None)
        if clip is not None:
            outer = ElementTree.Element("g", {"clip-path": clip})
            inner = ElementTree.SubElement(outer, "g", {"class": "xt" if _is_text(child) else "x"})
            inner.append(child)
            outer.tail, child.tail = child.tail, None
            at = list(element).index(child)
            element.remove(child)
            element.insert(at, outer)
    element.tag = element.tag.removeprefix(_SVG)
    element.text, element.tail = (text and text.strip() for text in (element.text, element.tail))
    attributes: dict[str, str] = {}
    for key, value in element.attrib.items():
        if key == "style":
            attributes.update(_presentation(value, colours))
        elif key == f"{_XLINK}href":
            attributes["href"] = _image(value) if value.startswith("data:") else value
        else:
            attributes[key] = _NUMBER.sub(lambda found: f"{float(found[0]):.2f}", value) if key == "d" else value
    if "d" in attributes:
        attributes["d"] = re.sub(r"\s+", " ", attributes["d"]).strip()
        for key in ("stroke-linejoin", "stroke-linecap"):
            attributes.pop(key, None)
    element.attrib = attributes


def _is_text(element: ElementTree.Element) -> bool:
    return element.tag == "text" or (element.tag == "g" and len(element) == 1 and element[0].tag == "text")


def _presentation(style: str, colours: Mapping[str, str]) -> dict[str, str]:
    """The attributes that say what a style says."""
    found: dict[str, str] = {}
    for part in style.split(";"):
        key, _, value = (word.strip() for word in part.partition(":"))
        if key == "font":
            match = _FONT.search(value)
            if match is not None:
                found["font-size"] = match[2]
                if match[1]:
                    found["font-weight"] = match[1]
        elif key in ("fill", "stroke"):
            name = colours.get(value.lower())
            found[key] = value if name is None else f"var(--{name})"
        elif key not in ("", "font-family"):
            found[key] = value
    return found


def _image(href: str) -> str:
    """A picture of few colours with a palette: a third of the bytes."""
    import numpy as np
    from PIL import Image

    _, _, data = href.partition("base64,")
    source = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA")
    pixels = np.asarray(source)
    packed, places = np.unique(np.ascontiguousarray(pixels).view(np.uint32), return_inverse=True)
    if len(packed) > 256:
        return href
    colours = packed.view(np.uint8).reshape(-1, 4)
    made = Image.fromarray(places.reshape(pixels.shape[:2]).astype(np.uint8), "P")
    made.putpalette(colours[:, :3].tobytes())
    written = io.BytesIO()
    made.save(written, format="PNG", optimize=True, transparency=colours[:, 3].tobytes())
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
