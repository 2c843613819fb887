"""The one kind of error that the user can correct, how text from files is shown, and packages that are missing."""

import contextlib
import difflib
import importlib.util
import sys
import unicodedata
from collections.abc import Iterable, Iterator


class InputError(ValueError):
    """A file, field, blob or option that cannot be used as it is.

    The message is one line that tells what, where and what to do: a line break or terminal code in a name
    that it quotes is shown escaped, and of a very long one only the ends. The commands print it and exit with
    status 2.
    """

    def __str__(self) -> str:
        return shortened(printable(super().__str__()))


_MOST = 2000  # characters of a message


def shortened(text: str) -> str:
    """`text`, of which the middle is left out where it is too long to be read."""
    return text if len(text) <= _MOST else f"{text[: _MOST // 2]} … {text[-_MOST // 2 :]}"


def close_names(name: str, names: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Those of `names` that `name` may have been meant for; none where it is too long to be a name.

    For each character of `name` the search takes a hundred bytes.
    """
    return difflib.get_close_matches(name, names, most, cutoff) if len(name) <= _LONGEST_NAME else []


_LONGEST_NAME = 200


def printable(text: str) -> str:
    """`text` on one line, with nothing that a terminal obeys: control characters and such are shown escaped."""
    if text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in _UNSAFE else c for c in text)


def figure_text(text: str) -> str:
    """`text` as Matplotlib takes it: with no formula in it, and nothing that no font has."""
    return printable(text).replace("$", r"\$")


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
