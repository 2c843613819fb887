"""`pickle` for translated code of Python 2: reads what Python 2 wrote, also from files opened as text."""

import io
import pickle
from pickle import *  # noqa: F403
from typing import Any


def load(file: Any) -> Any:  # type: ignore[no-redef]  # in place of pickle's
    return pickle.load(_binary(file), encoding="latin1")


def loads(data: bytes) -> Any:  # type: ignore[no-redef]  # in place of pickle's
    return pickle.loads(data, encoding="latin1")


def dump(value: Any, file: Any, protocol: int = 0) -> None:  # type: ignore[no-redef]  # in place of pickle's
    """In Python 2's own protocols, 0 to 2: -1, the highest, is 2."""
    pickle.dump(value, _binary(file), 2 if protocol < 0 else protocol)


def dumps(value: Any, protocol: int = 0) -> bytes:  # type: ignore[no-redef]  # in place of pickle's
    return pickle.dumps(value, 2 if protocol < 0 else protocol)


def _binary(file: Any) -> Any:
    return file.buffer if isinstance(file, io.TextIOWrapper) else file
