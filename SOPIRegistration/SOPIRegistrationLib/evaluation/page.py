"""report.html: an evaluation's tables, plots and cases as one page that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt


@dataclass(frozen=True)
class Shown:
    """A case of the gallery.

    Attributes:
        method: of the result.
        caption: what it is.
        picture: PNG.
    """

    method: str
    caption: str
    picture: bytes


_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:1300px;margin:2em auto;padding:0 1em;color:#222}"
    "table{display:block;overflow-x:auto;border-collapse:collapse;font-size:13px}"
    "td,th{border:1px solid #ccc;padding:3px 8px;text-align:left}th{background:#f2f2f2}"
    "img{max-width:100%}figure{margin:.5em 0 1.2em}figcaption{font-size:13px;color:#555}"
)


def page_of(text: str, plots: Mapping[str, bytes], shown: Sequence[Shown]) -> str:
    """One HTML page that needs no other file.

    Args:
        text: of the report, Markdown; markup of HTML in it stays text.
        plots: pictures (PNG) by caption.
        shown: cases, by method.
    """
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>Evaluation</title>',
        f"<style>{_STYLE}</style></head>",
        "<body>",
        MarkdownIt("commonmark", {"html": False}).enable("table").render(text),
    ]
    if plots:
        parts.append("<h2>Plots</h2>")
        parts += [_figure(picture, name) for name, picture in plots.items()]
    if shown:
        parts.append("<h2>Best, median and worst cases</h2>")
        parts.append(
            "<p>X-ray; X-ray (blue) and DRR (orange) at the start and at the end, gray where they agree; "
            "edges of the DRR at the end on the X-ray.</p>"
        )
    for method in dict.fromkeys(one.method for one in shown):
        parts.append(f"<h3>{html.escape(method)}</h3>")
        parts += [_figure(one.picture, one.caption) for one in shown if one.method == method]
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _figure(picture: bytes, caption: str) -> str:
    data = base64.b64encode(picture).decode("ascii")
    text = html.escape(caption)
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"
