"""SSD300's DetectionOutput, 8,732 priors and 21 classes: the layer alone, beside OpenCV's of the same name."""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
import torch

import reference.pycaffe
from port import CaffeNet
from prototxt import parse_net
from runtime import TEST

SSD300 = """
  share_location: true background_label_id: 0 nms_param { nms_threshold: 0.45 top_k: 400 }
  code_type: CENTER_SIZE keep_top_k: 200 confidence_threshold: 0.01"""
"""The published net's settings."""


def detection_layer(priors: int, classes: int, settings: str, loc_classes: int = 1) -> str:
    """A net of the one layer, which gets its predictions as inputs."""
    sizes = {"loc": f"dim: {priors * loc_classes * 4}", "conf": f"dim: {priors * classes}"}
    inputs = "".join(f'input: "{name}" input_shape {{ dim: 1 {size} }}\n' for name, size in sizes.items())
    return (
        f'{inputs}input: "prior" input_shape {{ dim: 1 dim: 2 dim: {priors * 4} }}\n'
        'layer { name: "out" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "out"\n'
        f"  detection_output_param {{ num_classes: {classes} {settings} }} }}\n"
    )


def predictions(priors: int, classes: int, seed: int = 0, loc_classes: int = 1) -> tuple[np.ndarray, ...]:
    """Locations, scores that add up to 1 for each prior, and priors with their variances; float32."""
    draw = np.random.RandomState(seed)
    centres, sizes = draw.rand(priors, 2), draw.rand(priors, 2) * 0.4 + 0.05
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
    variances = np.tile([0.1, 0.1, 0.2, 0.2], (priors, 1))
    scores = np.exp(draw.randn(priors, classes) * 2 + 4 * (np.arange(classes) == 0))
    scores /= scores.sum(axis=1, keepdims=True)
    made = (
        draw.randn(1, priors * loc_classes * 4),
        scores.reshape(1, -1),
        np.stack([boxes, variances]).reshape(1, 2, -1),
    )
    return tuple(array.astype(np.float32) for array in made)


def detectors(narrow: bool = False) -> dict[str, Callable[[], np.ndarray]]:
    """The layer in each engine: functions that give its top."""
    priors, classes = (500, 5) if narrow else (8732, 21)
    text = detection_layer(priors, classes, SSD300)
    given = dict(zip(("loc", "conf", "prior"), predictions(priors, classes), strict=True))
    message = parse_net(text)
    opencv = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8))
    model, tensors = CaffeNet(message, TEST), {name: torch.from_numpy(a) for name, a in given.items()}
    net = reference.pycaffe.Net.from_message(message, TEST)

    def run_opencv() -> np.ndarray:
        for name, array in given.items():
            opencv.setInput(array, name)
        return opencv.forward()

    def run_port() -> np.ndarray:
        with torch.no_grad():
            return model(**tensors)["out"].numpy()

    return {
        "opencv": run_opencv,
        "port": run_port,
        "reference": partial(_run_net, net, given),
    }


def _run_net(net: reference.pycaffe.Net, given: dict[str, np.ndarray]) -> np.ndarray:
    return net.forward(**given)["out"]
