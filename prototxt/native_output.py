"""What libraries in C write to stderr by themselves, such as libpng's warnings, kept out of a command's own lines."""

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator

_STDERR = 2
_lock = threading.Lock()
_inside = 0
_kept: int | None = None


def keep_own_stderr() -> None:
    """Have Python write to a copy of stderr, so that `without_native_output` silences the libraries alone.

    Does nothing where stderr is closed or is not the process's own, as in tests.
    """
    global _kept
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if _kept is None and sys.stderr.fileno() == _STDERR:
            _kept = os.dup(_STDERR)
            binary = os.fdopen(_kept, "wb", buffering=0)
            sys.stderr = io.TextIOWrapper(binary, sys.stderr.encoding, sys.stderr.errors, write_through=True)
            sys.__stderr__ = sys.stderr  # type: ignore[misc]


@contextlib.contextmanager
def without_native_output() -> Iterator[None]:
    """Inside, what libraries write to stderr is dropped. Only in a process that keeps its own: see above."""
    if _kept is None:
        yield
        return
    _enter(+1)
    try:
        yield
    finally:
        _enter(-1)


def _enter(step: int) -> None:
    """The first thread that comes in turns stderr away, the last that leaves turns it back."""
    global _inside
    with _lock:
        before, _inside = _inside, _inside + step
        if before == 0:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, _STDERR)
            os.close(nowhere)
        elif _inside == 0 and _kept is not None:
            os.dup2(_kept, _STDERR)
