"""What the tools say and check when they open databases."""

import os

from port.tools.process import CheckFailed
from port.training.caffe_log import CaffeLog
from prototxt.errors import InputError
from runtime.data.database import LEVELDB
from runtime.data.new_database import NewDatabase


def new_database(backend: str, path: str, log: CaffeLog) -> NewDatabase:
    """A database to write.

    Raises:
        InputError: another backend than lmdb, a path that exists or lies in no folder.
    """
    check_backend(backend)
    folder = os.path.dirname(path.rstrip("/")) or "."
    if os.path.lexists(path) or not os.access(folder, os.W_OK | os.X_OK):
        made = "mkdir(source.c_str(), 0744) == 0 (-1 vs. 0)"
        raise CheckFailed("db_lmdb.cpp:13", f"Check failed: {made} mkdir {path} failed")
    log("db_lmdb.cpp:35", f"Opened lmdb {path}")
    return NewDatabase(path.rstrip("/"), keeps=CheckFailed)


def check_backend(backend: str) -> None:
    """Raises InputError for another backend than lmdb."""
    if backend == "leveldb":
        raise InputError(f"backend leveldb: {LEVELDB}")
    if backend != "lmdb":
        raise CheckFailed("db.cpp:36", f"Unknown database backend: {backend}: use lmdb")
