"""The engines that `seenet parity` compares, by name."""

import importlib
import os
from collections.abc import Sequence
from types import ModuleType

from prototxt.errors import InputError

ENGINES = {
    "port": "port.pycaffe",
    "reference": "reference.pycaffe",
    "opencv": "parity_tests.compare.opencv_engine",
    "onnxruntime": "parity_tests.compare.onnx_engine",
    "onnx2torch": "parity_tests.compare.onnx_engine",
    "caffe": "caffe",
}
"""Engine → module. Loaded by name: only those that are asked for."""


def genuine_caffe() -> ModuleType | None:
    """Genuine pycaffe, where it is importable. When loaded it reads how much to log: warnings only, unless set."""
    level = "GLOG_minloglevel"
    before = os.environ.get(level)
    os.environ.setdefault(level, "2")
    try:
        caffe = importlib.import_module("caffe")
    except ImportError:
        return None
    finally:
        if before is None:
            del os.environ[level]
    return caffe if hasattr(caffe, "Net") else None


def check_engines(names: Sequence[str] | None) -> None:
    """Raises InputError for no names, or one that is not in `ENGINES`; None is for the default ones."""
    if names is not None and not names:
        raise InputError(f"no engine is named: give some of {', '.join(ENGINES)}")
    for name in names or ():
        if name not in ENGINES:
            raise InputError(f'engine "{name}": there is none; the engines are {", ".join(ENGINES)}')
