"""The one kind of error that the user can correct, how text from files is shown, and packages that are missing."""

import contextlib
import importlib.util
import sys
import unicodedata
from collections.abc import Iterator


class InputError(ValueError):
    """A file, field, blob or option that cannot be used as it is.

    The message is one line that tells what, where and what to do: a line break or terminal code in a name
    that it quotes is shown escaped. The commands print it and exit with status 2.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """`text` on one line, with nothing that a terminal obeys: control characters and such are shown escaped."""
    if text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in _UNSAFE else c for c in text)


_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode's categories: controls, formats (they turn the direction of text), lone surrogates, line ends."""


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


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
