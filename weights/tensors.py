"""Weights by name: safetensors, and PyTorch's .pth. Both hold what `names` makes of the layers."""

import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, cast

import numpy as np
from safetensors import SafetensorError, safe_open

from prototxt.errors import InputError
from weights.files import atomic_path, plain_os_errors
from weights.layer_weights import LayerWeights
from weights.names import from_state_dict, to_state_dict
from weights.opening import ZIP_MAGIC, first_bytes, map_file, not_a
from weights.wire import MAX_AXES, raw_bytes, write_pieces

_DTYPES: dict[str, np.dtype] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}


def read_safetensors(path: str | os.PathLike) -> list[LayerWeights]:
    """The layers of a .safetensors file; the arrays are read-only views of the mapped file.

    Raises:
        InputError: where the file is missing, damaged, or holds other than float32 and float64 weights.
    """
    contents = map_file(path)
    try:
        with safe_open(path, framework="numpy"):  # checks the header, and that the data are all there
            pass
    except SafetensorError as error:
        raise not_a("safetensors file", path, error) from error
    (header_size,) = struct.unpack_from("<Q", contents)
    try:
        header = json.loads(bytes(contents[8 : 8 + header_size]))
    except (ValueError, RecursionError) as error:
        raise not_a("safetensors file", path, error) from error
    data = contents[8 + header_size :]
    header.pop("__metadata__", None)
    return from_state_dict({name: _tensor(path, name, data, entry) for name, entry in header.items()}, path)


def _tensor(path: str | os.PathLike, name: str, data: memoryview, entry: dict[str, Any]) -> np.ndarray:
    if entry["dtype"] not in _DTYPES:
        raise InputError(f'{path}: "{name}" is {entry["dtype"]}: Caffe has F32 and F64')
    dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
    start, stop = entry["data_offsets"]
    try:
        if len(shape) > MAX_AXES:
            raise ValueError(f"{len(shape)} axes, Caffe's blobs have at most {MAX_AXES}")
        return (
            np.frombuffer(data[start:stop], dtype).reshape(shape) if stop > start else np.empty(shape, dtype)
        )
    except (ValueError, OverflowError) as error:  # an empty tensor may claim axes that NumPy does not take
        raise InputError(f'{path}: "{name}": {error}: get the file again') from error


def read_safetensors_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The entries beside the weights, as texts (see `weights.metadata`); empty where there are none.

    Raises:
        InputError: where the file is missing or damaged.
    """
    first_bytes(path)
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise not_a("safetensors file", path, error) from error


def write_safetensors(
    path: str | os.PathLike,
    layers: Sequence[LayerWeights],
    *,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a .safetensors file, blob after blob, the layers in their order.

    safetensors' own writer sorts by name, so that a net's layers would come back in another order, and it does not
    tell how far it is. (It no longer copies: version 0.8 takes an array of 500 MB in no memory of its own.)

    Args:
        metadata: entries to hold beside the weights, as texts (see `weights.metadata`).

    Raises:
        InputError: where the file cannot be written or the layers cannot be named.
    """
    state = to_state_dict(layers, path)
    # PyTorch can only map numbers that lie at multiples of their size: doubles go first.
    state = dict(sorted(state.items(), key=lambda item: -item[1].itemsize))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, blob in state.items():
        dtype = "F64" if blob.itemsize == 8 else "F32"
        header[name] = {"dtype": dtype, "shape": blob.shape, "data_offsets": [offset, offset + blob.nbytes]}
        offset += blob.nbytes
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as beside:
        write_pieces(beside, [struct.pack("<Q", len(text)), text, *map(raw_bytes, state.values())], progress)


def read_pth(path: str | os.PathLike) -> list[LayerWeights]:
    """The layers of a state dict that torch.save wrote, bare or under "state_dict"; no code in it is run.

    Raises:
        InputError: where the file is missing, damaged, holds more than tensors, or other than float weights.
    """
    import torch

    first_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd in a damaged file; it fails soon enough
            _check_archive(path)
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: not a PyTorch checkpoint, or one with Python objects, which could run code and are "
            "not loaded: save the model's state_dict() alone"
        ) from error
    except Exception as error:  # of damaged files torch raises nearly anything
        raise not_a("PyTorch checkpoint", path, error, ZIP_MAGIC) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise InputError(f"{path}: holds a {type(state).__name__}, not a state dict: save model.state_dict()")
    arrays, claimed = {}, 0
    for name, value in state.items():
        arrays[name] = _array(path, name, value)
        claimed += arrays[name].nbytes
        if claimed > max(_MOST_SHARED * os.path.getsize(path), _FREE):
            raise InputError(f"{path}: its tensors share numbers more than {_MOST_SHARED} times: save copies")
    return from_state_dict(arrays, path)


_MOST_SHARED, _FREE = 10, 1 << 28
"""How often tensors of a file may use the same numbers, on average, and bytes that count for nothing."""


def _check_archive(path: str | os.PathLike) -> None:
    """Raises ValueError for a zip archive whose entries are packed, which torch.save never does, or a bomb is."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > entry.compress_size:
                    raise ValueError(f"its entry {entry.filename} is packed")


def _array(path: str | os.PathLike, name: str, value: Any) -> np.ndarray:
    import torch

    if not isinstance(value, torch.Tensor) or value.dtype not in (torch.float32, torch.float64):
        what = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
        raise InputError(f'{path}: "{name}" is {what}: Caffe\'s weights are float32 or float64 tensors')
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_nested or value.is_quantized:
        raise InputError(
            f'{path}: "{name}" is a sparse, nested or meta tensor, or of another device: save plain tensors'
        )
    if value.ndim > MAX_AXES:
        raise InputError(f'{path}: "{name}" has {value.ndim} axes, Caffe\'s blobs have at most {MAX_AXES}')
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise InputError(
            f'{path}: "{name}" says to hold {value.numel()} numbers, which its part of the file does not: '
            "save it with .contiguous()"
        )
    return value.detach().contiguous().numpy()


def write_pth(
    path: str | os.PathLike, layers: Sequence[LayerWeights], *, progress: Callable[[int], None] | None = None
) -> None:
    """Write a flat state dict with torch.save, for torch.load(weights_only=True) and load_state_dict.

    Raises:
        InputError: where the file cannot be written or the layers cannot be named.
    """
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor is it written to
        state = {
            name: torch.from_numpy(np.asarray(blob, order="C"))
            for name, blob in to_state_dict(layers, path).items()
        }
    with atomic_path(path) as beside, plain_os_errors(), open(beside, "wb") as file:
        torch.save(state, cast(IO[bytes], _Counted(file, progress)) if progress else file)


class _Counted:
    """A file that tells how much was written to it."""

    def __init__(self, file: Any, progress: Callable[[int], None]):
        self._file, self._progress = file, progress

    def write(self, data: Any) -> int:
        self._progress(len(data))
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()
