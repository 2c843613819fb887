"""Messages that name the item they are about."""

import contextlib
from collections.abc import Iterator

from prototxt.errors import InputError


@contextlib.contextmanager
def naming(item: str) -> Iterator[None]:
    """Let an InputError raised inside begin with `item`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{item}: {error}") from error
