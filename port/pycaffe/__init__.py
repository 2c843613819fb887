"""pycaffe's interface over PyTorch: use it in place of `import caffe`.

    from port import pycaffe as caffe
    net = caffe.Net("deploy.prototxt", "net.caffemodel", caffe.TEST)

or run an old script: `python -m port.pycaffe SCRIPT [ARG…]`.
"""

from port.pycaffe import classifier, detector
from port.pycaffe.classifier import Classifier
from port.pycaffe.detector import Detector
from port.pycaffe.net import Net, layer_type_list, set_device, set_mode_cpu, set_mode_gpu
from port.pycaffe.process import (
    NCCL,
    has_nccl,
    init_log,
    log,
    set_multiprocess,
    set_solver_count,
    set_solver_rank,
)
from port.pycaffe.solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    get_solver,
)
from port.ranks import solver_count, solver_rank
from runtime import TEST, TRAIN, Layer
from runtime.pycaffe import coord_map, draw, io, net_spec, proto
from runtime.pycaffe.net_spec import NetSpec, layers, params, to_proto
from runtime.pycaffe.timer import Timer
from runtime.rng import set_random_seed

__version__ = "1.0.0"
"""Of the Caffe that this stands in for."""

__all__ = [
    "NCCL",
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Classifier",
    "Detector",
    "Layer",
    "NesterovSolver",
    "Net",
    "NetSpec",
    "RMSPropSolver",
    "SGDSolver",
    "Timer",
    "classifier",
    "coord_map",
    "detector",
    "draw",
    "get_solver",
    "has_nccl",
    "init_log",
    "io",
    "layer_type_list",
    "layers",
    "log",
    "net_spec",
    "params",
    "proto",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
    "to_proto",
]
