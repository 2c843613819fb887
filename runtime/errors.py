"""Errors that scripts of pycaffe's time expect by type."""

import os

from prototxt.errors import InputError
from prototxt.files import open_ordinary


class CaffeRuntimeError(InputError, RuntimeError):
    """What pycaffe raises as RuntimeError: a file that cannot be opened, arrays that do not fit a net."""


def check_opens(path: str | os.PathLike) -> None:
    """Raises CaffeRuntimeError where there is no such file, or it may not be read."""
    try:
        open_ordinary(path).close()
    except OSError as error:
        raise CaffeRuntimeError(
            f"{os.fspath(path)}: cannot be read ({error.strerror}): check the path"
        ) from error
