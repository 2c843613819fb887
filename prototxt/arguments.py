"""The net that a command is given, by its place or by `--prototxt`."""

from pathlib import Path

from prototxt.errors import InputError


def the_net(placed: Path | None, named: Path | None) -> Path:
    """The one that was given.

    Raises:
        InputError: none, or both.
    """
    if placed is not None and named is not None:
        raise InputError(f"{placed} and --prototxt {named}: give the net once")
    found = placed or named
    if found is None:
        raise InputError("give the net: a prototxt")
    return found
