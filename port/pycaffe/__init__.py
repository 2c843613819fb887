"""pycaffe's interface over PyTorch: use it in place of `import caffe`.

    from port import pycaffe as caffe
    net = caffe.Net("deploy.prototxt", "net.caffemodel", caffe.TEST)

or run an old script: `python -m port.pycaffe SCRIPT [ARG…]`.
"""

from port.pycaffe.net import Net, layer_type_list, set_device, set_mode_cpu, set_mode_gpu
from pycaffe import TEST, TRAIN, Layer, SGDSolver, proto
from weights.rng import set_random_seed

__all__ = [
    "TEST",
    "TRAIN",
    "Layer",
    "Net",
    "SGDSolver",
    "layer_type_list",
    "proto",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_random_seed",
]
