"""Writing files so that nobody ever sees half of one."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prototxt.errors import InputError

_UMASK = os.umask(0)  # the only way to read it is to set it, which threads must not do
os.umask(_UMASK)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is renamed to `path`, on any error removed.

    The temporary name keeps the suffix of `path`, since many libraries choose a format by it.

    Raises:
        InputError: where the folder cannot be written to or the disk is full.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}): choose another folder") from error
    beside = Path(name)
    try:
        yield beside
        os.chmod(beside, 0o666 & ~_UMASK)
        os.replace(beside, target)
    except OSError as error:
        raise InputError(
            f"{target}: writing failed ({error.strerror or error}): nothing was changed"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def plain_os_errors() -> Iterator[None]:
    """Turn what HDF5 and PyTorch make of a failed write, many lines or a RuntimeError, into its OSError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause: BaseException | None = error
        while cause is not None and not getattr(cause, "errno", None):
            cause = cause.__context__
        told = re.search(r"errno = (\d+)", str(error))
        number = getattr(cause, "errno", None) if cause else int(told[1]) if told else None
        if number is None:
            raise
        raise OSError(number, os.strerror(number)) from error
