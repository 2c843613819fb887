"""Pages of HTML that open from disk and need nothing from elsewhere, in light and in dark.

A page is a Jinja2 template beside its module that extends `page.html.jinja`. What a template is given is escaped,
but for `Markup`, which the functions here return.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from prototxt.errors import InputError
from prototxt.files import MAX_IMAGE, read_ordinary

_HERE = Path(__file__).parent

_PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".svg": "image/svg+xml"}


def render(template: Path, **values: Any) -> Markup:
    """The text that a template makes of `values`.

    Args:
        template: the file; it may extend or include those beside it and those beside this module. Where it extends
            `page.html.jinja`, it is given `title` (plain text), and `style` and `script` (`Markup`) of this page alone.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, _HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    common = {"common_style": file_text(_HERE / "page.css"), "style": "", "script": ""}
    text = environment.get_template(template.name).render({**common, **values})
    # A file's name may be bytes that are no text: they are shown escaped.
    return Markup(text.encode("utf-8", "backslashreplace").decode())


def file_text(path: Path) -> Markup:
    """A style or script of ours, to be put into a page as it is."""
    return Markup(path.read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> Markup:
    """A table of plain text: the first column to the left, numbers to the right."""
    return render(_HERE / "table.html.jinja", head=head, rows=rows, caption=caption)


def picture(path: Path, alt: str) -> Markup:
    """A PNG, JPEG, WebP or SVG file, carried in the page.

    Raises:
        InputError: a file that cannot be read, or of another kind.
    """
    if path.suffix not in _PICTURES:
        raise InputError(f"{path}: not a picture for a page: it must be one of {', '.join(_PICTURES)}")
    try:
        source = data_uri(read_ordinary(path, MAX_IMAGE), _PICTURES[path.suffix])
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    return Markup('<figure><img src="{}" alt="{}"></figure>').format(source, alt)


def data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def svg(figure: Figure) -> Markup:
    """The figure as an SVG element, the same text for the same figure."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": "pages", "font.family": "sans-serif"}
    ):
        figure.savefig(text, format="svg", metadata=nothing)
    return Markup(text.getvalue()[text.getvalue().index("<svg") :])


def figure(drawn: Figure) -> Markup:
    """The figure as a figure element."""
    return Markup("<figure>{}</figure>").format(svg(drawn))
