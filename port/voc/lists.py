"""Lists of images, with their classes or without."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from port.voc.classes import CLASSES, class_number
from prototxt.errors import InputError
from prototxt.files import read_text


@dataclass(frozen=True)
class Entry:
    """One line of a list.

    Attributes:
        where: the list's file and line, for messages.
        labels: class indices from 0, each once, in the list's order.
    """

    name: str
    labels: tuple[int, ...] = ()
    where: str = ""


def read_names(path: Path) -> tuple[list[Entry], list[InputError]]:
    """Image names: the stem of each line's first word, so that lists of paths (`/JPEGImages/a.jpg …`) do too.

    Returns:
        The entries, without labels, and an error for each line that names an image again, or none.

    Raises:
        InputError: a list that cannot be read or is empty.
    """
    entries, failed = [], []
    for where, words in _lines(path):
        name = Path(words[0]).stem
        if name in ("", "..") or not name.isprintable() or _too_long(name):
            failed.append(
                InputError(f"{where}: {words[0]}: is no name of an image: correct or remove the line")
            )
        else:
            entries.append(Entry(name, (), where))
    entries, again = _unique(entries)
    return entries, failed + again


def read_entries(path: Path) -> tuple[list[Entry], list[InputError]]:
    """Lines `NAME CLASS [CLASS …]`, classes from 0, as `train_cls.txt` has them.

    Returns:
        The entries, and an error for each line that names no class, an unknown one, an image again, or one
        outside of the dataset's folder: results are written under these names.

    Raises:
        InputError: a list that cannot be read or is empty.
    """
    entries, failed = [], []
    for where, (name, *labels) in _lines(path):
        wrong = [label for label in labels if class_number(label) is None]
        if _too_long(name):
            failed.append(InputError(f"{where}: {name[:50]}…: is too long for the name of a file"))
        elif PurePath(name).is_absolute() or ".." in PurePath(name).parts or not name.isprintable():
            failed.append(InputError(f"{where}: {name}: leads out of the folder: give a name within it"))
        elif not labels:
            failed.append(InputError(f"{where}: {name}: names no class: write {name} CLASS [CLASS …]"))
        elif wrong:
            failed.append(
                InputError(f"{where}: {name}: class {wrong[0]} is not from 0 to {len(CLASSES) - 1}")
            )
        else:
            entries.append(Entry(name, tuple(dict.fromkeys(map(int, labels))), where))
    entries, again = _unique(entries)
    return entries, failed + again


_MOST_OF_NAME = 200
"""Bytes of a name: with what is put behind it, a file's has at most 255."""


def _too_long(name: str) -> bool:
    return any(len(part.encode()) > _MOST_OF_NAME for part in PurePath(name).parts) or len(name) > 2000


def list_line(name: str, labels: tuple[int, ...]) -> str:
    return " ".join([name, *map(str, labels)]) + "\n"


def check_stems(images: Sequence[Path]) -> None:
    """Raises InputError where two images' results would share a name."""
    stems = Counter(path.stem for path in images)
    twice = next((stem for stem, count in stems.items() if count > 1), None)
    if twice:
        raise InputError(f'two images are called "{twice}": their results would share a name: run them apart')


def _unique(entries: list[Entry]) -> tuple[list[Entry], list[InputError]]:
    first: dict[str, Entry] = {}
    failed = []
    for entry in entries:
        if entry.name in first:
            failed.append(InputError(f"{entry.where}: {entry.name} is listed again: the first line counts"))
        else:
            first[entry.name] = entry
    return list(first.values()), failed


def _lines(path: Path) -> list[tuple[str, list[str]]]:
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or "not text"
        raise InputError(f"{path}: cannot be read ({told}): give a list of image names") from error
    lines = [(f"{path}:{i}", line.split()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path}: is empty: list at least one image")
    return lines
