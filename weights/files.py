"""Writing files so that nobody ever sees half of one, two processes never write one, and a killed one leaves none."""

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prototxt.errors import InputError

_UMASK = os.umask(0)  # the only way to read it is to set it, which threads must not do
os.umask(_UMASK)

_PARTIAL = ".partial-"
_MOST_OF_NAME = 100  # characters of the file's name in the name beside it: the system allows 255 bytes in all


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike, *, sync: bool = False) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it is renamed to `path`, on any error removed.

    The temporary name keeps the suffix of `path`, since many libraries choose a format by it. What a killed
    process leaves there is removed by `remove_partial`, which knows it by the lock that is no longer held.
    (HDF5 wants the same lock for itself: see `weights.hdf5.new_hdf5`.)

    Args:
        sync: have the file and its name on the disk, not only in the system's memory, before this returns: a
            loss of power then leaves the old file or the new one.

    Raises:
        InputError: where the folder cannot be written to or the disk is full; where `path` is a device, a FIFO or a
            socket, such as /dev/null, which the renaming would put a file in the place of.
    """
    target = Path(path)
    try:
        _check_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = _new_partial(target)
    except (OSError, ValueError) as error:  # a ValueError for a zero byte in the name
        raise InputError(f"{target}: cannot be written ({_reason(error)}): choose another place") from error
    try:
        yield beside
        os.chmod(beside, 0o666 & ~_UMASK)
        if sync:
            _sync(beside)
        os.replace(beside, target)
        if sync:
            _sync(target.parent)
    except OSError as error:
        raise InputError(f"{target}: writing failed ({_reason(error)}): nothing was changed") from error
    finally:
        beside.unlink(missing_ok=True)
        os.close(handle)


def _check_replaceable(target: Path) -> None:
    """Raises OSError for what is there and is neither a file nor a link to one (or to nothing)."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno == errno.ELOOP:
            return  # a link to itself: it is replaced
        raise
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not an ordinary file")


def write_text(path: str | os.PathLike, text: str, *, sync: bool = False) -> None:
    """Write a text file whole, in UTF-8; file names that are not UTF-8 keep their bytes. As `atomic_path`.

    Raises:
        InputError: where it cannot be written.
    """
    with atomic_path(path, sync=sync) as beside:
        beside.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_json(path: str | os.PathLike, value: Any, *, sync: bool = False) -> None:
    """Write a JSON file whole. As `write_text`."""
    write_text(path, json.dumps(value, indent=1) + "\n", sync=sync)


def _new_partial(target: Path) -> tuple[int, Path]:
    """A new file beside `target`, held by a lock for as long as its handle is open."""
    while True:
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem[:_MOST_OF_NAME]}{_PARTIAL}", suffix=target.suffix, dir=target.parent
        )
        with contextlib.suppress(OSError):  # a file system without locks: then nothing is removed there
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # somebody cleaned up between the file and its lock


def remove_partial(folder: str | os.PathLike, start: str = "") -> None:
    """Remove what killed processes left half written in `folder`, of files whose names begin with `start`."""
    pattern = re.compile(
        rf"\.+{re.escape(start[:_MOST_OF_NAME])}.*{re.escape(_PARTIAL)}\w{{8}}(\.\w+)?", re.S
    )
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for left in os.scandir(os.fspath(folder)):
            if pattern.fullmatch(left.name) and left.is_file(follow_symlinks=False):
                _remove_unlocked(left.path)


def _remove_unlocked(path: str) -> None:
    with contextlib.suppress(OSError):  # locked: a living process writes it; or gone by now
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(handle)


@contextlib.contextmanager
def only_writer(path: str | os.PathLike, what: str) -> Iterator[None]:
    """Hold the lock file `path` while this process writes what it stands for; it ends with the process.

    Args:
        what: is being written, for the message: a folder, a snapshot prefix.

    Raises:
        InputError: another process holds it, which the message names; the folder cannot be written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked(path, what)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what}: cannot be written to ({_reason(error)}): choose another folder") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _locked(path: Path, what: str) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file(handle, path):
                with contextlib.suppress(OSError):  # a full disk: it is held without saying by whom
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
                return handle
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(handle)
            raise InputError(
                f"{what}: {holder} is writing there: wait until it ends, or choose another place"
            ) from None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder removed it in the meantime: take a new one


def _is_file(handle: int, path: Path) -> bool:
    """Whether `path` still names the file that is open."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


@contextlib.contextmanager
def plain_os_errors() -> Iterator[None]:
    """Turn what PyTorch makes of a failed write, a RuntimeError, into its OSError."""
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
