"""Images through a segmentation net: windows, scales and mirrors to one set of class probabilities."""

import math
import os
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from port.devices import float32_convolutions
from port.layers.interp import resize_bilinear
from port.net import CaffeNet
from port.voc.classes import CLASSES
from port.voc.settings import Views
from prototxt.caffe_pb2 import BlobShape, NetParameter
from prototxt.errors import InputError
from prototxt.read import read_net
from weights import check_finite, read_weights

MEAN_BGR = (104.008, 116.669, 122.675)
"""Subtracted from BGR pixels in 0 … 255, as in [O]'s training nets (its test script has 104.00698793, …)."""

KINDS = 1 + len(CLASSES)


class SegmentationNet:
    """A deploy net that tells the class of each pixel, from a prototxt, as `CaffeNet`.

    Any net does that has one input of three channels and one output of 21, scores or (of a Softmax layer)
    probabilities, for every pixel or for every k-th.

    Args:
        weights: a file in any format that `weights` reads, with all of the net's layers.
        tile: the side of the windows that it will be given; checked here, and with 0 at each image.
        allow_modules: Python modules that the net may load.

    Raises:
        InputError: a net that is another kind, weights of another net, a tile that does not map back.
    """

    def __init__(
        self,
        prototxt: str | os.PathLike,
        weights: str | os.PathLike,
        tile: int = Views.tile,
        device: str = "cpu",
        allow_modules: Sequence[str] = (),
    ):
        where = os.fspath(prototxt)
        message = read_net(prototxt)
        data = _only_input(message, where)
        if tile:
            data.dim[2:] = [tile, tile]
        self.net = CaffeNet(message, where=where, allow_modules=allow_modules)
        shapes = self.net.blob_shapes
        outputs = [self.net.plan.blobs[i] for i in self.net.plan.outputs]
        if len(outputs) != 1 or len(shapes[outputs[0]]) != 4 or shapes[outputs[0]][1] != KINDS:
            told = ", ".join(f"{name} {'×'.join(map(str, shapes[name]))}" for name in outputs)
            raise InputError(f"{where}: gives {told}: it must give one blob of {KINDS} channels, the classes")
        self.output = outputs[0]
        self.gives_probabilities = any(
            layer.type == "Softmax" and self.net.plan.blobs[layer.tops[0]] == self.output
            for layer in self.net.plan.layers
        )
        if tile:
            _check_enlargement((tile, tile), shapes[self.output][2:])
        _load_weights(self.net, weights)
        self.net.to(device)
        self.device = device

    def __call__(self, data: Tensor) -> Tensor:
        """(num, 21, height, width) probabilities of (num, 3, height, width), BGR minus the mean.

        A smaller output is enlarged bilinearly, corner on corner, as an Interp layer does, before the softmax
        where the net has none.
        """
        output = self.net(data)[self.output]
        if output.shape[2:] != data.shape[2:]:
            _check_enlargement(tuple(data.shape[2:]), tuple(output.shape[2:]))
            output = resize_bilinear(output, *data.shape[2:])
        return output if self.gives_probabilities else output.softmax(1)


def class_probabilities(net: SegmentationNet, image: np.ndarray, views: Views) -> np.ndarray:
    """The mean of what the net says of an image at each scale and mirrored.

    What is averaged is probabilities, after the softmax, as [O]'s `multi_scale_test` does (DeepLab's later
    releases take the maximum of scores over the scales; mirrors are theirs). A mean of scores would let one
    view with large scores outvote the others; probabilities count each view alike, and are what the CRF takes.
    Each scale's map is resized to the image by the same bicubic rule that resized the image.

    Windows: where they overlap, the mean of theirs counts ([O]'s rule and stride, two thirds). That is an
    approximation: a net sees further than their overlap, and a window's border hides what lies beyond.
    Between one window (`tile` of at least the scaled image) and the whole image (`tile` 0) only the padding
    differs, which reaches in from the right and from below. Where both pad alike, they are equal.

    Args:
        image: (height, width, 3) uint8, BGR.

    Returns:
        (21, height, width) float32, 0 … 1, with a sum of 1 at each pixel: background, then the classes.

    Raises:
        InputError: an image that does not fit in memory, or that the net gives no map for.
    """
    try:
        with torch.inference_mode(), float32_convolutions():
            return _class_probabilities(net, image, views).cpu().numpy()
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        height, width = image.shape[:2]
        raise InputError(
            f"{width}×{height} pixels do not fit in memory with these scales: "
            "make the image smaller, or give a smaller --tile"
        ) from error


def _class_probabilities(net: SegmentationNet, image: np.ndarray, views: Views) -> Tensor:
    size = image.shape[:2]
    pixels = torch.from_numpy(image).to(net.device).permute(2, 0, 1).float()
    mean = torch.tensor(MEAN_BGR, device=net.device)[:, None, None]
    total = torch.zeros(KINDS, *size, device=net.device)
    for scale in views.scales:
        data = _resized(pixels, [max(round(side * scale), 1) for side in size]) - mean
        said = _of_windows(net, torch.stack([data, data.flip(-1)] if views.flip else [data]), views.tile)
        fused = (said[0] + said[1].flip(-1)) / 2 if views.flip else said[0]
        total += _resized(fused, size)
    total.clamp_(min=0)  # bicubic overshoots
    return total / total.sum(0)


def _resized(x: Tensor, size: tuple[int, ...] | list[int]) -> Tensor:
    """(channels, height, width) bicubically, as `cv2.INTER_CUBIC` does, whose kernel PyTorch's is."""
    if x.shape[1:] == torch.Size(size):
        return x
    return F.interpolate(x[None], list(size), mode="bicubic", align_corners=False)[0]


def _of_windows(net: SegmentationNet, data: Tensor, tile: int) -> Tensor:
    """(views, 21, height, width) of (views, 3, height, width): the mean of the windows at each pixel."""
    height, width = data.shape[2:]
    window = [tile or 8 * math.ceil((side - 1) / 8) + 1 for side in (height, width)]
    padded = F.pad(data, (0, max(window[1] - width, 0), 0, max(window[0] - height, 0)))
    total = torch.zeros(len(data), KINDS, *padded.shape[2:], device=data.device)
    seen = torch.zeros(padded.shape[2:], device=data.device)
    for y, x in product(*map(window_starts, padded.shape[2:], window)):
        part = (..., slice(y, y + window[0]), slice(x, x + window[1]))
        total[part] += net(padded[part])
        seen[part] += 1
    return (total / seen)[..., :height, :width]


def window_starts(size: int, window: int) -> Iterator[int]:
    """Where windows start that cover `size`: every two thirds of a window, the last one flush ([O])."""
    stride = window * 2 // 3
    count = 1 + max(math.ceil((size - window) / stride), 0)
    return (min(i * stride, size - window) for i in range(count))


def _only_input(net: NetParameter, where: str) -> BlobShape:
    layers = [layer for layer in net.layer if layer.type == "Input"]
    names = [name for layer in layers for name in layer.top]
    shapes = [shape for layer in layers for shape in layer.input_param.shape]
    if len(names) != 1 or len(shapes) != 1 or len(shapes[0].dim) != 4 or shapes[0].dim[1] != 3:
        raise InputError(
            f"{where}: inputs: {', '.join(names) or 'none'}; give a deploy net with one input, an image "
            "of 3 channels"
        )
    return shapes[0]


def _check_enlargement(window: tuple[int, ...], output: tuple[int, ...]) -> None:
    """Raises InputError where the output's pixels are not on every k-th of the window's."""
    for side, given in zip(window, output, strict=True):
        if given > side or (side > 1 and (given < 2 or (side - 1) % (given - 1))):
            here, there = ("×".join(map(str, size)) for size in (window, output))
            raise InputError(
                f"of {here} pixels the net makes {there}, which does not map back: give a --tile that fits, "
                "such as 321 or 513"
            )


def _load_weights(net: CaffeNet, path: str | os.PathLike) -> None:
    where = os.fspath(path)
    source = read_weights(path, with_empty=True)
    check_finite(source, where)
    there = {layer.name for layer in source}
    missing = [
        plan.name
        for plan in net.plan.layers
        if plan.name not in there and any(param.owner is None for param in plan.params)
    ]
    if missing:
        some = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        raise InputError(
            f"{where}: not the weights of this net: {some} missing: give those it was trained to"
        )
    net.copy_weights(source, where)
