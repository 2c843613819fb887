"""Options that several commands share: photographs, or a dataset in VOC's layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from prototxt.errors import InputError

Photographs = Annotated[list[Path] | None, typer.Argument(help="Photographs.", metavar="[IMAGE...]")]
Dataset = Annotated[
    Path | None, typer.Option(help="Or a dataset in VOC's layout (JPEGImages/NAME.jpg), with --list.")
]
DatasetList = Annotated[Path | None, typer.Option("--list", help="Its images: the first word of each line.")]
ToBgr = Annotated[bool, typer.Option("--to-bgr", help="Take grey, 16-bit and RGBA images too.")]


def check_source(images: Sequence[Path] | None, voc: Path | None, list_: Path | None) -> None:
    """Raises InputError unless either photographs are given, or a dataset and its list."""
    if bool(images) == bool(voc or list_) or bool(voc) != bool(list_):
        raise InputError("give photographs, or a dataset with --voc and --list")
