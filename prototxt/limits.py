"""How much memory a net may take: checked while it is planned, before anything is allocated or drawn."""

import math
import os
from collections.abc import Sequence

from prototxt.errors import InputError

FLOAT = 4
"""Bytes of a value. A net in double takes twice what is counted here."""

_SHARE = 0.8
_limit: int | None = None


class TooLargeError(InputError):
    """A blob or a net that is larger than Caffe, or the memory, allows."""


def max_memory() -> int:
    """The bytes that one net's blobs and weights may take: 80 % of the machine's memory unless set."""
    if _limit is not None:
        return _limit
    return int(_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def set_max_memory(limit: int | None) -> None:
    """Set the bytes that one net may take; None: a share of the machine's."""
    global _limit
    _limit = limit


def check_memory(wanted: int, shapes: Sequence[tuple[int, ...]]) -> None:
    """Refuse a net that needs more memory than allowed.

    Args:
        wanted: bytes of the net so far.
        shapes: of the blobs and weights that came last, for the message.

    Raises:
        TooLargeError: names the largest of them, the bytes and the limit.
    """
    if wanted > max_memory():
        largest = max(shapes, key=math.prod)
        raise TooLargeError(
            f"a blob of shape {'×'.join(map(str, largest))} takes {_size(FLOAT * math.prod(largest))}, the net up to "
            f"here {_size(wanted)}: more than the {_size(max_memory())} allowed: seenet --max-memory GIB allows more"
        )


def _size(count: int) -> str:
    size, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.3g} {unit}"
