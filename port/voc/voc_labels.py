"""From VOC's annotations to the list of images and classes that training reads."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from rich.console import Console
from rich.table import Table

from port.voc.classes import CLASSES, IGNORE, class_index
from port.voc.each import for_each
from port.voc.label_images import read_label_image
from port.voc.lists import Entry, list_line, read_names
from port.voc.settings import MASK_FOLDERS, check_source, first_folder
from prototxt.errors import InputError
from prototxt.files import read_ordinary
from weights.files import write_text
from weights.progress import plain_console

PAPER_COUNTS = {"train": 10582, "val": 1449, "test": 1456}
"""[P]'s images of VOC 2012: training with the augmented annotations, validation, test."""


def image_labels(
    voc: Path, list_: Path, source: str = "xml", workers: int = 1
) -> tuple[list[tuple[str, tuple[int, ...]]], list[InputError]]:
    """Each listed image's name and class indices, and what could not be had.

    Args:
        source: "xml": the objects of `Annotations/NAME.xml`; "masks": the values of the label image, in
            `SegmentationClassAug` or, where there is none, `SegmentationClass`.

    Raises:
        InputError: an unknown source, a dataset without the folders, an unreadable list.
    """
    check_source(source)
    folders = ["Annotations"] if source == "xml" else MASK_FOLDERS
    folder = first_folder(voc, folders)
    if folder is None:
        raise InputError(f"{voc}: has no folder {' or '.join(folders)}: is it VOC2012's own folder?")
    entries, failed = read_names(list_)
    work = partial(_labels_of, voc / "JPEGImages", folder, source)
    lines = []
    for entry, result in for_each(work, entries, workers, "labels"):
        if isinstance(result, InputError):
            failed.append(result)
        else:
            lines.append((entry.name, result))
    return lines, failed


def write_list(out: Path, lines: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    """Write lines `NAME CLASS [CLASS …]`, and print how many images each class has."""
    write_text(out, "".join(list_line(*line) for line in lines))
    _print_counts(lines, plain_console())


def paper_note(list_: Path, count: int) -> str:
    """How `count` compares with the paper's for the split that the list's name tells."""
    splits = [split for split in PAPER_COUNTS if split in list_.stem.lower()]
    if len(splits) != 1:
        known = ", ".join(f"{split} {number:,}" for split, number in PAPER_COUNTS.items())
        return f"{count:,} images; {list_.name} does not tell the split; the paper's are {known}"
    due = PAPER_COUNTS[splits[0]]
    if count == due:
        return f"{count:,} images, as in the paper ({splits[0]})"
    return f"{count:,} images differ from the paper's {due:,} ({splits[0]})"


def _labels_of(images: Path, folder: Path, source: str, entry: Entry) -> tuple[int, ...]:
    if not (images / f"{entry.name}.jpg").is_file():
        raise InputError(f"{entry.where}: {entry.name}: no image {images / entry.name}.jpg")
    if source == "xml":
        labels = _xml_labels(folder / f"{entry.name}.xml")
    else:
        path = folder / f"{entry.name}.png"
        labels = [int(value) - 1 for value in np.unique(read_label_image(path)) if value not in (0, IGNORE)]
        if not labels:
            raise InputError(f"{path}: has no pixel of any class: left out")
    return tuple(sorted(set(labels)))


def _xml_labels(path: Path) -> list[int]:
    try:
        root = ElementTree.fromstring(read_ordinary(path, 1 << 24))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): --from masks needs no XML") from error
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path}: is not XML ({error}): get it anew") from error
    names = [(found.findtext("name") or "").strip() for found in root.findall("object")]
    if not names:
        raise InputError(f"{path}: has no object: left out")
    known = {_letters(name): index for index, name in enumerate(CLASSES)}
    unknown = next((name for name in names if _letters(name) not in known), None)
    if unknown is not None:
        raise InputError(f'{path}: object "{unknown}" is none of VOC\'s classes: correct its name')
    return [class_index(name) for name in names]


def _letters(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalpha())


def _print_counts(lines: Sequence[tuple[str, tuple[int, ...]]], console: Console) -> None:
    counts = Counter(label for _, labels in lines for label in labels)
    table = Table("class", "name", "images")
    for label, name in enumerate(CLASSES):
        table.add_row(str(label), name, str(counts[label]))
    console.print(table)
