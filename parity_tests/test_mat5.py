"""Our reader of MATLAB's files, held against SciPy's on files that MATLAB wrote and on files that it did not."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.io.matlab

from weights.mat5 import read_mat5

SCIPYS = sorted((Path(scipy.io.matlab.__file__).parent / "tests" / "data").glob("*_[67]*.mat"))
"""Files of MATLAB 6.1, 6.5.1, 7.1 and 7.4, which most of SciPy's wheels hold."""

REFUSED = ("sparse", "object", "func", "hdf5", "complex", "teststruct_")  # that holds complex numbers
VALUES = {
    "single": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "double": np.array([[0.5, np.nan, -np.inf]]),
    "int64": np.array([[1 << 60, -5]]),
    "uint8": np.array([[0, 255]], np.uint8),
    "empty": np.empty((0, 3)),
    "text": "häß",
    "no text": "",
}


def same(ours: np.ndarray | str, theirs: np.ndarray) -> bool:
    if isinstance(ours, str):
        return ours == "".join(np.array(theirs, dtype=object).ravel(order="F").tolist())
    if ours.dtype != object:
        return np.array_equal(ours, theirs, equal_nan=True)
    if ours.shape != theirs.shape:
        return False
    return all(
        all(same(own[field], other[field]) for field in own) if isinstance(own, dict) else same(own, other)
        for own, other in zip(ours.ravel(), theirs.ravel(), strict=True)
    )


@pytest.mark.skipif(not SCIPYS, reason="this SciPy came without its test files")
@pytest.mark.parametrize("path", SCIPYS, ids=lambda path: path.stem)
def test_files_of_matlab(path: Path) -> None:
    if any(kind in path.name for kind in REFUSED):
        with pytest.raises(ValueError, match=r"not supported|version 5"):
            read_mat5(path)
        return
    ours = read_mat5(path)
    theirs = scipy.io.loadmat(path, chars_as_strings=False)
    assert ours and all(same(value, theirs[name]) for name, value in ours.items())


@pytest.mark.parametrize("packed", [False, True])
def test_what_scipy_writes(packed: bool, tmp_path: Path) -> None:
    cells = np.empty(2, object)
    cells[:] = [np.float32([[1, 2]]), "in a cell"]
    wanted = {**VALUES, "cells": cells.reshape(1, 2), "struct": {"a": 1.0, "b": {"c": "d"}}}
    scipy.io.savemat(
        tmp_path / "a.mat", {name.replace(" ", "_"): x for name, x in wanted.items()}, do_compression=packed
    )
    ours = read_mat5(tmp_path / "a.mat")
    for name, value in VALUES.items():
        found = ours[name.replace(" ", "_")]
        assert found == value if isinstance(value, str) else np.array_equal(found, value, equal_nan=True), (
            name
        )
        assert isinstance(value, str) or found.dtype == value.dtype, name
    assert ours["cells"][0, 1] == "in a cell" and ours["cells"][0, 0].tolist() == [[1, 2]]
    assert ours["struct"][0, 0]["b"][0, 0] == {"c": "d"}
    assert list(read_mat5(tmp_path / "a.mat", ["text"])) == ["text"]


# ---- files that claim more than they hold


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def array(kind: int, shape: tuple[int, ...], *rest: bytes, flags: int = 0) -> bytes:
    head = element(6, struct.pack("<II", kind | flags, 0)), element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(14, b"".join((*head, element(1, b"data"), *rest)))


def nested(depth: int) -> bytes:
    return array(1, (1, 1), nested(depth - 1) if depth else array(1, (0, 0)))


FIELDS = element(5, struct.pack("<i", 8)), element(1, b"a".ljust(8, b"\0"))
HOSTILE = {
    "cells": array(1, (1 << 30, 1)),
    "cells of more axes": array(1, (1 << 15, 1 << 15)),
    "structs": array(2, (1 << 28, 1), *FIELDS),
    "structs without fields": array(2, (1 << 27, 1), FIELDS[0], element(1, b"")),
    "fields of no length": array(2, (1, 1), element(5, bytes(4)), element(1, b"a")),
    "numbers": array(7, (1 << 28, 1 << 10), element(7, b"abcd")),
    "halves of numbers": array(7, (1, 1), element(7, b"abc")),
    "negative": array(7, (-1, -1), element(7, b"abcd")),
    "33 axes": array(7, (1,) * 33, element(7, b"abcd")),
    "numbers of no type": array(7, (1, 1), element(99, b"abcd")),
    "complex": array(7, (1, 1), element(7, b"abcd"), element(7, b"abcd"), flags=1 << 11),
    "sparse": array(5, (1 << 28, 1 << 28)),
    "nothing": element(14, b""),
    "nested": nested(500),
    "text": array(4, (1, 1), element(17, b"\0\xd8")),
    "longer than the file": array(7, (1, 1), element(7, b"abcd"))[:-12],
    "damaged packing": element(15, b"x\x9cabcdefgh"),
    "no packing": element(15, b""),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", HOSTILE)
def test_no_more_than_the_file_holds(kind: str, packed: bool, tmp_path: Path) -> None:
    data = HOSTILE[kind]
    if packed:
        packing = zlib.compress(data)
        data = struct.pack("<II", 15, len(packing)) + packing
    path = tmp_path / "a.mat"
    path.write_bytes(b"MATLAB 5.0".ljust(124) + b"\0\1IM" + data)
    try:
        found = read_mat5(path)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert not found, "nothing of it is an array"


@pytest.mark.parametrize("version", [b"\0\2IM", b"\1\0IM", b"    ", b"\0\0\0\0"])
def test_other_versions_are_told(version: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    path.write_bytes(b"MATLAB".ljust(124) + version)
    with pytest.raises(ValueError, match="save it with -v6 or -v7"):
        read_mat5(path)
