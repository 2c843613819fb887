"""NVCaffe's DetectNetTransformation: pictures and boxes, moved and coloured alike, and the boxes as a grid.

Source: detectnet_transform_layer.cpp and detectnet_coverage_rectangular.cpp of NVIDIA/caffe, its CPU code.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from prototxt.caffe_pb2 import DetectNetGroundTruthParameter, LayerParameter
from prototxt.errors import InputError
from prototxt.layers.detectnet import grid_classes
from runtime.rng import CaffeRNG
from weights import read_binaryproto

BOX = 16
"""Values of a box in the label blob: x, y, width, height, alpha, class, scenario, rotation, truncated, …"""

_EPSILON = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Augmentation:
    """What is done to one picture. `scale` and `offset` are (width, height) and (x, y)."""

    scale: tuple[int, int]
    hue: float = 0
    saturation: float = 1
    flip: bool = False
    rotation: float = 0
    offset: tuple[int, int] = (0, 0)


class DetectNetTransform:
    """A layer's settings, its mean and its generator, which is seeded from `rng` when the layer is set up.

    Raises:
        InputError: a mean file that cannot be read, or is no picture.
    """

    def __init__(self, param: LayerParameter, rng: CaffeRNG):
        self.grid = param.detectnet_groundtruth_param
        self.augmentation = param.detectnet_augmentation_param
        self.train = param.phase == 0
        self.rng = CaffeRNG(int(rng.words(1)[0]))
        self.size = (self.grid.image_size_x, self.grid.image_size_y)
        transform = param.transform_param
        self.mean_image = None
        if transform.mean_file:
            mean = read_binaryproto(transform.mean_file).astype(np.float32)
            if mean.ndim != 4 or mean.shape[1] != 3:
                raise InputError(
                    f"{transform.mean_file}: a mean of shape {mean.shape}: it must be (1, 3, height, width)"
                )
            self.mean_image = np.ascontiguousarray(mean[0].transpose(1, 2, 0))
        self.mean_values = np.broadcast_to(np.array(transform.mean_value or [0], np.float32), 3) / np.float32(
            255
        )

    def __call__(self, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The tops.

        Args:
            images: (num, 3, height, width), 0 to 255.
            labels: (num, 1, rows, 16): first the number of boxes and 16, then a box in each row.

        Raises:
            InputError: labels of another form.
        """
        pictures, grids = [], []
        for image, label in zip(images, labels.reshape(len(labels), -1), strict=True):
            boxes = _boxes(label)
            height, width = image.shape[1:]
            chosen = self._drawn(width, height)
            picture = np.ascontiguousarray(image.transpose(1, 2, 0), np.float32)
            pictures.append(self._picture(picture, chosen).transpose(2, 0, 1))
            grids.append(coverage(self._moved(boxes, chosen, (width, height)), self.grid))
        return np.stack(pictures), np.stack(grids)

    # ---- draws

    def _draw(self) -> float:
        """0 to 1, a word over the largest word, in single precision."""
        return float(np.float32(int(self.rng.words(1)[0])) / np.float32(2**32 - 1))

    def _drawn(self, width: int, height: int) -> Augmentation:
        settings = self.augmentation
        chosen = Augmentation((width, height))
        if not self.train:
            return replace(chosen, scale=self.size)
        if self._draw() <= settings.hue_rotation_prob:
            hue = np.float32((self._draw() - 0.5) * 2 * settings.hue_rotation)
            chosen = replace(chosen, hue=float(np.clip(hue, -180, 180)))
        if self._draw() <= settings.desaturation_prob:
            chosen = replace(
                chosen, saturation=float(np.float32(1 - self._draw() * settings.desaturation_max))
            )
        chosen = replace(chosen, flip=self._draw() <= settings.flip_prob)
        if self._draw() <= settings.scale_prob:
            low, high = np.float32(settings.scale_min), np.float32(settings.scale_max)
            factor = low + (high - low) * np.float32(self._draw())
            chosen = replace(chosen, scale=(_rounded(width * factor), _rounded(height * factor)))
        if self._draw() <= settings.rotation_prob:
            turned = np.float32((self._draw() - 0.5) * 2 * settings.max_rotate_degree)
            chosen = replace(chosen, rotation=float(turned))
        whole = _rotated_size(chosen.scale, chosen.rotation) if _turns(chosen) else chosen.scale
        shares, shifts = (0.5, 0.5), (0, 0)
        if self._draw() <= settings.crop_prob:
            shares, shifts = (self._draw(), self._draw()), (settings.shift_x, settings.shift_y)
        x, y = (
            _rounded(share * (n - target + shift) - shift // 2)
            for share, n, target, shift in zip(shares, whole, self.size, shifts, strict=True)
        )
        return replace(chosen, offset=(x, y))

    # ---- pictures

    def _picture(self, image: np.ndarray, chosen: Augmentation) -> np.ndarray:
        image = image * np.float32(1 / 255)
        if abs(chosen.hue) > _EPSILON or chosen.saturation < 1 - 1 / 255:
            hsv: np.ndarray = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
            hsv[..., 0] += np.float32(chosen.hue)
            hsv[..., 1] *= np.float32(chosen.saturation)
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        image = image - self._mean(image.shape[1::-1])
        if chosen.flip:
            image = image[:, ::-1]
        if image.shape[1::-1] != chosen.scale:
            image = cv2.resize(np.ascontiguousarray(image), chosen.scale, interpolation=cv2.INTER_CUBIC)
        if _turns(chosen):
            size = _rotated_size(chosen.scale, chosen.rotation)
            image = cv2.warpAffine(
                np.ascontiguousarray(image),
                _rotation(chosen.scale, chosen.rotation),
                size,
                np.zeros((*size[::-1], 3), np.float32),
                cv2.INTER_LINEAR,
                cv2.BORDER_TRANSPARENT,
            )
        return _cropped(image, chosen.offset, self.size) * np.float32(255)

    def _mean(self, size: tuple[int, int]) -> np.ndarray:
        if self.mean_image is None:
            return self.mean_values
        return cv2.resize(self.mean_image, size, interpolation=cv2.INTER_CUBIC) * np.float32(1 / 255)

    # ---- boxes

    def _moved(self, boxes: np.ndarray, chosen: Augmentation, size: tuple[int, int]) -> np.ndarray:
        boxes = boxes.copy()
        if chosen.flip:
            boxes[:, 0] = size[0] - boxes[:, 0] - boxes[:, 2] - 1
        if chosen.scale != size:
            boxes[:, :4] *= np.tile(np.array(chosen.scale, np.float32) / np.array(size, np.float32), 2)
        if _turns(chosen):
            matrix = _rotation(chosen.scale, chosen.rotation).astype(np.float32)
            centres = boxes[:, :2] + boxes[:, 2:4] / 2
            boxes[:, :2] = centres @ matrix[:, :2].T + matrix[:, 2] - boxes[:, 2:4] / 2
        boxes[:, :2] -= np.array(chosen.offset, np.float32)
        return boxes

    def state(self) -> Any:
        return self.rng.state()

    def restore(self, state: Any) -> None:
        self.rng.restore(state)


def _boxes(label: np.ndarray) -> np.ndarray:
    """(boxes, 16), float32."""
    count, length = (int(value) for value in label[:2]) if label.size >= BOX else (-1, 0)
    if length != BOX or not 0 <= count < label.size // BOX + 1 or (count + 1) * BOX > label.size:
        raise InputError(
            f"DetectNetTransformation's labels must begin with the number of boxes and {BOX}, with room for the boxes: "
            f"they begin with {label[:2].tolist()}"
        )
    return label[BOX : (count + 1) * BOX].reshape(count, BOX).astype(np.float32)


def coverage(boxes: np.ndarray, grid: DetectNetGroundTruthParameter) -> np.ndarray:
    """(8 + classes, rows, columns): where a cell has an object, 1, its corners, sizes, norm, and 1 for its class.

    A later box takes cells of an earlier one.
    """
    classes, stride = grid_classes(grid), grid.stride
    columns, rows = int(grid.image_size_x / stride), int(grid.image_size_y / stride)
    top = np.zeros((8 + max(classes.values()) + 1, rows, columns), np.float32)
    for box in boxes:
        x, y, width, height = box[:4]
        if grid.crop_bboxes:
            right, bottom = min(x + width, grid.image_size_x), min(y + height, grid.image_size_y)
            x, y = max(x, np.float32(0)), max(y, np.float32(0))
            width, height = right - x, bottom - y
            if width <= 0 or height <= 0:
                x = y = width = height = np.float32(0)
        if int(box[5]) not in classes or box[5] < 0 or width * height < _EPSILON:
            continue
        _cover(top, (x, y, width, height), classes[int(box[5])], grid)
    return top


def _cover(
    top: np.ndarray, box: tuple[np.floating, ...], number: int, grid: DetectNetGroundTruthParameter
) -> None:
    x, y, width, height = box
    scale, stride = np.float32(grid.scale_cvg), grid.stride
    if grid.gridbox_type == DetectNetGroundTruthParameter.GRIDBOX_MIN:
        least = np.float32(grid.min_cvg_len)
        inner = [min(side, max(least, side * scale)) for side in (width, height)]
    else:
        inner = [min(np.float32(grid.max_cvg_len), side * scale) for side in (width, height)]
    centre = ((x + (x + width)) * np.float32(0.5), (y + (y + height)) * np.float32(0.5))
    low = np.array(centre, np.float32) - np.array(inner, np.float32) * np.float32(0.5)
    high = np.array(centre, np.float32) + np.array(inner, np.float32) * np.float32(0.5)
    norm = np.float32(stride * stride) / ((high[0] - low[0]) * (high[1] - low[1]))
    for row in range(max(math.floor(low[1] / stride), 0), min(math.ceil(high[1] / stride), top.shape[1])):
        for column in range(
            max(math.floor(low[0] / stride), 0), min(math.ceil(high[0] / stride), top.shape[2])
        ):
            cell = np.array((column * stride, row * stride), np.float32)
            sides = np.minimum(high, cell + stride) - np.maximum(low, cell)
            if sides.min() < 0 or sides.prod() / (stride * stride) <= _EPSILON:
                continue
            top[8:, row, column] = 0
            top[8 + number, row, column] = 1
            top[:8, row, column] = (
                1,
                x - cell[0],
                y - cell[1],
                x + width - cell[0],
                y + height - cell[1],
                1 / width,
                1 / height,
                max(0 if grid.obj_norm else 1, norm),
            )


# ---- Turning


def _turns(chosen: Augmentation) -> bool:
    return abs(chosen.rotation) > _EPSILON


def _bounding(corners: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width and height of the whole cells around four corners, as RotatedRect::boundingRect has them."""
    low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    return int(low[0]), int(low[1]), int(high[0] - low[0] + 1), int(high[1] - low[1] + 1)


def _rotated_size(size: tuple[int, int], rotation: float) -> tuple[int, int]:
    """Of a rectangle around its centre, which is cut to whole numbers here."""
    centre = (int(0.5 * size[0]), int(0.5 * size[1]))
    _, _, width, height = _bounding(cv2.boxPoints((centre, size, rotation)))
    return width, height


def _rotation(size: tuple[int, int], rotation: float) -> np.ndarray:
    """(2, 3): from the picture to the turned one, whose bounding rectangle begins at 0."""
    centre = (size[0] * 0.5, size[1] * 0.5)
    before = cv2.boxPoints((centre, size, 0.0))
    x, y, _, _ = _bounding(cv2.boxPoints((centre, size, rotation)))
    after = cv2.boxPoints(((centre[0] - x, centre[1] - y), size, rotation))
    return cv2.getAffineTransform(before[:3], after[:3])


def _cropped(image: np.ndarray, offset: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """A window of (width, height) from `offset` on; zeros outside of the picture."""
    window = np.zeros((size[1], size[0], 3), np.float32)
    (x, y), (height, width) = offset, image.shape[:2]
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + size[0], width), min(y + size[1], height)
    if right > left and bottom > top:
        window[top - y : bottom - y, left - x : right - x] = image[top:bottom, left:right]
    return window


def _rounded(value: Any) -> int:
    """C's round: halves away from 0."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))
