"""Weights as NumPy's .npz and MATLAB's .mat."""

import os
import zipfile
from collections.abc import Callable, Sequence

import numpy as np

from prototxt.errors import InputError
from weights.files import atomic_path
from weights.layer_weights import LayerWeights, stored_blobs
from weights.mat5 import read_mat5
from weights.names import from_state_dict, to_state_dict
from weights.opening import ZIP_MAGIC, check_unpacked, first_bytes, not_a


def read_npz(path: str | os.PathLike) -> list[LayerWeights]:
    """The layers of an .npz whose arrays are named LAYER.PARAM.

    Raises:
        InputError: no .npz, or arrays of another kind.
    """
    first_bytes(path)
    try:
        with zipfile.ZipFile(path) as archive:
            check_unpacked(path, sum(entry.file_size for entry in archive.infolist()))
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        if any(isinstance(array, bytes) for array in found.values()):
            raise ValueError("a part that is no array")  # NumPy gives what has another name or magic as it is
        return from_state_dict(found, path)
    except InputError:
        raise
    except Exception as error:  # NumPy and zlib raise whatever the bytes lead them to
        raise not_a(".npz of numbers", path, error, ZIP_MAGIC) from error


def write_npz(
    path: str | os.PathLike, layers: Sequence[LayerWeights], *, progress: Callable[[int], None] | None = None
) -> None:
    """Write each blob under its name LAYER.PARAM, uncompressed.

    Raises:
        InputError: where the file cannot be written or the layers cannot be named.
    """
    state = to_state_dict(layers, path)
    with atomic_path(path) as beside, zipfile.ZipFile(beside, "w") as archive:
        for name, blob in state.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(blob), allow_pickle=False)
            if progress:
                progress(blob.nbytes)


def read_mat(path: str | os.PathLike) -> list[LayerWeights]:
    """The layers of a .mat that `write_mat` wrote.

    Raises:
        InputError: another kind of file.
    """
    first_bytes(path)
    try:
        return [
            LayerWeights(
                _text(layer["name"]),
                _text(layer["type"]),
                [
                    _numbers(blob).reshape(tuple(int(size) for size in _numbers(shape).ravel()))
                    for blob, shape in zip(layer["weights"].ravel(), layer["shapes"].ravel(), strict=True)
                ],
            )
            for layer in read_mat5(path)["layers"].ravel()
        ]
    except Exception as error:  # an array of another kind than is expected raises anything
        raise InputError(
            f'{path}: cannot be read as a .mat with a struct array "layers" (name, type, weights, shapes): {error}'
        ) from error


def _text(value: np.ndarray | str) -> str:
    if not isinstance(value, str):
        raise ValueError("a name that is no text")
    return value


def _numbers(value: np.ndarray | str) -> np.ndarray:
    if isinstance(value, str) or value.dtype == object:
        raise ValueError("a blob that is no array of numbers")
    return value


def write_mat(
    path: str | os.PathLike, layers: Sequence[LayerWeights], *, progress: Callable[[int], None] | None = None
) -> None:
    """Write a struct array `layers` with fields name, type, weights (a cell) and shapes, for MATLAB's load.

    MATLAB's arrays have two axes or more: `shapes` says how many a blob has.

    Raises:
        InputError: where the file cannot be written, or an array is too large for MATLAB's version 5 format.
    """
    from scipy.io import savemat
    from scipy.io.matlab import MatWriteError

    fields = [(name, object) for name in ("name", "type", "weights", "shapes")]
    rows = np.empty(len(layers), fields)
    for i, layer in enumerate(layers):
        blobs = stored_blobs(layer, path)
        cells, shapes = np.empty(len(blobs), object), np.empty(len(blobs), object)
        for j, blob in enumerate(blobs):
            cells[j], shapes[j] = np.array(blob), np.array(blob.shape, np.float64)
        rows[i] = (layer.name, layer.type, cells, shapes)
    try:
        with atomic_path(path) as beside:
            savemat(beside, {"layers": rows}, oned_as="row", format="5")
    except (MatWriteError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be written as .mat ({error}): choose .safetensors") from error
    for layer in layers:
        if progress:
            progress(sum(blob.nbytes for blob in layer.present))
