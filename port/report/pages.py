"""Pages of HTML that open from disk and need nothing from elsewhere, in light and in dark."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from prototxt.errors import InputError
from prototxt.files import MAX_IMAGE, read_ordinary

_NOTHING_FROM_ELSEWHERE = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
"""A content policy: even a name that slipped through as HTML could fetch nothing."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --shade: #f4f4f4; --line: #999; --bad: #b00020 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --paper: #17181a; --shade: #222427; --line: #777; --bad: #ff8a80 }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
body { max-width: 72em; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.4em }
figure { margin: 1em 0 } figure > img, figure > svg { max-width: 100%; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } caption { text-align: left }
th, td { padding: .18em .7em; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
thead tr:last-child th { border-bottom: 1px solid var(--line) }
tr:nth-child(even) td { background: var(--shade) }
.scroll { overflow-x: auto }
"""

_PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".svg": "image/svg+xml"}


def document(title: str, body: Iterable[str], style: str = "", script: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        body: pieces of HTML.
        style, script: of this page alone, after the common style.
    """
    scripts = f"<script>{script}</script>\n" if script else ""
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_NOTHING_FROM_ELSEWHERE}">
<style>{_STYLE}{style}</style></head><body>
{"".join(f"{piece}{chr(10)}" for piece in body)}{scripts}</body></html>
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of plain text: the first column to the left, numbers to the right."""
    named = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    columns = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    lines = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="scroll"><table>{named}<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(path: Path, alt: str) -> str:
    """A PNG, JPEG, WebP or SVG file, carried in the page.

    Raises:
        InputError: a file that cannot be read, or of another kind.
    """
    if path.suffix not in _PICTURES:
        raise InputError(f"{path}: not a picture for a page: {', '.join(_PICTURES)} are due")
    try:
        source = data_uri(read_ordinary(path, MAX_IMAGE), _PICTURES[path.suffix])
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    return f'<figure><img src="{source}" alt="{html.escape(alt)}"></figure>'


def data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def svg(figure: Figure) -> str:
    """The figure as an SVG element, the same text for the same figure."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "pages", "font.family": "sans-serif"}
    ):
        figure.savefig(text, format="svg", metadata=nothing)
    return text.getvalue()[text.getvalue().index("<svg") :]
