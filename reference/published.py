"""The published test procedure: attention for one label of one image (vis.ipynb of the authors' release)."""

from typing import Any

import numpy as np

from runtime.resizing import resize_cubic

MEAN_BGR = (104.007, 116.669, 122.679)
"""Subtracted from BGR pixels in 0 … 255."""


def published_forward(net: Any, image: np.ndarray, label: int, test_size: int = 256) -> np.ndarray:
    """Attention of `label` on `image`, as the authors' notebook computes it.

    The label blob is set, never cleared: after calls for labels 4 and 7 the net sees both. This is what
    the published numbers come from.

    Args:
        net: SeeNet as a pycaffe net (`reference.pycaffe`, `port.pycaffe`, or genuine pycaffe).
        image: (height, width, 3) float64, BGR, 0 … 255.
        label: class index, 0 … 19.
        test_size: the side to which the image is resized (256 in the notebook, 224 in the paper).

    Returns:
        (height, width) float32, at most 1: the maximum of the two branches, each scaled to its maximum.
    """
    height, width = image.shape[:2]
    resized = resize_cubic(image, test_size, test_size)
    data = (resized - np.array(MEAN_BGR)).transpose(2, 0, 1)
    net.blobs["data"].reshape(1, *data.shape)
    net.blobs["data"].data[...] = data
    net.blobs["label"].reshape(1, 1, 1, 20)
    net.blobs["label"].data[0, 0, 0, label] = 1
    net.forward()
    branches = []
    for blob in ("score_b1", "score_b2"):
        score = net.blobs[blob].data[0][label]
        attention = resize_cubic(score, width, height)
        attention[attention < 0] = 0
        branches.append(attention / (np.max(attention) + 1e-8))
    return np.maximum(*branches)
