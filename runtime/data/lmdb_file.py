"""An LMDB, read: its file's pages, each checked before it is believed.

LMDB's own library maps the file and follows what it says; a copy that was cut off, or a flipped bit, then ends
the process by a signal. What is read here lies within the file or is refused. Only what Caffe's databases have is
read: one table, keys in byte order, one value for each.

Source: the layout in LMDB 0.9's mdb.c (MDB_page, MDB_node, MDB_meta, MDB_db), 64 bits, little-endian.
"""

import os
import struct
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from prototxt.errors import InputError
from prototxt.files import open_ordinary

_HEADER = struct.Struct("<QHHHH")  # page number, padding, flags, end of the node pointers, start of the nodes
_META = struct.Struct(
    "<IIQQ48s48sQQ"
)  # magic, version, address, map size, free table, main table, last page, txn
_TABLE = struct.Struct("<IHHQQQQQ")  # page size, flags, depth, branch, leaf and overflow pages, entries, root
_NODE = struct.Struct(
    "<HHHH"
)  # low and high half of a length, flags (or the page's upper bits), key's length

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 1, 2, 4, 8
_BIG, _SUB, _DUPLICATES = 1, 2, 4
_NO_PAGE = (1 << 64) - 1
_MOST_LEVELS = 32
_PAGES_KEPT = 64


@dataclass(frozen=True)
class _Page:
    """A branch or a leaf. `values`: of a branch, page numbers; of a leaf, (flags, length, offset in the page)."""

    number: int
    is_leaf: bool
    data: bytes
    keys: list[bytes]
    values: list


class LmdbFile:
    """A database, as it stood when it was opened.

    Args:
        source: the folder with `data.mdb` in it.

    Raises:
        InputError: no such folder, another kind of file, one that was cut off or is damaged; when opened, and
            when an item is reached.
    """

    def __init__(self, source: str):
        self.source = source
        path = os.path.join(source, "data.mdb")
        try:
            if not os.path.isdir(source):
                raise InputError(
                    f"{source or 'data_param.source'}: no such folder: give the one with data.mdb in it"
                )
            self._file = open_ordinary(path)
        except (OSError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            told = getattr(error, "strerror", None) or error
            raise InputError(f"{source}: data.mdb cannot be read ({told}): check the path") from error
        self._size = os.fstat(self._file.fileno()).st_size
        self._page_size, self._root, self._last, self._levels, self._count = self._read_meta()
        self._kept: OrderedDict[int, _Page] = OrderedDict()

    def __len__(self) -> int:
        """How many items the file says that it holds."""
        return self._count

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values, in the order of the keys."""
        cursor = self.cursor()
        more = cursor.first()
        while more:
            yield cursor.key(), cursor.value()
            more = cursor.next()

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        cursor = self.cursor()
        return cursor.value() if cursor.set_key(key) else None

    def cursor(self) -> "Cursor":
        return Cursor(self)

    def _read_meta(self) -> tuple[int, int, int, int, int]:
        """Page size, root, last page, levels and number of items: of the newer of the two meta pages."""
        first = self._meta_at(0, "it does not begin as an LMDB does")
        page_size = _TABLE.unpack(first[4])[0]
        if page_size not in (1 << bits for bits in range(9, 17)):
            raise self._damaged(f"its pages are of {page_size} bytes")
        meta = max(first, self._meta_at(page_size, "its second page is damaged"), key=lambda meta: meta[7])
        _, flags, levels, _, _, _, count, root = _TABLE.unpack(meta[5])
        last = meta[6]
        if flags & ~0x08:  # integer keys in a table of its own, and the like
            raise self._damaged("it has tables or keys of another kind than Caffe's")
        if (last + 1) * page_size > self._size:
            raise InputError(
                f"{self.source}: data.mdb is cut off: {self._size} bytes of {(last + 1) * page_size}: copy it again"
            )
        return page_size, root, last, levels, count

    def _meta_at(self, offset: int, otherwise: str) -> tuple:
        data = os.pread(self._file.fileno(), _HEADER.size + _META.size, offset)
        if len(data) < _HEADER.size + _META.size or not _HEADER.unpack_from(data)[2] & _META_PAGE:
            raise self._damaged(otherwise)
        meta = _META.unpack_from(data, _HEADER.size)
        if meta[:2] != (_MAGIC, _VERSION):
            raise self._damaged(otherwise)
        return meta

    def _damaged(self, what: str) -> InputError:
        return InputError(f"{self.source}: no LMDB, or a damaged one ({what}): make or copy it again")

    def _bytes(self, page: int, length: int, offset: int = 0) -> bytes:
        start = page * self._page_size + offset
        if not 1 < page <= self._last or start + length > self._size:
            raise self._damaged(f"it points to page {page}, bytes {offset} to {offset + length}")
        data = os.pread(self._file.fileno(), length, start)
        if len(data) < length:
            raise self._damaged("it became shorter while it was read")
        return data

    def page(self, number: int) -> _Page:
        """A branch or leaf; the last few are kept."""
        page = self._kept.pop(number, None) or self._read_page(number)
        self._kept[number] = page
        if len(self._kept) > _PAGES_KEPT:
            self._kept.popitem(last=False)
        return page

    def _read_page(self, number: int) -> _Page:
        data = self._bytes(number, self._page_size)
        own, _, flags, lower, _ = _HEADER.unpack_from(data)
        count, odd = divmod(lower - _HEADER.size, 2)
        if own != number or flags & 0xF not in (_BRANCH, _LEAF) or count < 1 or odd or lower > len(data):
            raise self._damaged(f"page {number} is damaged")
        keys, values, is_leaf = [], [], flags & 0xF == _LEAF
        for offset in struct.unpack_from(f"<{count}H", data, _HEADER.size):
            if offset + _NODE.size > len(data):
                raise self._damaged(f"page {number} is damaged")
            low, high, flags, key_length = _NODE.unpack_from(data, offset)
            start = offset + _NODE.size
            if start + key_length > len(data):
                raise self._damaged(f"page {number} is damaged")
            keys.append(data[start : start + key_length])
            length = low | high << 16
            values.append((flags, length, start + key_length) if is_leaf else length | flags << 32)
        return _Page(number, is_leaf, data, keys, values)

    def value(self, page: _Page, index: int) -> bytes:
        flags, length, start = page.values[index]
        if flags & (_SUB | _DUPLICATES):
            raise self._damaged("it has several tables, or several values for a key, as Caffe's never do")
        if not flags & _BIG:
            if start + length > len(page.data):
                raise self._damaged(f"page {page.number} is damaged")
            return page.data[start : start + length]
        if start + 8 > len(page.data):
            raise self._damaged(f"page {page.number} is damaged")
        (first,) = struct.unpack_from("<Q", page.data, start)
        own, _, kind, low, high = _HEADER.unpack(self._bytes(first, _HEADER.size))
        if (
            own != first
            or not kind & _OVERFLOW
            or _HEADER.size + length > (low | high << 16) * self._page_size
        ):
            raise self._damaged(f"page {first} is damaged")
        return self._bytes(first, length, _HEADER.size)

    @property
    def root(self) -> int | None:
        return None if self._root == _NO_PAGE else self._root

    def below(self, page: _Page, index: int, level: int) -> _Page:
        """A branch's child, which lies on `level`, from 1."""
        child = self.page(page.values[index])
        if level > min(self._levels, _MOST_LEVELS) or child.is_leaf != (level == self._levels):
            raise self._damaged(f"page {child.number} does not stand where it belongs")
        return child


class Cursor:
    """A place among the items, in the order of their keys: the way from the root, (page, index) on each level."""

    def __init__(self, database: LmdbFile):
        self._database = database
        self._way: list[tuple[_Page, int]] = []

    def first(self) -> bool:
        """Go to the first item; whether there is one."""
        root = self._database.root
        self._way = []
        if root is None:
            return False
        self._descend(self._database.page(root), 0)
        return True

    def next(self) -> bool:
        """Go to the next item; False behind the last, where the place then stays."""
        for depth in range(len(self._way) - 1, -1, -1):
            page, index = self._way[depth]
            if index + 1 < len(page.keys):
                del self._way[depth:]
                self._descend(page, index + 1)
                return True
        return False

    def set_key(self, key: bytes) -> bool:
        """Go to the item of `key`; whether there is one."""
        if not self.first():
            return False
        page, self._way = self._way[0][0], []
        while not page.is_leaf:
            # The last child whose first key is not above it; a branch's first key is left out: it is below all.
            index = max(bisect_right(page.keys, key, lo=1) - 1, 0)
            self._way.append((page, index))
            page = self._database.below(page, index, len(self._way) + 1)
        index = bisect_left(page.keys, key)
        found = index < len(page.keys) and page.keys[index] == key
        self._way.append((page, min(index, len(page.keys) - 1)))
        return found

    def key(self) -> bytes:
        page, index = self._way[-1]
        return page.keys[index]

    def value(self) -> bytes:
        return self._database.value(*self._way[-1])

    def _descend(self, page: _Page, index: int) -> None:
        """From an item of `page` to the first below it."""
        self._way.append((page, index))
        while not page.is_leaf:
            page = self._database.below(page, index, len(self._way) + 1)
            index = 0
            self._way.append((page, 0))
