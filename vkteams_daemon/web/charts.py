"""Charts as SVG: without scripts, and without a reference to anything outside of them."""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pygal
from pygal.style import Style

# For maps, which nobody draws here, pygal meddles with every import of this process in a way that Python has given up.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]

_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", "DejaVu Sans", Arial, sans-serif'
_LIGHT = ("#24646a", "#c26d2c", "#6a5aa8", "#3f8a4c", "#a8466a", "#8a8f96")
_DARK = ("#7fc4c4", "#e2a06a", "#b3a6e8", "#8fce9a", "#e39ab7", "#8c939b")
WIDE, NARROW = (720, 300), (360, 300)
"""Width and height in CSS pixels."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG.

    Attributes:
        svg: the document.
        policy: the Content-Security-Policy with which it may be shown: its one style sheet and nothing else.
    """

    svg: bytes
    policy: str


@dataclass(frozen=True, slots=True)
class Charts:
    """How pictures look: their size and colours."""

    dark: bool = False
    narrow: bool = False

    def make(self, kind: str, formatter: Callable[[int], str], *, one_colour: bool = False, **options: Any) -> Any:
        """An empty chart of this kind, a class of pygal."""
        colours = _DARK if self.dark else _LIGHT
        width, height = NARROW if self.narrow else WIDE
        ink, quiet, line = ("#e6e4df", "#a0a6ae", "#3a4047") if self.dark else ("#1f2328", "#5f6670", "#d5d1c9")
        style = Style(
            background="transparent", plot_background="transparent", foreground=quiet, foreground_strong=ink,
            foreground_subtle=line, guide_stroke_color=line, major_guide_stroke_color=line, opacity="1",
            colors=colours[:1] * 7 if one_colour else colours, font_family=_FONT, label_font_size=12,
            major_label_font_size=12, legend_font_size=12, transition="0s",
        )  # fmt: skip
        return getattr(pygal, kind)(**{
            "js": (), "no_prefix": True, "explicit_size": True, "width": width, "height": height, "style": style,
            "show_legend": False, "margin": 8, "spacing": 6, "tooltip_border_radius": 0, "truncate_label": -1,
            "value_formatter": lambda value: formatter(round(value)), "min_scale": 2, "max_scale": 5, "zero": 0,
            "include_x_axis": True, "no_data_text": "", "xml_filters": (), **options,
        })  # fmt: skip

    def finish(self, chart: Any) -> Picture:
        """The document of a chart."""
        sheets: list[str] = []

        def bare(root: Any) -> Any:
            for parent in list(root.iter()):
                for child in list(parent):
                    # Its settings, as a script, remarks with addresses in them, and what the script would show.
                    hidden = isinstance(child.tag, str) and "tooltip" in child.get("class", "").split()
                    if not isinstance(child.tag, str) or child.tag in ("script", "title", "desc") or hidden:
                        parent.remove(child)
                    elif child.tag == "style":
                        sheets.append(child.text)
            return root

        chart.add_xml_filter(bare)
        svg: bytes = chart.render()
        hashes = " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()}'" for sheet in sheets
        )
        return Picture(svg, f"default-src 'none'; style-src {hashes}")
