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


def need_packages(what: str, *packages: str, install: str = "", otherwise: str = "") -> None:
    """Check that optional packages are installed; nothing is imported.

    Args:
        what: what needs them, the subject of the message's sentence.
        packages: names to import.
        install: what to give to `pip install`; by default the missing packages' names.
        otherwise: what else to do, after the command that installs.

    Raises:
        InputError: names the missing packages and the command that installs them.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        command = f"pip install {install or ' '.join(missing)}"
        raise InputError(
            f"{what} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} "
            f"not installed: {command}{otherwise}"
        )
