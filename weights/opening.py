"""Opening a file that somebody handed us: is it there, what is it, and its bytes without a copy."""

import mmap
import os

from prototxt.errors import InputError
from prototxt.files import open_ordinary

KNOWN = {"shapes": os.path.join(os.path.dirname(__file__), "shapes", "seenet.caffemodel")}
"""Names of weights that come along → their files. "shapes": a small SeeNet, trained on generated images."""

README = os.path.join(os.path.dirname(__file__), "README.md")
"""What tells where published weights come from."""

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
ZIP_MAGIC = b"PK\x03\x04"

_MAGIC = {
    HDF5_MAGIC: "an HDF5 file",
    ZIP_MAGIC: "a zip archive or a PyTorch checkpoint",
    b"\x80\x02": "a Python pickle or an old PyTorch checkpoint",
    b"\x1f\x8b": "a gzip archive (unpack it first)",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"version https://git-lfs": "a Git LFS pointer instead of the file itself",
}


def known_file(path: str | os.PathLike) -> str | os.PathLike:
    """The file of weights that come along, where `path` is their name and no file is called so."""
    name = os.fspath(path)
    return KNOWN[name] if name in KNOWN and not os.path.isfile(name) else path


def first_bytes(path: str | os.PathLike, count: int = 512) -> bytes:
    """The first bytes of a file.

    Raises:
        InputError: where it is missing, empty, no ordinary file or not readable.
    """
    try:
        with open_ordinary(known_file(path)) as file:
            head = file.read(count)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file: check the path") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    if not head:
        raise InputError(f"{path}: the file is empty: get it again")
    return head


def is_hdf5(path: str | os.PathLike) -> bool:
    """Whether the file is HDF5, which is known by its first bytes, as in Caffe.

    Raises:
        InputError: as `first_bytes`.
    """
    return first_bytes(path).startswith(HDF5_MAGIC)


MOST_UNPACKED, FREE = 10, 1 << 28
"""How often a file of weights may unpack its own size, and bytes that count for nothing: weights hardly pack."""


def check_unpacked(path: str | os.PathLike, size: int) -> None:
    """Raises ValueError where a file of weights would unpack `size` bytes, far more than it has."""
    there = os.path.getsize(path)
    if size > max(MOST_UNPACKED * there, FREE):
        raise ValueError(f"{there} bytes would unpack to {size}")


def map_file(path: str | os.PathLike) -> memoryview:
    """The whole file as read-only memory that the system pages in as it is read.

    The mapping lives as long as any view of it, and a file renamed over `path` leaves it untouched.

    Raises:
        InputError: as `first_bytes`.
    """
    first_bytes(path, 1)
    try:
        with open_ordinary(known_file(path)) as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be mapped ({told}): give an ordinary file") from error


def not_a(kind: str, path: str | os.PathLike, detail: object, magic: bytes | None = None) -> InputError:
    """The error for a file that is damaged or of another kind than `kind` ("caffemodel", …).

    Args:
        detail: what was wrong, told where the file begins with `magic` or with nothing that is known.
    """
    head = first_bytes(path)
    found = _looks_like(head)
    if found and not (magic and head.startswith(magic)):
        return InputError(f"{path}: not a {kind}: it looks like {found}: get the file again")
    reason = " ".join(str(detail).split())
    return InputError(f"{path}: not a {kind}, or a damaged one ({reason}): get the file again")


def _looks_like(head: bytes) -> str | None:
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            return what
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page (a download that failed)"
    if all(byte >= 32 or byte in b"\t\n\r" for byte in head):
        return "a text file"
    return None
