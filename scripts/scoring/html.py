"""The parts of a page: one file of HTML that needs no other file, no script and no network. All text is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

CSS = Path(__file__).with_name("report.css")
MAX_NUMBER = 1e9
"""A larger error is shown by its power of ten: a model may predict any number."""


def make_document(title: str, parts: Iterable[str]) -> str:
    """Return a page with this heading and these parts, which are HTML."""
    # Nothing is loaded and no script runs, even if a name in the page is HTML.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    body = "\n".join([f"<h1>{escape(title)}</h1>", *parts])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>
{CSS.read_text()}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>"""


def make_paragraph(text: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def make_tiles(tiles: Mapping[str, str]) -> str:
    """Return short values by their names, side by side."""
    cells = "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in tiles.items())
    return f'<dl class="tiles">\n{cells}\n</dl>'


def make_grid(figures: Iterable[str], *, third_is_tall: bool = False) -> str:
    """Return figures side by side, as far as there is space; a tall third one is beside the first two."""
    return "\n".join([f'<div class="plots{" third-is-tall" if third_is_tall else ""}">', *figures, "</div>"])


def make_figure(title: str, caption: str, svg: str) -> str:
    """Return a plot with its title and its caption."""
    label = escape(f"{title}. {caption}")
    image = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return f"<figure>\n<h3>{escape(title)}</h3>\n<figcaption>{escape(caption)}</figcaption>\n{image}\n</figure>"


def make_table(label: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose other columns are numbers. It scrolls if it is too wide."""
    number = ' class="number"'
    heads = "".join(f'<th scope="col"{number if at else ""}>{escape(name)}</th>' for at, name in enumerate(head))
    body = "\n".join(f'<tr><th scope="row">{_breakable(first)}</th>{_cells(cells)}</tr>' for first, *cells in rows)
    table = f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    return f'<div class="table" role="region" aria-label="{escape(label)}" tabindex="0">\n{table}\n</div>'


def _cells(numbers: Iterable[str]) -> str:
    return "".join(f'<td class="number">{escape(number)}</td>' for number in numbers)


def _breakable(text: str) -> str:
    """Return text for HTML that may be broken into lines after a slash: paths, and names of zones."""
    return escape(text).replace("/", "/<wbr>")


def write_number(value: float | None, digits: int) -> str:
    """Return a number for people; None and NaN mean that it is not known."""
    if value is None or np.isnan(value):
        return "not known"
    if abs(value) >= MAX_NUMBER:
        return f"{value:.2e}".replace("-", "−", 1)
    # Without the sign of a number that is rounded to zero.
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")
