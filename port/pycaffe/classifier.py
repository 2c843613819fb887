"""`caffe.Classifier`: class probabilities of images (pycaffe's classifier.py)."""

import os
from collections.abc import Sequence

import numpy as np

from port.pycaffe.net import Net
from runtime import TEST
from runtime.pycaffe import io


class Classifier(Net):
    """A net with one image input.

    Args:
        image_dims: (height, width) that images are scaled to before cropping; the net's own by default.
        mean, input_scale, raw_scale, channel_swap: for the `io.Transformer`.

    Attributes:
        transformer, crop_dims, image_dims.
    """

    def __init__(
        self,
        model_file: str | os.PathLike,
        pretrained_file: str | os.PathLike,
        image_dims: Sequence[int] | None = None,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ):
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = image_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims = self.crop_dims if image_dims is None or not len(image_dims) else image_dims

    def predict(self, inputs: Sequence[np.ndarray], oversample: bool = True) -> np.ndarray:
        """Class probabilities.

        Args:
            inputs: images (height, width, channels), of any sizes.
            oversample: the mean over ten crops; otherwise the centre crop alone.

        Returns:
            (images, classes), or with `oversample=False` the net's first output as it is shaped.
        """
        images = np.stack([io.resize_image(image, self.image_dims) for image in inputs])
        crops = io.oversample(images, self.crop_dims) if oversample else self._centres(images)
        name = self.inputs[0]
        data = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        predictions = self.forward_all(**{name: data})[self.outputs[0]]
        if oversample:
            predictions = predictions.reshape(len(images), 10, -1).mean(1)
        return predictions

    def _centres(self, images: np.ndarray) -> np.ndarray:
        (top, left), (height, width) = (np.array(self.image_dims) - self.crop_dims) // 2, self.crop_dims
        return images[:, top : top + height, left : left + width]


def image_transformer(
    net: Net,
    mean: np.ndarray | None,
    input_scale: float | None,
    raw_scale: float | None,
    channel_swap: Sequence[int] | None,
) -> io.Transformer:
    """A transformer of images (height, width, channels) for the net's first input."""
    name = net.inputs[0]
    transformer = io.Transformer({name: net.blobs[name].shape})
    transformer.set_transpose(name, (2, 0, 1))
    for set_up, value in (
        (transformer.set_mean, mean),
        (transformer.set_input_scale, input_scale),
        (transformer.set_raw_scale, raw_scale),
        (transformer.set_channel_swap, channel_swap),
    ):
        if value is not None:
            set_up(name, value)
    return transformer
