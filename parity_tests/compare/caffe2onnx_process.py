"""caffe2onnx at work: `python caffe2onnx_process.py FOLDER`, a process of its own.

Reads `layers.json` (each layer as text, in order) and `weights.npz` in FOLDER, writes `net.onnx` there, and
prints one line of JSON: null, or [the number of the layer that caffe2onnx cannot convert, why]. Nothing of
this repository is imported here: caffe2onnx brings Caffe's schema once more, and a process holds but one.
"""

import contextlib
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from caffe2onnx.proto.caffe_upsample_pb2 import NetParameter
from caffe2onnx.src.caffe2onnx import Caffe2Onnx
from google.protobuf import text_format


def main(folder: Path) -> list | None:
    onnx.helper.make_tensor = _make_tensor
    np.int, np.float = int, float  # it calls both by names that NumPy dropped in 1.24
    net = NetParameter()
    for i, text in enumerate(json.loads((folder / "layers.json").read_text())):
        try:
            text_format.Merge(text, net.layer.add())
        except text_format.ParseError as error:
            return [i, f"caffe2onnx cannot read it: {error}"]
    weights = SimpleNamespace(layers=[], layer=_weights(folder / "weights.npz"))
    try:
        model = _convert(net, weights)
    except _FailedError:
        return _culprit(net, weights)
    onnx.save_model(model, folder / "net.onnx")
    return None


class _FailedError(Exception):
    pass


def _convert(net: NetParameter, weights: SimpleNamespace) -> onnx.ModelProto:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            return Caffe2Onnx(net, weights, "net").createOnnxModel()
    except MemoryError:
        raise
    except SystemExit as error:  # how it refuses
        raise _FailedError(f"caffe2onnx says {said.getvalue().strip().splitlines()[-1]}") from error
    except Exception as error:  # how it fails at what it did not expect: in any way
        raise _FailedError(f"caffe2onnx fails with {type(error).__name__}: {error}") from error


def _culprit(net: NetParameter, weights: SimpleNamespace) -> list:
    """The last layer of the shortest beginning of the net that cannot be converted.

    Not the layer at which it failed: a converter that notes down a wrong shape brings a later one to fall.
    """
    works, fails, why = 0, len(net.layer), ""
    while fails - works > 1:
        middle = (works + fails) // 2
        try:
            _convert(NetParameter(layer=net.layer[:middle]), weights)
            works = middle
        except _FailedError:
            fails = middle
    try:
        _convert(NetParameter(layer=net.layer[:fails]), weights)
    except _FailedError as error:
        why = " ".join(str(error).split())
    return [fails - 1, why]


# Its own way with weights, one Python number after the other through protobuf's Python form, takes six
# seconds and 100 MB for a million of them. So they come as arrays, and go as arrays.


_NO_LEGACY = dict.fromkeys(("num", "channels", "height", "width"), 0)


def _weights(path: Path) -> list[SimpleNamespace]:
    layers: dict[str, list[SimpleNamespace]] = {}
    with np.load(path) as arrays:
        for key, array in arrays.items():
            shape = SimpleNamespace(dim=list(array.shape))
            # float64, since it calculates with Python's numbers.
            blob = SimpleNamespace(shape=shape, data=array.astype(np.float64).reshape(-1), **_NO_LEGACY)
            layers.setdefault(key.partition(" ")[0], []).append(blob)
    return [SimpleNamespace(name=name, blobs=blobs) for name, blobs in layers.items()]


def _make_tensor(name: str, data_type: int, dims: Any, vals: Any, raw: bool = False) -> onnx.TensorProto:
    """`onnx.helper.make_tensor`, quick."""
    with np.errstate(over="ignore"):  # it pads with -1.8e308, which is -∞ in float32
        array = np.asarray(vals, onnx.helper.tensor_dtype_to_np_dtype(data_type))
    return onnx.numpy_helper.from_array(array.reshape(dims), name)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
