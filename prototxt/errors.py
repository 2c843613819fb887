"""The one kind of error that the user can repair, and how every command tells it."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator


class InputError(ValueError):
    """A file, field, blob or option that cannot be used as it is.

    The message is one line that tells what, where and what to do. The commands print it and exit with
    status 2; anything else that reaches the user as a traceback is a bug of ours.
    """


@contextlib.contextmanager
def errors_on_one_line() -> Iterator[None]:
    """Print an InputError raised inside as one line, `error: …`, on stderr, and exit with status 2."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def need_packages(*packages: str, purpose: str = "", install: str = "", otherwise: str = "") -> None:
    """Check that optional packages are installed; nothing is imported.

    Args:
        packages: names to import.
        purpose: what they are needed for.
        install: the command that installs them; by default pip's, with the missing packages' names.
        otherwise: what else to do, after that command.

    Raises:
        InputError: names the missing packages and the command.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        needed = f" for {purpose}" if purpose else ""
        command = install or f"pip install {' '.join(missing)}"
        raise InputError(f"{' and '.join(missing)} must be installed{needed}: {command}{otherwise}")
