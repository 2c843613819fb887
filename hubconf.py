"""Entry points for `torch.hub.load`: SeeNet, any Caffe net, and DeepLab-LargeFOV.

    torch.hub.load("path/to/this/repository", "seenet", source="local", weights="seenet_final.caffemodel")

Nothing is downloaded: weights/README.md says where the published weights come from.
"""

import os
from collections.abc import Collection, Sequence

from torch import nn

import port

dependencies = ["torch", "numpy", "scipy", "cv2", "google", "h5py", "safetensors"]


def seenet(weights: str | os.PathLike | None = None, **settings: object) -> nn.Module:
    """SeeNet in evaluation mode: `model(data, label)` gives `(score_b1, score_b2)`.

    data is (num, 3, height, width), BGR in 0 … 255 minus (104.007, 116.669, 122.679); label (num, 20), 1 for the
    classes whose attention is erased.

    Args:
        weights: .caffemodel, .h5, .safetensors or .pth. Without, the weights are random.
        settings: of `port.SeeNet`: maxt, mint, backward, …

    Raises:
        prototxt.errors.InputError: an unreadable file, or one that is not SeeNet's.
    """
    if weights is None:
        return port.SeeNet(**settings).eval()
    return port.SeeNet.from_caffemodel(weights, **settings)


def caffe_net(
    prototxt: str | os.PathLike,
    weights: str | os.PathLike | None = None,
    phase: int = 1,
    level: int = 0,
    stages: Sequence[str] = (),
    allow_modules: Collection[str] = (),
) -> nn.Module:
    """The net of any prototxt: `model(*inputs, blobs=(…))` gives its outputs, and further blobs, by name.

    Args:
        prototxt: a net of any age.
        weights: .caffemodel, .h5, .safetensors or .pth, copied by layer name. Without, the net's fillers' values.
        phase: 0 TRAIN, 1 TEST.
        level, stages: what the layers' rules are judged by.
        allow_modules: Python modules that `Python` layers may load; SeeNet's are built in.

    Raises:
        prototxt.errors.InputError: whatever Caffe, or the port, refuses, with the file's line.
    """
    net = port.CaffeNet(prototxt, phase, level, stages, allow_modules)
    if weights is not None:
        net.load_weights(weights)
    return net


def deeplab_largefov(weights: str | os.PathLike | None = None, **settings: object) -> nn.Module:
    """DeepLab-LargeFOV in evaluation mode: `model(data)` gives the scores, (num, 21, rows, columns).

    Args:
        weights: .caffemodel, .h5, .safetensors or .pth; they tell the backbone. Without, the weights are random.
        settings: of `port.DeepLabLargeFOV`: backbone ("vgg16", "resnet101"), num_classes, …

    Raises:
        prototxt.errors.InputError: an unreadable file, or one that is not DeepLab-LargeFOV's.
    """
    if weights is None:
        return port.DeepLabLargeFOV(**settings).eval()
    return port.DeepLabLargeFOV.from_caffemodel(weights, **settings)
