"""pycaffe's interface over PyTorch: use it in place of `import caffe`.

    from port import pycaffe as caffe
    net = caffe.Net("deploy.prototxt", "net.caffemodel", caffe.TEST)

or run an old script: `python -m port.pycaffe SCRIPT [ARG…]`.
"""

from port.pycaffe.net import Net, layer_type_list, set_device, set_mode_cpu, set_mode_gpu
from port.pycaffe.solver import (
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    RMSPropSolver,
    SGDSolver,
    get_solver,
)
from port.training.ranks import solver_count, solver_rank
from pycaffe import TEST, TRAIN, Layer, proto
from weights.rng import set_random_seed

__all__ = [
    "TEST",
    "TRAIN",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Layer",
    "NesterovSolver",
    "Net",
    "RMSPropSolver",
    "SGDSolver",
    "get_solver",
    "layer_type_list",
    "proto",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_random_seed",
    "solver_count",
    "solver_rank",
]
