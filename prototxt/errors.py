"""The one kind of error that the user can correct, and how text from files is shown."""

import unicodedata


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
