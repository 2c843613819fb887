"""Reading a file that a user or a prototxt names: an ordinary one only, and no more of it than makes sense.

A FIFO would be waited for without end, and /dev/zero would fill the memory.
"""

import errno
import hashlib
import os
import stat
from typing import BinaryIO

from prototxt.errors import InputError

MAX_TEXT = 1 << 28
"""Bytes of a prototxt or a list: 256 MB are five million lines."""

MAX_IMAGE = 1 << 29
"""Bytes of an encoded image."""


def open_ordinary(path: str | os.PathLike) -> BinaryIO:
    """Open an ordinary file to read its bytes; a link to one is followed.

    Raises:
        OSError: as `open`; also for a folder, a FIFO, a device or a socket, and for a name that no file can have.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # of a zero byte, or of characters that no file name has
        raise OSError(errno.EINVAL, "no file can have this name") from error
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not an ordinary file")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_ordinary(path: str | os.PathLike, most: int = MAX_TEXT) -> bytes:
    """All bytes of an ordinary file.

    Raises:
        OSError: as `open_ordinary`, and for a file of more than `most` bytes.
    """
    with open_ordinary(path) as file:
        too_large = os.fstat(file.fileno()).st_size > most
        data = b"" if too_large else file.read(most + 1)
    if too_large or len(data) > most:
        raise OSError(errno.EFBIG, f"larger than the {most >> 20} MB that are read of such a file")
    return data


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of an ordinary file, in hexadecimal.

    Raises:
        InputError: a file that cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open_ordinary(path) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: cannot be read ({error.strerror}): check the path") from error
    return digest.hexdigest()


def read_text(path: str | os.PathLike, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of an ordinary file, its line ends as they are.

    Raises:
        OSError: as `read_ordinary`.
        UnicodeDecodeError: where `errors` is "strict" and it is no such text.
    """
    return read_ordinary(path).decode(encoding, errors)
