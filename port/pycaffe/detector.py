"""`caffe.Detector`: class scores of windows in images, as R-CNN has them (pycaffe's detector.py)."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from port.pycaffe.classifier import image_transformer
from port.pycaffe.net import Net
from runtime import TEST
from runtime.pycaffe import io

Window = Sequence[int]
"""ymin, xmin, ymax, xmax, in pixels; the last two lie outside."""


class Detector(Net):
    """A net with one square image input.

    Args:
        mean, input_scale, raw_scale, channel_swap: for the `io.Transformer`.
        context_pad: how many of the input's pixels on each side show what surrounds the window.

    Attributes:
        transformer, context_pad.
        crop_dims: (height, width, channels) of a crop.
        crop_mean: what lies outside of the image, in the image's scale and channels (with `context_pad`).
    """

    def __init__(
        self,
        model_file: str | os.PathLike,
        pretrained_file: str | os.PathLike,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ):
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = image_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def detect_windows(self, images_windows: Iterable[tuple[str, Iterable[Window]]]) -> list[dict[str, Any]]:
        """Scores of windows: a dict of `filename`, `window` and `prediction` for each.

        Args:
            images_windows: each image's file with its windows.
        """
        found, crops = [], []
        for filename, windows in images_windows:
            image = io.load_image(filename)
            for window in windows:
                found.append({"window": window, "filename": filename})
                crops.append(self.crop(image, window))
        name = self.inputs[0]
        # A copy: preprocessing works in place, and a window's crop may be a view of the image.
        data = np.stack([self.transformer.preprocess(name, crop.copy()) for crop in crops])
        predictions = self.forward_all(**{name: data})[self.outputs[0]]
        return [{**item, "prediction": row} for item, row in zip(found, predictions, strict=True)]

    def detect_selective_search(self, image_fnames: Iterable[str]) -> list[dict[str, Any]]:
        """Scores of selective search's windows.

        Raises:
            ImportError: without `selective_search_ijcv_with_python` (and the MATLAB that it runs).
        """
        import selective_search_ijcv_with_python as selective_search

        names = [os.fspath(Path(name).absolute()) for name in image_fnames]
        windows = selective_search.get_windows(names, cmd="selective_search_rcnn")
        return self.detect_windows(zip(names, windows, strict=True))

    def crop(self, im: np.ndarray, window: Window) -> np.ndarray:
        """A window of an image (height, width, channels); with `context_pad` what surrounds it, too.

        The crop is then the net's size already; the mean fills in what lies outside of the image.
        """
        if not self.context_pad:
            return im[window[0] : window[2], window[1] : window[3]]
        size = self.crop_dims[0]
        low, high = np.array(window[:2], float), np.array(window[2:], float)
        # The window grows about its middle until the context takes up its pixels of the net's input.
        half = (high - low + 1) / 2
        grown = size / (size - 2.0 * self.context_pad) * half
        low, high = np.round(low + half - grown), np.round(low + half + grown)
        scale = size / (high - low + 1)
        inside_low, inside_high = (np.clip(corner, 0, im.shape[:2]).astype(int) for corner in (low, high))
        pad = np.round(np.maximum(0, -low) * scale).astype(int)
        shape = np.round((inside_high - inside_low + 1) * scale).astype(int)
        shape = np.minimum(shape, size - pad)
        context = im[inside_low[0] : inside_high[0], inside_low[1] : inside_high[1]]
        crop = np.ones(self.crop_dims, np.float32) * self.crop_mean
        crop[pad[0] : pad[0] + shape[0], pad[1] : pad[1] + shape[1]] = io.resize_image(context, shape)
        return crop

    def configure_crop(self, context_pad: int | None) -> None:
        """Set how much context crops take in."""
        name = self.inputs[0]
        channels, height, width = self.blobs[name].shape[1:]
        self.crop_dims = np.array([height, width, channels])
        self.context_pad = context_pad
        if not context_pad:
            return
        mean = self.transformer.mean.get(name)
        if mean is None:
            self.crop_mean = np.zeros(self.crop_dims, np.float32)
            return
        # Back from the net's scale and channels to the image's.
        self.crop_mean = mean.transpose(1, 2, 0).copy()
        if name in self.transformer.channel_swap:
            self.crop_mean = self.crop_mean[:, :, np.argsort(self.transformer.channel_swap[name])]
        if name in self.transformer.raw_scale:
            self.crop_mean = self.crop_mean / self.transformer.raw_scale[name]
