"""Writing an LMDB as Caffe's tools do: a new folder, keys in the order given, a commit now and then."""

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import lmdb

from prototxt.errors import InputError
from weights.files import only_writer

MAP_SIZE = 10 << 20
"""LMDB's own default, with which Caffe starts; doubled whenever it is full."""

LOCK_SIZE = 8192
"""Of LMDB's lock file, with its default number of readers."""

LONGEST_KEY = 511
"""Bytes."""

_PARTIAL = ".partial-"


class NewDatabase:
    """An LMDB that is being made, inside a `with`.

    It is written beside its name and renamed at the end, so that a killed process or a full disk leaves
    nothing of that name. What was committed before an error of the class `keeps` stays, as in Caffe. Two processes
    never make one: the second is refused.

    Raises:
        InputError: where the folder cannot be written to, or the disk is full.
    """

    def __init__(self, path: str, keeps: type[Exception]):
        self.path, self.keeps = path, keeps
        self._items: list[tuple[bytes, bytes]] = []

    def __enter__(self) -> "NewDatabase":
        target = Path(self.path)
        with contextlib.ExitStack() as opened:
            opened.enter_context(only_writer(target.with_name(f".{target.name}.lock"), self.path))
            with self._told():
                for left in target.parent.glob(f".{glob.escape(target.name)}{_PARTIAL}*"):
                    shutil.rmtree(left, ignore_errors=True)  # a killed process's: nobody else is at it now
                self._beside = tempfile.mkdtemp(prefix=f".{target.name}{_PARTIAL}", dir=target.parent)
                opened.callback(shutil.rmtree, self._beside, ignore_errors=True)
                self._reserve_lock()
                self._environment = lmdb.open(self._beside, map_size=MAP_SIZE, mode=0o664, lock=True)
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.commit()
            self._environment.close()
            if kind is None or issubclass(kind, self.keeps):
                with self._told():
                    os.chmod(self._beside, 0o744 & ~_umask())
                    os.rename(self._beside, self.path)
        finally:
            self._environment.close()
            self._opened.close()

    def _reserve_lock(self) -> None:
        """LMDB maps its lock file into memory: on a full disk, the first touch would end the process."""
        with open(os.path.join(self._beside, "lock.mdb"), "xb") as file:
            os.posix_fallocate(file.fileno(), 0, LOCK_SIZE)

    def put(self, key: bytes, value: bytes) -> None:
        """Keep an item for the next commit. Raises InputError for a key that is longer than LMDB takes."""
        if len(key) > LONGEST_KEY:
            raise InputError(
                f"{self.path}: key {key.decode(errors='replace')[:40]}… has {len(key)} bytes, an LMDB's may have "
                f"{LONGEST_KEY}: shorten the file names"
            )
        self._items.append((key, value))

    def commit(self) -> None:
        """Write the items at hand.

        Raises:
            InputError: where the disk is full.
        """
        with self._told():
            while not self._written():
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
        self._items.clear()

    def _written(self) -> bool:
        """Whether the items fitted into the map."""
        try:
            with self._environment.begin(write=True) as writing:
                for key, value in self._items:
                    writing.put(key, value)
        except lmdb.MapFullError:
            return False
        return True

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, lmdb.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"{self.path}: writing failed ({reason}; is the disk full?): no database was made"
            ) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
