"""Snapshots: the weights, the .solverstate, and a sidecar with what Caffe does not save.

The three are written beside and renamed one right after the other, the .solverstate last: it is what a
resumed run starts from, so a process killed at any instant leaves the last good ones.
"""

import contextlib
import glob
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prototxt.errors import InputError
from weights import LayerWeights, SolverSnapshot, read_solverstate, write_solverstate, write_weights
from weights.files import atomic_path

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
    probe = f"{prefix}_iter_0.tempfile"
    folder, name = os.path.split(prefix)
    try:
        with open(probe, "w"):
            pass
        os.remove(probe)
        for left in Path(folder).glob(f".{glob.escape(name)}_iter_*"):
            left.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f'snapshot_prefix: "{prefix}" cannot be written to ({error.strerror}): '
            "make sure that the folder exists and is writable"
        ) from error


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
            renames.enter_context(atomic_path(path))
            for path in (names.state, names.state + SIDECAR, names.model)
        )
        try:
            write_weights(model, layers, net_name=net_name)
            write_solverstate(state, snapshot)
        except InputError as error:  # which names the files beside
            told = str(error).replace(str(model), names.model).replace(str(state), names.state)
            raise InputError(told) from error
        beside.write_text(json.dumps({**sidecar, "of": [_checksum(model), _checksum(state)]}))


def read_snapshot(path: str | os.PathLike) -> tuple[SolverSnapshot, dict[str, Any] | None]:
    """A .solverstate with its weights' path made findable, and its sidecar where there is one.

    Caffe looks for the weights from the current folder on; so does this, and then beside the .solverstate.

    Raises:
        InputError: a file that is missing or damaged.
    """
    snapshot = read_solverstate(path)
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
        sidecar = json.loads(path.read_text())
        if sidecar.pop("of") == [_checksum(model), _checksum(state)]:
            return sidecar
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}): {_WITHOUT}") from error
    raise InputError(f"{path}: belongs to another snapshot than {state}: {_WITHOUT}")


def _checksum(path: Path) -> int:
    total = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            total = zlib.crc32(chunk, total)
    return total
