"""Solver states, .solverstate and .solverstate.h5: where training stood, as SGDSolver snapshots it."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from google.protobuf.message import DecodeError

from prototxt.caffe_pb2 import SolverState
from prototxt.errors import InputError
from weights.hdf5 import check_stored, member, new_hdf5, open_hdf5, read_dataset
from weights.layer_weights import LayerWeights, stored_blobs
from weights.opening import HDF5_MAGIC, first_bytes, map_file, not_a
from weights.wire import (
    MAX_HEADER,
    Pieces,
    WireError,
    blob_pieces,
    field_number,
    length_delimited,
    read_blob,
    split,
    take,
    write_message,
)

_MOST = (1 << 31) - 1  # Caffe's int
_HISTORY = field_number(SolverState, "history")
_LEARNED_NET = field_number(SolverState, "learned_net")


@dataclass(eq=False)
class SolverSnapshot:
    """What a solver needs, besides the weights, to go on.

    Attributes:
        iteration: how many are done.
        learned_net: path of the weights that belong to it, as the solver wrote it; "" where there is none.
        current_step: how many steps of a `multistep` rate are passed.
        history: float32 or float64, one array for each learnable parameter; AdaDelta and Adam have two, all
            firsts before all seconds.
    """

    iteration: int
    learned_net: str = ""
    current_step: int = 0
    history: list[np.ndarray] = field(default_factory=list)


def read_solverstate(path: str | os.PathLike) -> SolverSnapshot:
    """Read either kind, known by its first bytes.

    Raises:
        InputError: where the file is missing, cut short, no solver state, or counts what cannot be.
    """
    hdf5 = first_bytes(path).startswith(HDF5_MAGIC)
    snapshot = _read_hdf5(path) if hdf5 else _read_message(path)
    for what, count in (("iteration", snapshot.iteration), ("step", snapshot.current_step)):
        if not 0 <= count <= _MOST:
            raise InputError(
                f"{os.fspath(path)}: its {what} is {count}: it is damaged: take another snapshot"
            )
    return snapshot


def _read_message(path: str | os.PathLike) -> SolverSnapshot:
    try:
        rest, entries = take(map_file(path), (_HISTORY,), most=MAX_HEADER)
        state = SolverState.FromString(rest)
        blobs = [read_blob(entry) for _, entry in entries]
        learned_net = _path_of(state.learned_net)
    except (WireError, DecodeError, UnicodeDecodeError) as error:
        raise not_a("solverstate", path, error) from error
    # Caffe has written current_step, last of all, since before it dropped the four-number shapes.
    if not state.HasField("iter") or not (state.HasField("current_step") or any(old for _, old in blobs)):
        raise not_a("solverstate", path, "its end is missing")
    return SolverSnapshot(state.iter, learned_net, state.current_step, [blob for blob, _ in blobs])


def _path_of(field: str | bytes) -> str:
    """A path as the system has it: any bytes, in Python with surrogates for what is not UTF-8."""
    return os.fsdecode(field)


def _read_hdf5(path: str | os.PathLike) -> SolverSnapshot:
    with open_hdf5(path, "solverstate.h5") as file:
        if not {"iter", "current_step", "history"} <= set(file):
            raise not_a("solverstate.h5", path, "it lacks iter, current_step or history", HDF5_MAGIC)
        history_group = member(file, "history")
        if not isinstance(history_group, h5py.Group):
            raise ValueError("history is no group")
        history = [read_dataset(history_group, str(index)) for index in range(len(history_group))]
        learned_net = _path_of(_string(file, "learned_net") or b"")
        return SolverSnapshot(_integer(file, "iter"), learned_net, _integer(file, "current_step"), history)


def _integer(file: h5py.File, name: str) -> int:
    dataset = member(file, name)
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iu" or dataset.size != 1:
        raise ValueError(f"{name} is no single integer")
    check_stored(dataset)
    return int(np.reshape(dataset[()], -1)[0])


def _string(file: h5py.File, name: str) -> bytes | None:
    dataset = member(file, name)
    if dataset is None:
        return None
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "SO" or dataset.size != 1:
        raise ValueError(f"{name} is no single text")
    check_stored(dataset)
    value = np.reshape(np.asarray(dataset[()], dataset.dtype), -1)[0]
    if not isinstance(value, bytes | str):
        raise ValueError(f"{name} is no single text")
    return os.fsencode(value)


def write_solverstate(path: str | os.PathLike, snapshot: SolverSnapshot, *, sync: bool = False) -> None:
    """Write HDF5 where the suffix is .h5, else protobuf, as Caffe 1.0 writes them (sgd_solver.cpp).

    Args:
        sync: see `weights.files.atomic_path`.

    Raises:
        InputError: where the file cannot be written or the history is no float32 or float64.
    """
    stored_blobs(LayerWeights("history", blobs=list(snapshot.history)), path)
    if Path(path).suffix.lower() in (".h5", ".hdf5"):
        _write_hdf5(path, snapshot, sync)
    else:
        write_message(path, _state_pieces(snapshot), sync=sync)


def _state_pieces(snapshot: SolverSnapshot) -> Pieces:
    state = SolverState(iter=snapshot.iteration, current_step=snapshot.current_step)
    before, after = split(state.SerializeToString(), _HISTORY)
    # Not by protobuf, which wants UTF-8: a path is any bytes.
    path = os.fsencode(snapshot.learned_net)
    learned_net = length_delimited(_LEARNED_NET, [path]) if path else []
    history = [piece for blob in snapshot.history for piece in length_delimited(_HISTORY, blob_pieces(blob))]
    return [before, *learned_net, *history, after]


def _write_hdf5(path: str | os.PathLike, snapshot: SolverSnapshot, sync: bool) -> None:
    with new_hdf5(path, sync=sync) as file:
        file["iter"] = np.array([snapshot.iteration], np.int32)
        if snapshot.learned_net:
            _write_c_string(file, "learned_net", snapshot.learned_net)
        file["current_step"] = np.array([snapshot.current_step], np.int32)
        history = file.create_group("history")
        for index, blob in enumerate(snapshot.history):
            history[str(index)] = blob


def _write_c_string(file: h5py.File, name: str, text: str) -> None:
    """A scalar string with the closing zero byte that Caffe's reader relies on; h5py's own have none."""
    encoded = os.fsencode(text)
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(encoded) + 1)
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    dataset = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(encoded, f"S{len(encoded) + 1}"), kind)
