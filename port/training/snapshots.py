"""Snapshots: the weights, the .solverstate, and a sidecar with what Caffe does not save.

The three are written beside and renamed one right after the other, the .solverstate last: it is what a
resumed run starts from, so a process killed at any instant leaves the last good ones.
"""

import contextlib
import json
import os
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prototxt.errors import InputError
from prototxt.files import open_ordinary, read_ordinary
from weights import LayerWeights, SolverSnapshot, read_solverstate, write_solverstate, write_weights
from weights.files import atomic_path, only_writer, remove_partial

_TEMPORARY = ".tempfile"

SIDECAR = ".sidecar.json"
"""Appended to the .solverstate's name."""

_WITHOUT = "remove it to resume as Caffe does, with fresh seeds"


@dataclass(frozen=True)
class SnapshotNames:
    """The files of one snapshot, as Caffe names them."""

    model: str
    state: str

    @classmethod
    def at(cls, prefix: str, iteration: int, hdf5: bool) -> "SnapshotNames":
        base, end = f"{prefix}_iter_{iteration}", ".h5" if hdf5 else ""
        return cls(f"{base}.caffemodel{end}", f"{base}.solverstate{end}")


def check_prefix(prefix: str) -> None:
    """Raises InputError where no snapshot can be written: before training, as Caffe does.

    What a killed run left beside its snapshots, half written and hidden, is removed.
    """
    folder, name = os.path.split(prefix)
    try:
        handle, probe = tempfile.mkstemp(f"_iter_0{_TEMPORARY}", name, folder or os.curdir)
        os.close(handle)
        os.remove(probe)
    except (OSError, ValueError) as error:  # a ValueError for a zero byte
        raise InputError(
            f'snapshot_prefix: "{prefix}" cannot be written to ({getattr(error, "strerror", error)}): '
            "make sure that the folder exists and is writable"
        ) from error
    remove_partial(folder or os.curdir, f"{name}_iter_")


def only_run(prefix: str) -> contextlib.AbstractContextManager[None]:
    """While it is entered, no other process may train with this prefix.

    Raises:
        InputError: another does, which the message names; a folder that is missing or cannot be written to.
    """
    folder, name = os.path.split(prefix)
    check_prefix(prefix)
    return only_writer(Path(folder or os.curdir) / f".{name}.lock", f'snapshot_prefix: "{prefix}"')


def write_snapshot(
    names: SnapshotNames,
    layers: list[LayerWeights],
    net_name: str,
    snapshot: SolverSnapshot,
    sidecar: dict[str, Any],
) -> None:
    """Write the three files, or none.

    Args:
        sidecar: plain data, for JSON.

    Raises:
        InputError: where the folder cannot be written to or the disk is full.
    """
    with contextlib.ExitStack() as renames:
        # Renamed in the reverse of this order.
        state, beside, model = (
            renames.enter_context(atomic_path(path, sync=True))
            for path in (names.state, names.state + SIDECAR, names.model)
        )
        try:
            write_weights(model, layers, net_name=net_name)
            write_solverstate(state, snapshot)
        except InputError as error:  # which names the files beside
            told = str(error).replace(str(model), names.model).replace(str(state), names.state)
            raise InputError(told) from error
        beside.write_bytes(_sealed({**sidecar, "of": [_checksum(model), _checksum(state)]}))


def _sealed(content: dict[str, Any]) -> bytes:
    """JSON, at its end the checksum of its own text: a flipped bit would train something else in silence."""
    text = json.dumps(content).encode()
    return text[:-1] + _SEAL % zlib.crc32(text)


def _unsealed(data: bytes) -> dict[str, Any]:
    """Raises ValueError where the text is not what was written."""
    text = data[: -len(_SEAL % 0)] + b"}"
    if data != text[:-1] + _SEAL % zlib.crc32(text):
        raise ValueError("its checksum is another")
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("it is no object")
    return content


_SEAL = b', "crc32": %10d}\n'


def read_snapshot(path: str | os.PathLike) -> tuple[SolverSnapshot, dict[str, Any] | None]:
    """A .solverstate with its weights' path made findable, and its sidecar where there is one.

    Caffe looks for the weights from the current folder on; so does this, and then beside the .solverstate.

    Raises:
        InputError: a file that is missing or damaged.
    """
    snapshot = read_solverstate(path)
    if "\0" in snapshot.learned_net:
        raise InputError(f"{os.fspath(path)}: its weights are named {snapshot.learned_net!r}: it is damaged")
    beside = Path(path).parent / Path(snapshot.learned_net).name
    if snapshot.learned_net and not os.path.exists(snapshot.learned_net) and beside.exists():
        snapshot.learned_net = os.fspath(beside)
    if snapshot.learned_net and not os.path.exists(snapshot.learned_net):
        raise InputError(
            f"{os.fspath(path)}: its weights {snapshot.learned_net} are missing: "
            "put them back where they were, or beside it"
        )
    return snapshot, _read_sidecar(Path(os.fspath(path) + SIDECAR), Path(path), Path(snapshot.learned_net))


def _read_sidecar(path: Path, state: Path, model: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        sidecar = _unsealed(read_ordinary(path))
        if sidecar.pop("of") == [_checksum(model), _checksum(state)]:
            return sidecar
    except (OSError, ValueError, KeyError, RecursionError) as error:
        told = getattr(error, "strerror", None) or "its text is damaged"
        raise InputError(f"{path}: cannot be read ({told}): {_WITHOUT}") from error
    raise InputError(f"{path}: belongs to another snapshot than {state}: {_WITHOUT}")


def _checksum(path: Path) -> int:
    total = 0
    with open_ordinary(path) as file:
        while chunk := file.read(1 << 22):
            total = zlib.crc32(chunk, total)
    return total
