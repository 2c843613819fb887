"""Caffe's transform_param: mirror, crop, mean, scale, in float32 and with its very draws.

Source: data_transformer.cpp of Caffe 1.0, and of the SeeNet group's fork for what 1.0 lacks (pad, std_value,
crop_height and crop_width, scale_factors). The generator's words are drawn per image before it is decoded:
how many are needed does not depend on the image, only what they mean does (a word modulo the choices).
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from prototxt.caffe_pb2 import TransformationParameter
from prototxt.errors import InputError
from runtime.data.decoding import check_count
from runtime.rng import CaffeRNG
from weights import read_binaryproto

log = logging.getLogger("caffe")

TRAIN = 0
Words = Sequence[int]


class Transformer:
    """transform_param on one image at a time.

    Raises:
        InputError: settings that Caffe refuses, or leaves undefined.
    """

    unused: tuple[str, ...] = ("crop_height", "crop_width", "scale_factors")

    def __init__(self, param: TransformationParameter, phase: int):
        if param.HasField("mean_file") and param.mean_value:
            raise InputError("transform_param has mean_file and mean_value: keep one")
        if param.force_color and param.force_gray:
            raise InputError("transform_param has force_color and force_gray: keep one")
        for name in self.unused:
            if getattr(param, name):
                log.warning("transform_param.%s has no effect here, as in the fork that defines it", name)
        self.param = param
        self.mirror, self.scale = param.mirror, np.float32(param.scale)
        self.train = phase == TRAIN
        self.crop = self._crop_sizes()
        self.mean = _mean_image(param.mean_file) if param.HasField("mean_file") else None
        self.mean_values = np.array(param.mean_value, np.float32)
        self.deviations = self._deviations()
        self.rng: CaffeRNG | None = None
        self._check_pad()

    # ---- draws

    def seed(self, rng: CaffeRNG) -> None:
        """InitRand: a generator of its own, seeded from `rng`, where there is anything to draw."""
        if self.mirror or (self.train and self.param.crop_size):
            self.rng = CaffeRNG(int(rng.words(1)[0]))
        elif self.words_per_image:
            raise InputError(
                "transform_param has something to draw, but Caffe seeds a generator only for mirror or, in "
                "training, crop_size, and would stop here: set one of them"
            )

    @property
    def words_per_image(self) -> int:
        return self.mirror + 2 * (self.train and self.crop is not None)

    def draw(self, images: int) -> list[list[int]]:
        """The words for the next `images`, in the order in which Caffe takes them."""
        count = self.words_per_image
        if not count or self.rng is None:
            return [[]] * images
        return self.rng.words(images * count).reshape(images, count).tolist()

    def state(self) -> dict[str, Any] | None:
        return self.rng.state() if self.rng else None

    def restore(self, state: dict[str, Any] | None) -> None:
        """Raises InputError for the state of a transformer that drew where this does not, or the reverse."""
        if (state is None) != (self.rng is None):
            raise InputError("the saved state is of another transform_param: keep mirror and crop_size")
        if self.rng and state is not None:
            self.rng.restore(state)

    # ---- images

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """What an image of that size becomes.

        Raises:
            InputError: one that is smaller than the crop.
        """
        if self.crop is None:
            return channels, height, width
        if height < self.crop[0] or width < self.crop[1]:
            raise InputError(
                f"{height}×{width} pixels (height × width) are smaller than the crop, "
                f"{self.crop[0]}×{self.crop[1]}"
            )
        return channels, *self.crop

    def __call__(self, image: np.ndarray, words: Words) -> np.ndarray:
        """
        Args:
            image: (channels, height, width), uint8 or float32.
            words: what `draw` gave for it.

        Returns:
            (channels, crop height, crop width), float32: (image - mean) · scale.

        Raises:
            InputError: smaller than the crop, or of other channels or size than the mean.
        """
        self.shape(*image.shape)
        mean = self._mean_for(image)
        mirrored, *offsets = self._mirror(words)
        if self.param.pad:
            image = self._padded(image)
        top, left = self._offsets(image.shape[1:], offsets)
        image = self._window(image, top, left)
        if mean is not None and self.mean is not None:
            mean = self._window(mean, top, left)
        out = self._scaled(image, mean)
        return out[:, :, ::-1] if mirrored else out

    def _mirror(self, words: Words) -> Words:
        return [words[0] % 2, *words[1:]] if self.mirror else [0, *words]

    def _offsets(self, size: Sequence[int], words: Words) -> tuple[int, int]:
        if self.crop is None:
            return 0, 0
        spare = [whole - part for whole, part in zip(size, self.crop, strict=True)]
        if self.train:
            return words[0] % (spare[0] + 1), words[1] % (spare[1] + 1)
        return spare[0] // 2, spare[1] // 2

    def _window(self, image: np.ndarray, top: int, left: int) -> np.ndarray:
        if self.crop is None:
            return image
        return image[:, top : top + self.crop[0], left : left + self.crop[1]]

    def _scaled(self, image: np.ndarray, mean: np.ndarray | None) -> np.ndarray:
        if mean is None:
            return np.multiply(image, self.scale, dtype=np.float32)
        out = np.subtract(image, mean, dtype=np.float32)
        out *= self.scale
        if len(self.deviations):
            out /= self._per_channel(self.deviations, image, "std_value")
        return out

    def _mean_for(self, image: np.ndarray) -> np.ndarray | None:
        if self.mean is not None:
            if self.mean.shape != image.shape:
                raise InputError(f"the mean file is of shape {self.mean.shape}, the image {image.shape}")
            return self.mean
        if len(self.mean_values):
            return self._per_channel(self.mean_values, image, "mean_value")
        return None

    @staticmethod
    def _per_channel(values: np.ndarray, image: np.ndarray, name: str) -> np.ndarray:
        if len(values) not in (1, len(image)):
            raise InputError(f"{len(values)} {name} for {len(image)} channels: give 1, or one each")
        return np.broadcast_to(values, len(image))[:, None, None]

    def _padded(self, image: np.ndarray) -> np.ndarray:
        """`pad` rows above and below and columns to the right, none to the left: as the fork does."""
        pad = self.param.pad
        channels, height, width = image.shape
        check_count((height + 2 * pad) * (width + pad))
        border = np.rint(self._per_channel(self.mean_values, image, "mean_value")).clip(0, 255)
        out = np.empty((channels, height + 2 * pad, width + pad), image.dtype)
        out[:] = border
        out[:, pad : pad + height, :width] = image
        return out

    # ---- settings

    def _crop_sizes(self) -> tuple[int, int] | None:
        return (self.param.crop_size,) * 2 if self.param.crop_size else None

    def _deviations(self) -> np.ndarray:
        """The fork keeps a deviation as an int, and divides only where it has subtracted a mean."""
        values = np.trunc(np.array(self.param.std_value, np.float32))
        if any(values < 1):
            raise InputError("transform_param.std_value below 1 counts as 0, which divides: give 1 or more")
        return values

    def _check_pad(self) -> None:
        if self.param.pad and (self.mean is not None or not self.param.mean_value or self.crop is None):
            raise InputError("transform_param.pad needs mean_value (its border's colour) and a crop_size")


class PairTransformer(Transformer):
    """The fork's ImageSegData: an image and its label image, mirrored, padded and cropped alike.

    Args:
        ignore_label: what the label image is padded with.

    The fork reads `scale_factors` but never hands them to the code that would draw one, and so trains at scale 1.
    """

    unused: tuple[str, ...] = ("pad", "std_value")

    def __init__(self, param: TransformationParameter, phase: int, ignore_label: int):
        if param.HasField("mean_file"):
            raise InputError("ImageSegData does not take a mean_file: give mean_value")
        super().__init__(param, phase)
        self.ignored = np.uint8(min(max(ignore_label, 0), 255))  # it goes into a byte image
        if param.scale_factors:
            log.warning("transform_param.scale_factors has no effect, as in the Caffe fork that defines it")

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """As the base's, but what is smaller than the crop is padded."""
        return (channels, *(self.crop or (height, width)))

    def pair(self, image: np.ndarray, labels: np.ndarray, words: Words) -> tuple[np.ndarray, np.ndarray]:
        """
        Args:
            image: (height, width, channels) uint8.
            labels: (height, width) uint8.
            words: what `draw` gave for them.

        Returns:
            (channels, crop height, crop width) and (1, crop height, crop width), float32.

        Raises:
            InputError: unlike sizes; padding without a mean_value.
        """
        if image.shape[:2] != labels.shape:
            raise InputError(
                f"an image of {image.shape[:2]} (height, width), a label image of {labels.shape}"
            )
        mirrored, *words = self._mirror(words)
        image = image.transpose(2, 0, 1)
        pad = self._pad(labels.shape)
        if any(pad) and not len(self.mean_values):
            raise InputError(
                f"{labels.shape} is smaller than the crop, {self.crop}: give mean_value, to pad with"
            )
        # A padded pixel is the mean: 0 once that is subtracted.
        values = np.pad(self._scaled(image, self._mean_for(image)), [(0, 0), (0, pad[0]), (0, pad[1])])
        labels = np.pad(labels, [(0, pad[0]), (0, pad[1])], constant_values=self.ignored)
        top, left = self._offsets(labels.shape, words)
        values = self._window(values, top, left)
        labels = self._window(labels[None].astype(np.float32), top, left)
        return (values[:, :, ::-1], labels[:, :, ::-1]) if mirrored else (values, labels)

    def _pad(self, size: Sequence[int]) -> list[int]:
        return [max(crop - whole, 0) for crop, whole in zip(self.crop or size, size, strict=True)]

    def _crop_sizes(self) -> tuple[int, int] | None:
        param = self.param
        height, width = param.HasField("crop_height"), param.HasField("crop_width")
        if height != width or (height and param.HasField("crop_size")):
            raise InputError("transform_param: give crop_size, or both crop_height and crop_width")
        if not height:
            return super()._crop_sizes()
        return (param.crop_height, param.crop_width) if param.crop_height and param.crop_width else None

    def _deviations(self) -> np.ndarray:
        return np.empty(0, np.float32)

    def _check_pad(self) -> None:
        """`pad` has no effect here."""


class LabelmapTransformer(PairTransformer):
    """HED's ImageLabelmapData: an image and its edge map, mirrored and cropped alike; crops are random in TEST too."""

    unused = ("pad", "std_value", "crop_height", "crop_width", "scale_factors")

    def __init__(self, param: TransformationParameter, phase: int):
        Transformer.__init__(self, param, phase)
        self.ignored = np.uint8(0)

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        return Transformer.shape(self, channels, height, width)

    @property
    def words_per_image(self) -> int:
        return self.mirror + 2 * (self.crop is not None)

    def pair(self, image: np.ndarray, labels: np.ndarray, words: Words) -> tuple[np.ndarray, np.ndarray]:
        self.shape(image.shape[2], *image.shape[:2])  # nothing is padded
        return super().pair(image, labels, words)

    def _offsets(self, size: Sequence[int], words: Words) -> tuple[int, int]:
        if self.crop is None:
            return 0, 0
        top, left = (word % (n - crop + 1) for word, n, crop in zip(words, size, self.crop, strict=True))
        return top, left

    def _crop_sizes(self) -> tuple[int, int] | None:
        return Transformer._crop_sizes(self)


def _mean_image(path: str) -> np.ndarray:
    mean = read_binaryproto(path).astype(np.float32)
    if mean.ndim > 4:
        raise InputError(f"{path}: a mean of {mean.ndim} axes: it must be (1, channels, height, width)")
    return mean.reshape((1,) * (4 - mean.ndim) + mean.shape)[0]
