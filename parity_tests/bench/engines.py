"""SeeNet in the port's engines and in others', each as a function from (data, label) to (score_b1, score_b2)."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import torch

import prototxt
from parity_tests.compare.engines import genuine_caffe
from parity_tests.compare.opencv_engine import custom_layers
from port.export.writers import export_onnx
from port.images import quiet_opencv
from port.models.fast import with_engine
from port.models.seenet import SeeNet
from port.pycaffe import TEST, Net
from prototxt.errors import InputError, need_packages
from weights import write_weights
from weights.rebuilt import rebuilt_weights

NETS = Path(prototxt.__file__).parent / "seenet"
SEED = 20181023

Forward = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]
"""data (num, 3, height, width) and label (num, 1, 1, 20), float32, to score_b1 and score_b2."""


class NotHere(Exception):
    """Why an engine is not measured, in one line."""


@dataclass(frozen=True)
class Files:
    """SeeNet on disk, as the engines read it, in one folder; and how they are to run."""

    prototxt: Path
    weights: Path
    onnx: Path
    device: str
    threads: int

    def model(self) -> SeeNet:
        return SeeNet.from_caffemodel(self.weights).to(self.device)


def make_files(folder: Path, device: str, threads: int, narrow: bool = False) -> Files:
    """SeeNet's released net, or a narrow one, with weights rebuilt from a seed."""
    files = Files(
        NETS / ("narrow_deploy.prototxt" if narrow else "deploy.prototxt"),
        folder / "seenet.caffemodel",
        folder / "seenet.onnx",
        device,
        threads,
    )
    if not files.weights.exists():
        net = Net(str(files.prototxt), TEST, allow_modules=())
        write_weights(files.weights, rebuilt_weights(net, SEED))
    return files


def use_threads(threads: int) -> None:
    """For PyTorch and OpenCV; the other engines take the number when they are opened."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def open_engine(name: str, files: Files) -> Forward:
    """
    Raises:
        NotHere: the engine is not installed, does not run on this device, or cannot take the net.
    """
    return opened(OPENERS[name], files, name)


def opened(opener: Callable[[Any], Any], files: Any, name: str) -> Any:
    """What `opener` makes of `files`; whatever goes wrong, in one line.

    Raises:
        NotHere: the engine `name` is not installed, does not run on this device, or cannot take the net.
    """
    try:
        return opener(files)
    except NotHere:
        raise
    except ImportError as error:
        raise NotHere(f"{error.name or name} is not installed") from error
    except InputError as error:
        raise NotHere(str(error)) from error
    except MemoryError as error:
        raise NotHere("too little memory") from error
    except Exception as error:  # whatever another project's importer says
        raise NotHere((str(error).strip() or type(error).__name__).splitlines()[0]) from error


def port_forward(model: SeeNet) -> Forward:
    """SeeNet as such a function, wherever it lies."""
    device = model.score_b1.weight.device

    def forward(data: np.ndarray, label: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            scores = model(torch.from_numpy(data).to(device), torch.from_numpy(label).to(device))
            return [score.cpu().numpy() for score in scores]

    return forward


def _port(engine: str) -> Callable[[Files], Forward]:
    return lambda files: port_forward(with_engine(files.model(), engine))


def _onnxruntime(files: Files) -> Forward:
    session = ort_session(onnx_file(files), files.device, files.threads)
    return lambda data, label: session.run(
        ["score_b1", "score_b2"], {"data": data, "label": label.reshape(len(label), -1)}
    )


def ort_session(path: str | os.PathLike, device: str, threads: int) -> Any:
    """An ONNX Runtime session of a file.

    Raises:
        NotHere: this ONNX Runtime does not run on the device.
    """
    need_packages("onnxruntime")
    import onnxruntime

    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise NotHere(f"this onnxruntime has no {provider}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    providers = [(provider, {"use_tf32": 0})] if device == "cuda" else [provider]
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=providers)


def _openvino(files: Files) -> Forward:
    _need_cpu(files, "OpenVINO")
    need_packages("openvino")
    import openvino

    settings = {"INFERENCE_NUM_THREADS": files.threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(onnx_file(files), "CPU", settings)

    def forward(data: np.ndarray, label: np.ndarray) -> list[np.ndarray]:
        scores = compiled({"data": data, "label": label.reshape(len(label), -1)})
        return [scores["score_b1"], scores["score_b2"]]

    return forward


def _opencv(files: Files) -> Forward:
    """OpenCV as it comes, with Winograd's convolutions; its C-ReLU is the port's."""
    _need_cpu(files, "OpenCV from PyPI")
    text = files.prototxt.read_text(encoding="utf-8").replace('"Python"', '"CReLULayer"')
    model = np.fromfile(files.weights, np.uint8)
    with custom_layers(), quiet_opencv():
        net = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8), model)

    def forward(data: np.ndarray, label: np.ndarray) -> list[np.ndarray]:
        with custom_layers():  # layers are made when the shapes are known
            net.setInput(data, "data")
            net.setInput(label, "label")
            return list(net.forward(["score_b1", "score_b2"]))

    return forward


def _caffe(files: Files) -> Forward:
    """Genuine pycaffe; a Python module `crelu_layer` with the authors' layer must be on its path."""
    caffe = use_caffe(files.threads, files.device)
    if importlib.util.find_spec("crelu_layer") is None:
        raise NotHere("the authors' crelu_layer.py is not on Python's path")
    net = caffe.Net(str(files.prototxt), str(files.weights), caffe.TEST)

    def forward(data: np.ndarray, label: np.ndarray) -> list[np.ndarray]:
        for name, array in (("data", data), ("label", label)):
            net.blobs[name].reshape(*array.shape)
            net.blobs[name].data[...] = array
        net.forward()
        return [net.blobs[name].data.copy() for name in ("score_b1", "score_b2")]

    return forward


def use_caffe(threads: int, device: str) -> ModuleType:
    """Genuine pycaffe, told how many threads to use and on which device.

    Raises:
        NotHere: it is not importable.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    caffe = genuine_caffe()
    if caffe is None:
        raise NotHere("genuine pycaffe is not importable here")
    caffe.set_mode_gpu() if device == "cuda" else caffe.set_mode_cpu()
    return caffe


def _need_cpu(files: Files, who: str) -> None:
    if files.device != "cpu":
        raise NotHere(f"{who} runs on the CPU")


def onnx_file(files: Files) -> str:
    """The graph's file, made by the first that asks."""
    if not files.onnx.exists():
        export_onnx(SeeNet.from_caffemodel(files.weights), files.onnx)
    return str(files.onnx)


OPENERS: dict[str, Callable[[Files], Forward]] = {
    "port": _port("torch"),
    "port, winograd": _port("winograd"),
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "opencv": _opencv,
    "caffe": _caffe,
}
"""Each engine, by the name that the table gives it. The first is what the others are compared with."""
