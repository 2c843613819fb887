"""Lists of images, with their classes or without."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from port.voc.classes import CLASSES
from prototxt.errors import InputError


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
        The entries, without labels, and an error for each line that names an image again.

    Raises:
        InputError: a list that cannot be read or is empty.
    """
    return _unique([(Entry(Path(words[0]).stem, (), where)) for where, words in _lines(path)])


def read_entries(path: Path) -> tuple[list[Entry], list[InputError]]:
    """Lines `NAME CLASS [CLASS …]`, classes from 0, as `train_cls.txt` has them.

    Returns:
        The entries, and an error for each line that names no class, an unknown one, or an image again.

    Raises:
        InputError: a list that cannot be read or is empty.
    """
    entries, failed = [], []
    for where, (name, *labels) in _lines(path):
        wrong = [label for label in labels if not (label.isdecimal() and int(label) < len(CLASSES))]
        if not labels:
            failed.append(InputError(f"{where}: {name}: names no class: write {name} CLASS [CLASS …]"))
        elif wrong:
            failed.append(
                InputError(f"{where}: {name}: class {wrong[0]} is not from 0 to {len(CLASSES) - 1}")
            )
        else:
            entries.append(Entry(name, tuple(dict.fromkeys(map(int, labels))), where))
    entries, again = _unique(entries)
    return entries, failed + again


def list_line(name: str, labels: tuple[int, ...]) -> str:
    return " ".join([name, *map(str, labels)]) + "\n"


def check_stems(images: Sequence[Path]) -> None:
    """Raises InputError where two images' results would share a name."""
    stems = [path.stem for path in images]
    twice = next((stem for stem in stems if stems.count(stem) > 1), None)
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
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or "not text"
        raise InputError(f"{path}: cannot be read ({told}): give a list of image names") from error
    lines = [(f"{path}:{i}", line.split()) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise InputError(f"{path}: is empty: list at least one image")
    return lines
