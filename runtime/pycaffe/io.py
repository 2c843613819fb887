"""`caffe.io`: images and arrays on their way into a net (pycaffe's io.py).

scikit-image is not needed: what Caffe called of it is computed here as the scikit-image of that time (0.9 to
0.14) computed it, which later versions do not do unasked.
"""

import contextlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence

import cv2
import numpy as np
from PIL import Image
from scipy import ndimage

from prototxt import caffe_pb2
from prototxt.caffe_pb2 import BlobProto, BlobProtoVector, Datum
from prototxt.files import MAX_IMAGE, read_ordinary
from runtime.data.decoding import check_pixels, decode_image

__all__ = [
    "Transformer",
    "array_to_blobproto",
    "array_to_datum",
    "arraylist_to_blobprotovector_str",
    "blobproto_to_array",
    "blobprotovector_str_to_arraylist",
    "caffe_pb2",
    "datum_to_array",
    "load_image",
    "oversample",
    "resize_image",
]

# ---- arrays and messages


def blobproto_to_array(blob: BlobProto, return_diff: bool = False) -> np.ndarray:
    """The data (or the diff) of a BlobProto, float64; four axes where it has the older kind of shape.

    Raises:
        ValueError: a shape that does not fit the number of values.
    """
    values = np.array(blob.diff if return_diff else blob.data, np.float64)
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        return values.reshape(blob.num, blob.channels, blob.height, blob.width)
    return values.reshape(tuple(blob.shape.dim))


def array_to_blobproto(arr: np.ndarray, diff: np.ndarray | None = None) -> BlobProto:
    """A BlobProto of any number of axes; its values are stored as float32."""
    blob = BlobProto()
    blob.shape.dim.extend(arr.shape)
    blob.data.extend(arr.astype(float).flat)
    if diff is not None:
        blob.diff.extend(diff.astype(float).flat)
    return blob


def arraylist_to_blobprotovector_str(arraylist: Iterable[np.ndarray]) -> bytes:
    """A serialised BlobProtoVector."""
    return BlobProtoVector(blobs=[array_to_blobproto(array) for array in arraylist]).SerializeToString()


def blobprotovector_str_to_arraylist(text: bytes) -> list[np.ndarray]:
    """The arrays of a serialised BlobProtoVector."""
    return [blobproto_to_array(blob) for blob in BlobProtoVector.FromString(text).blobs]


def array_to_datum(arr: np.ndarray, label: int | None = None) -> Datum:
    """A Datum of a (channels, height, width) array: uint8 as bytes, everything else as float32.

    Raises:
        ValueError: another number of axes.
    """
    if arr.ndim != 3:
        raise ValueError("Incorrect array shape.")
    channels, height, width = arr.shape
    datum = Datum(channels=channels, height=height, width=width)
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(float).flat)
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum: Datum) -> np.ndarray:
    """A Datum's (channels, height, width): uint8 where it holds bytes, float64 otherwise.

    Raises:
        ValueError: an encoded image, or another number of values.
    """
    shape = datum.channels, datum.height, datum.width
    if datum.data:
        return np.frombuffer(datum.data, np.uint8).copy().reshape(shape)
    return np.array(datum.float_data, np.float64).reshape(shape)


# ---- preprocessing


class Transformer:
    """From images to a net's input blobs, and back.

    Args:
        inputs: the inputs' shapes by name, (batch, channels, height, width).

    Attributes:
        transpose, channel_swap, raw_scale, mean, input_scale: what was set, by input.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]):
        self.inputs = inputs
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """What the input `in_` takes for an image (height, width, channels): float32.

        In this order: resize to the input's size, transpose, reorder channels, times raw_scale, minus mean,
        times input_scale. As in pycaffe, the arithmetic is done in the caller's array where that is float32,
        of the right size and not reordered: pass a copy if it is needed afterwards.
        """
        self._check(in_)
        image = data.astype(np.float32, copy=False)
        size = tuple(self.inputs[in_][2:])
        if image.shape[:2] != size:
            image = resize_image(image, size)
        if in_ in self.transpose:
            image = image.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            image = image[self.channel_swap[in_], :, :]
        if in_ in self.raw_scale:
            image *= self.raw_scale[in_]
        if in_ in self.mean:
            image -= self.mean[in_]
        if in_ in self.input_scale:
            image *= self.input_scale[in_]
        return image

    def deprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """`preprocess` backwards, but for the resizing: the image that a blob's entry stands for."""
        self._check(in_)
        image = data.copy().squeeze()
        if in_ in self.input_scale:
            image /= self.input_scale[in_]
        if in_ in self.mean:
            image += self.mean[in_]
        if in_ in self.raw_scale:
            image /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            image = image[np.argsort(self.channel_swap[in_]), :, :]
        if in_ in self.transpose:
            image = image.transpose(np.argsort(self.transpose[in_]))
        return image

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """The order of axes: (2, 0, 1) makes (height, width, channels) Caffe's."""
        self._check(in_)
        if len(order) != len(self.inputs[in_]) - 1:
            raise Exception("Transpose order needs to have the same number of dimensions as the input.")
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """The order of channels, after the transposition: (2, 1, 0) makes RGB BGR."""
        self._check(in_)
        if len(order) != self.inputs[in_][1]:
            raise Exception("Channel swap needs to have the same number of dimensions as the input channels.")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """The factor before the mean is subtracted: 255 for nets that were trained on 0 … 255."""
        self._check(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        """The mean, in the input's order and scale: (channels,), or an image that is resized to fit.

        Raises:
            ValueError: other channels, or not one to three axes.
        """
        self._check(in_)
        shape = tuple(self.inputs[in_][1:])
        if mean.ndim == 1:
            if len(mean) != shape[0]:
                raise ValueError("Mean channels incompatible with input.")
            mean = mean[:, np.newaxis, np.newaxis]
        elif mean.ndim not in (2, 3):
            raise ValueError("Mean shape invalid")
        elif (1,) * (3 - mean.ndim) + mean.shape != shape:
            low, high = mean.min(), mean.max()
            normal = ((mean - low) / (high - low)).transpose(1, 2, 0)
            mean = resize_image(normal, shape[1:]).transpose(2, 0, 1) * (high - low) + low
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """The factor after the mean is subtracted."""
        self._check(in_)
        self.input_scale[in_] = scale

    def _check(self, in_: str) -> None:
        if in_ not in self.inputs:
            raise Exception(f"{in_} is not one of the net inputs: {self.inputs}")


# ---- images


def load_image(filename: str | os.PathLike, color: bool = True) -> np.ndarray:
    """Read an image: float32 in 0 … 1, (height, width, 3) RGB, or (height, width, 1) for `color=False`.

    A grey image's channel is repeated for `color=True`; transparency is dropped. Values are those that
    scikit-image's reader gives, CMYK's too.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that does not decode, or of several images, which pycaffe would stack on a fourth
            axis that nothing of it takes.
    """
    data = read_ordinary(filename, MAX_IMAGE)
    image = _decoded(data)
    if image is None:
        raise ValueError(f"{os.fspath(filename)}: does not decode as an image")
    if cv2.imcount(os.fspath(filename)) > 1:
        raise ValueError(f"{os.fspath(filename)}: holds several images: save the one that is meant")
    if np.issubdtype(image.dtype, np.integer):
        image = image / float(np.iinfo(image.dtype).max)
    if image.ndim == 2 or image.shape[2] == 1:
        grey = image.reshape(*image.shape[:2], 1).astype(np.float32)
        return np.tile(grey, (1, 1, 3)) if color else grey
    image = image[:, :, 2::-1]  # BGR(A) to RGB
    if not color:
        image = (image @ _LUMINANCE)[:, :, np.newaxis]
    return np.ascontiguousarray(image, np.float32)


def _decoded(data: bytes) -> np.ndarray | None:
    """The pixels as OpenCV orders channels, with whatever depth and channels the file has."""
    check_pixels(data)
    if data.startswith(b"\xff\xd8"):  # OpenCV rounds CMYK another way
        with contextlib.suppress(OSError), Image.open(io.BytesIO(data)) as jpeg:
            if jpeg.mode == "CMYK":
                return np.asarray(jpeg.convert("RGB"))[:, :, ::-1]
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    return decode_image(data, flags)


_LUMINANCE = np.array([0.2125, 0.7154, 0.0721])
"""scikit-image's weights of R, G, B."""


def resize_image(im: np.ndarray, new_dims: Sequence[int], interp_order: int = 1) -> np.ndarray:
    """Resize an image (height, width, channels) to `new_dims`, (height, width): float32.

    As in pycaffe with the scikit-image of its time: without smoothing before shrinking, and, for 1 or 3
    channels, with black around the image, so that enlarging darkens the outermost pixels towards the image's
    smallest value. Other numbers of channels go through SciPy's `zoom`, which puts corners on corners.

    Args:
        interp_order: 0 nearest, 1 linear; 2 to 5 are SciPy's splines.
    """
    if im.shape[-1] not in (1, 3):
        scale = np.array(new_dims, float) / im.shape[:2]
        return ndimage.zoom(im, (*scale, 1), order=interp_order).astype(np.float32)
    low, high = im.min(), im.max()
    if not high > low:
        return np.full((new_dims[0], new_dims[1], im.shape[-1]), low, np.float32)
    resized = ((im - low) / (high - low)).astype(np.float64)
    for axis in (1, 0):
        resized = _resize_axis(resized, axis, int(new_dims[axis]), interp_order)
    return (np.clip(resized, 0, 1) * (high - low) + low).astype(np.float32)


def _resize_axis(image: np.ndarray, axis: int, size: int, order: int) -> np.ndarray:
    """One axis resampled at the new pixels' centres, zeros lying beyond the ends."""
    old = image.shape[axis]
    centres = (np.arange(size) + 0.5) * (old / size) - 0.5
    if order != 1:
        zoom = [1.0] * image.ndim
        zoom[axis] = size / old
        return ndimage.zoom(image, zoom, order=order, mode="grid-constant", grid_mode=True)
    below = np.floor(centres).astype(int)
    weight = (centres - below).reshape([-1 if i == axis else 1 for i in range(image.ndim)])
    padded = np.pad(image, [(1, 1) if i == axis else (0, 0) for i in range(image.ndim)])
    return (1 - weight) * padded.take(below + 1, axis) + weight * padded.take(below + 2, axis)


def oversample(images: Sequence[np.ndarray], crop_dims: Sequence[int]) -> np.ndarray:
    """Ten crops of each image (height, width, channels): the four corners, the centre, and all mirrored.

    Returns:
        float32, (10 · images, crop height, crop width, channels).
    """
    height, width = (int(size) for size in crop_dims)
    down, right = images[0].shape[0] - height, images[0].shape[1] - width
    corners = [(y, x) for y in (0, down) for x in (0, right)]
    crops = []
    for image in images:
        five = [image[y : y + height, x : x + width] for y, x in (*corners, (down // 2, right // 2))]
        crops += five + [crop[:, ::-1] for crop in five]
    return np.stack(crops).astype(np.float32)
