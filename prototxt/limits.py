"""How much memory a net may take: checked while it is planned, before anything is allocated or drawn."""

import contextlib
import functools
import math
import os
import re
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

from prototxt.errors import InputError

FLOAT = 4
"""Bytes of a value. A net in double takes twice what is counted here."""

_SHARE = 0.8
_limit: int | None = None


class TooLargeError(InputError):
    """A blob or a net that is larger than Caffe, or the memory, allows."""


def max_memory() -> int:
    """The bytes that one net's blobs and weights may take: 80 % of what this process may have, unless set."""
    return _default() if _limit is None else _limit


@functools.cache
def _default() -> int:
    """Told once: what a net takes must not count a second time, as taken."""
    return int(_SHARE * memory_there())


def memory_there() -> int:
    """Bytes that this process may have: the machine's, less where a container's or a shell's limit is below."""
    return max(min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits()]), 0)


def _limits() -> Iterator[int]:
    """What cgroups (containers, batch systems) and `ulimit -v`, `-d` leave, in bytes."""
    for path in _cgroup_files():
        with contextlib.suppress(OSError, ValueError):  # none there, or "max"
            yield int(path.read_text())
    used = _used()
    for kind, taken in zip((resource.RLIMIT_AS, resource.RLIMIT_DATA), used, strict=True):
        limit = resource.getrlimit(kind)[0]
        if limit != resource.RLIM_INFINITY:
            yield limit - taken  # these count what the libraries have mapped, some gigabytes


def _cgroup_files(
    proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> Iterator[Path]:
    """The files of limits of this process's cgroup and of those above it: version 2's, then version 1's."""
    with contextlib.suppress(OSError):
        for controllers, name in re.findall(r"^\d+:(.*?):(.*)$", proc.read_text(), re.MULTILINE):
            below, file = (
                (root, "memory.max") if not controllers else (root / "memory", "memory.limit_in_bytes")
            )
            if not controllers or "memory" in controllers.split(","):
                group = Path(name.lstrip("/"))
                yield from (below / folder / file for folder in (group, *group.parents))


def _used() -> tuple[int, int]:
    """Bytes of address space and of data that this process has now."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text().split()
        size = os.sysconf("SC_PAGE_SIZE")
        return size * int(pages[0]), size * int(pages[5])
    return 0, 0


def set_max_memory(limit: int | None) -> None:
    """Set the bytes that one net may take; None: a share of what this process may have."""
    global _limit
    _limit = limit


def memory_of(shapes: Sequence[tuple[int, ...]]) -> int:
    """The bytes of blobs of these shapes; a size of 0 counts as 1: what is made along the other axes is there."""
    return FLOAT * sum(math.prod(max(size, 1) for size in shape) for shape in shapes)


def check_memory(wanted: int, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse a net that needs more memory than allowed.

    Args:
        wanted: bytes of the net so far.
        shapes: of the blobs and weights that came last, for the message.

    Raises:
        TooLargeError: names the largest of them, the bytes and the limit.
    """
    if wanted > max_memory():
        largest = max(shapes, key=lambda shape: memory_of([shape]))
        raise TooLargeError(
            f"a blob of shape {'×'.join(map(str, largest))} takes {_size(memory_of([largest]))}, the net up to "
            f"here {_size(wanted)}: more than the {_size(max_memory())} allowed: seenet --max-memory GIB allows more"
        )


def _size(count: int) -> str:
    size, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.3g} {unit}"
