"""What SSD's fork does to images before it trains on them: distortion, expansion, sampling, resizing, noise.

From weiliu89/caffe, branch ssd: util/im_transforms.cpp, util/sampler.cpp, util/bbox_util.cpp, data_transformer.cpp.
No recording: the order of draws and the rules are the published code's; pixels are OpenCV's.

What is drawn, and what it is, is separate from what is then done to pixels, so that images can be decoded ahead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from prototxt.caffe_pb2 import (
    BatchSampler,
    DistortionParameter,
    EmitConstraint,
    ExpansionParameter,
    NoiseParameter,
    ResizeParameter,
    SampleConstraint,
)
from prototxt.errors import InputError
from runtime.c_random import process_random
from runtime.data.decoding import check_count
from runtime.data.reading import with_channels
from runtime.rng import CaffeRNG

_LARGEST = float((1 << 31) - 1)
"""Caffe's sizes are int."""

Size = tuple[int, int]
"""(height, width)"""

UNIT = np.array([0, 0, 1, 1], np.float32)
"""The whole image as a box."""


@dataclass(frozen=True)
class Boxes:
    """Annotations of an image: `marks` (n, 3) label, instance, difficult; `corners` (n, 4) in fractions, float32."""

    marks: np.ndarray
    corners: np.ndarray


def _uniform(rng: CaffeRNG, low: float, high: float) -> np.float32:
    return rng.uniform(1, low, high)[0]


def _area(box: np.ndarray) -> np.float32:
    """An inverted box has none."""
    width, height = box[2] - box[0], box[3] - box[1]
    return np.float32(0) if width < 0 or height < 0 else width * height


def _shared(a: np.ndarray, b: np.ndarray) -> np.float32:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    return np.float32(0) if (high < low).any() else (high - low).prod(dtype=np.float32)


def _overlap(a: np.ndarray, b: np.ndarray) -> np.float32:
    shared = _shared(a, b)
    return shared / (_area(a) + _area(b) - shared) if shared > 0 else np.float32(0)


def _coverage(box: np.ndarray, by: np.ndarray) -> np.float32:
    shared = _shared(box, by)
    return shared / _area(box) if shared > 0 else np.float32(0)


# ---- boxes that follow the image


def seen_from(source: np.ndarray, boxes: Boxes, emit: EmitConstraint | None) -> Boxes:
    """The boxes in fractions of `source`, cut to it; those that are outside, or that `emit` drops, are gone."""
    kept, corners = [], []
    for i, box in enumerate(boxes.corners):
        if emit is not None and not _emitted(source, box, emit):
            continue
        if (box[:2] >= source[2:]).any() or (box[2:] <= source[:2]).any():
            continue
        inside = boxes_within(source, box)
        if _area(inside) > 0:
            kept.append(i)
            corners.append(inside)
    return Boxes(boxes.marks[kept], np.array(corners, np.float32).reshape(-1, 4))


def boxes_within(source: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Boxes (…, 4) in fractions of the box `source`, cut to it."""
    moved = (boxes - np.tile(source[:2], 2)) / np.tile(source[2:] - source[:2], 2)
    return np.clip(moved, 0, 1).astype(np.float32)


def _emitted(source: np.ndarray, box: np.ndarray, emit: EmitConstraint) -> bool:
    if emit.emit_type == EmitConstraint.CENTER:
        centre = (box[:2] + box[2:]) / np.float32(2)
        return bool((centre >= source[:2]).all() and (centre <= source[2:]).all())
    return bool(_coverage(box, source) > np.float32(emit.emit_overlap))


def resized_boxes(param: ResizeParameter, size: Size, boxes: Boxes) -> Boxes:
    """The boxes of an image of `size` in fractions of what `resize` makes of it."""
    single = np.float32
    old = np.array(size[::-1], single)
    new = np.array([param.width, param.height], single)
    aspect, due = old[0] / old[1], new[0] / new[1]
    low, high = boxes.corners[:, :2] * old, boxes.corners[:, 2:] * old
    if param.resize_mode == ResizeParameter.FIT_LARGE_SIZE_AND_PAD:
        wide = aspect > due
        axis = 1 if wide else 0  # which is padded
        padding = ((new[1] - new[0] / aspect) if wide else (new[0] - aspect * new[1])) / single(2)
        inner = new.copy()
        inner[axis] -= single(2) * padding
        low, high = np.maximum(0, low * inner / old), np.minimum(new, high * inner / old)
        low[:, axis] += padding
        high[:, axis] += padding
    else:
        if param.resize_mode == ResizeParameter.FIT_SMALL_SIZE:
            if aspect < due:
                new[1] = new[0] / aspect
            else:
                new[0] = aspect * new[1]
        low, high = np.maximum(0, low * new / old), np.minimum(new, high * new / old)
    return Boxes(boxes.marks, np.concatenate([low / new, high / new], axis=1).astype(single))


# ---- sampling


def sampled_boxes(samplers: Sequence[BatchSampler], boxes: np.ndarray, rng: CaffeRNG) -> list[np.ndarray]:
    """Windows (4,) that the samplers find and accept; `boxes` (n, 4) are the image's."""
    found = []
    for sampler in samplers:
        if not sampler.use_original_image:
            continue
        hits = 0
        for _ in range(sampler.max_trials):
            if sampler.HasField("max_sample") and hits >= sampler.max_sample:
                break
            window = _sampled(sampler, rng)
            if _accepted(window, boxes, sampler.sample_constraint):
                hits += 1
                found.append(window)
    return found


def _sampled(sampler: BatchSampler, rng: CaffeRNG) -> np.ndarray:
    param, single = sampler.sampler, np.float32
    if not 0 < param.min_scale <= param.max_scale <= 1:
        raise InputError("batch_sampler: min_scale must be above 0, and max_scale from there to 1")
    if not 0 < param.min_aspect_ratio <= param.max_aspect_ratio:
        raise InputError(
            "batch_sampler: min_aspect_ratio must be above 0, and max_aspect_ratio at least as large"
        )
    scale = _uniform(rng, param.min_scale, param.max_scale)
    ratio = _uniform(rng, param.min_aspect_ratio, param.max_aspect_ratio)
    square = float(scale) ** 2
    ratio = min(max(ratio, single(square)), single(1 / square))
    width, height = scale * np.sqrt(ratio), scale / np.sqrt(ratio)
    # A size that rounding has made larger than 1 stops the fork's program.
    left = _uniform(rng, 0, max(single(1) - width, single(0)))
    top = _uniform(rng, 0, max(single(1) - height, single(0)))
    return np.array([left, top, left + width, top + height], single)


def _accepted(window: np.ndarray, boxes: np.ndarray, limits: SampleConstraint) -> bool:
    """Whether one box at least meets the constraints that are given; without any, all windows do."""
    kinds = (("jaccard_overlap", False), ("sample_coverage", False), ("object_coverage", True))
    measures = (_overlap, _coverage, _coverage)
    given = [
        (name, turned, measure)
        for (name, turned), measure in zip(kinds, measures, strict=True)
        if limits.HasField(f"min_{name}") or limits.HasField(f"max_{name}")
    ]
    return not given or any(
        all(
            _within(limits, name, measure(box, window) if turned else measure(window, box))
            for name, turned, measure in given
        )
        for box in boxes
    )


def _within(limits: SampleConstraint, name: str, value: np.float32) -> bool:
    low, high = f"min_{name}", f"max_{name}"
    return not (
        (limits.HasField(low) and value < np.float32(getattr(limits, low)))
        or (limits.HasField(high) and value > np.float32(getattr(limits, high)))
    )


def window_pixels(window: np.ndarray, size: Size) -> tuple[slice, slice]:
    """Rows and columns of a window, cut to the image."""
    height, width = size
    left, top, right, bottom = np.clip(window, 0, 1) * np.float32([width, height, width, height])
    down, across = int(bottom - top), int(right - left)
    return slice(int(top), int(top) + down), slice(int(left), int(left) + across)


# ---- what is drawn for one image


@dataclass
class Recipe:
    """What is to be done to an image, drawn beforehand.

    Attributes:
        distort: steps with their amounts, in order; None: the image is not even encoded anew.
        expand: height, width, and where the image lies in them (top, left).
        crop: a window.
        resize: of OpenCV's interpolations.
        salt: columns and rows, by turns, of pixels that are replaced.
    """

    distort: list[tuple[str, Any]] | None = None
    expand: tuple[int, int, int, int] | None = None
    crop: np.ndarray | None = None
    resize: int = cv2.INTER_LINEAR
    salt: list[int] = field(default_factory=list)


def draw_distortion(param: DistortionParameter, rng: CaffeRNG) -> list[tuple[str, Any]]:
    """Brightness, then contrast before or after saturation and hue, then the order of the channels.

    Raises:
        InputError: limits that the fork refuses.
    """
    steps: list[tuple[str, Any]] = []

    def roll(name: str, prob: float, low: float, high: float) -> None:
        if _uniform(rng, 0, 1) < np.float32(prob):
            steps.append((name, float(_uniform(rng, low, high))))

    for name, low, high in (
        ("contrast", param.contrast_lower, param.contrast_upper),
        ("saturation", param.saturation_lower, param.saturation_upper),
        ("brightness", 0, param.brightness_delta),
        ("hue", 0, param.hue_delta),
    ):
        if not 0 <= low <= high:
            raise InputError(f"distort_param: {name}'s limits must not be negative, the lower first")
    early = _uniform(rng, 0, 1) > 0.5
    contrast = ("contrast", param.contrast_prob, param.contrast_lower, param.contrast_upper)
    roll("brightness", param.brightness_prob, -param.brightness_delta, param.brightness_delta)
    if early:
        roll(*contrast)
    roll("saturation", param.saturation_prob, param.saturation_lower, param.saturation_upper)
    roll("hue", param.hue_prob, -param.hue_delta, param.hue_delta)
    if not early:
        roll(*contrast)
    if _uniform(rng, 0, 1) < np.float32(param.random_order_prob):
        order = [0, 1, 2]
        process_random.shuffle(order)  # std::random_shuffle, of the C library's numbers
        steps.append(("order", order))
    return steps


def draw_expansion(
    param: ExpansionParameter, size: Size, rng: CaffeRNG
) -> tuple[tuple[int, int, int, int], np.ndarray] | None:
    """How large the canvas is and where the image lies in it; and the canvas in fractions of the image.

    Raises:
        InputError: max_expand_ratio that is not above 1.
    """
    if not 1 < param.max_expand_ratio < np.inf:
        raise InputError("expand_param: max_expand_ratio must be above 1, and a number")
    if _uniform(rng, 0, 1) > np.float32(param.prob) or abs(param.max_expand_ratio - 1) < 1e-2:
        return None
    ratio = _uniform(rng, 1, param.max_expand_ratio)
    sides = [float(side) * float(ratio) for side in size]
    if max(sides) > _LARGEST:
        raise InputError(f"expand_param: the canvas would be {sides[0]:.3g}×{sides[1]:.3g} pixels large")
    height, width = (int(np.float32(side) * ratio) for side in size)
    check_count(height * width)
    top = np.floor(_uniform(rng, 0, height - size[0]))
    left = np.floor(_uniform(rng, 0, width - size[1]))
    old = np.float32([size[1], size[0]] * 2)
    canvas = np.float32([-left, -top, width - left, height - top]) / old
    return (height, width, int(top), int(left)), canvas


_INTERPOLATIONS = {
    ResizeParameter.LINEAR: cv2.INTER_LINEAR,
    ResizeParameter.AREA: cv2.INTER_AREA,
    ResizeParameter.NEAREST: cv2.INTER_NEAREST,
    ResizeParameter.CUBIC: cv2.INTER_CUBIC,
    ResizeParameter.LANCZOS4: cv2.INTER_LANCZOS4,
}


def draw_interpolation(param: ResizeParameter, rng: CaffeRNG) -> int:
    """One of `interp_mode`'s, each as likely; nothing is drawn where none is given."""
    modes = list(param.interp_mode)
    if not modes:
        return cv2.INTER_LINEAR
    sums = np.cumsum(np.full(len(modes), np.float32(1) / np.float32(len(modes))), dtype=np.float32)
    return _INTERPOLATIONS[modes[int(np.searchsorted(sums, _uniform(rng, 0, sums[-1])))]]


def draw_salt(param: NoiseParameter, size: Size, rng: CaffeRNG) -> list[int]:
    """Columns and rows of the pixels that salt and pepper replace."""
    if not param.saltpepper:
        return []
    fraction = param.saltpepper_param.fraction
    with np.errstate(over="ignore"):
        wanted = np.floor(np.float32(fraction) * np.float32(size[1]) * np.float32(size[0]))
    if not wanted <= 10 * size[0] * size[1]:
        raise InputError(
            f"noise_param: saltpepper_param's fraction is {fraction:g}: at most 10, each pixel ten times, is supported"
        )
    count = max(int(wanted), 0)
    words = rng.words(2 * count).reshape(-1, 2) % np.array([size[1], size[0]], np.uint32)
    return words.reshape(-1).tolist()


# ---- what is done to pixels: (height, width, channels) uint8


def encoded_again(image: np.ndarray) -> np.ndarray:
    """As a JPEG, which the fork makes of an image after each of its steps."""
    _, data = cv2.imencode(".jpg", image)
    return with_channels(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))


def _scaled(image: np.ndarray, by: float, plus: float = 0) -> np.ndarray:
    """Rounded to the nearest, cut to 0 … 255."""
    return np.rint(image * np.float32(by) + np.float32(plus)).clip(0, 255).astype(np.uint8)


def distorted(image: np.ndarray, steps: list[tuple[str, Any]]) -> np.ndarray:
    """Raises InputError for a grey image, whose colours cannot be changed."""
    for name, amount in steps:
        if name in ("saturation", "hue", "order") and image.shape[2] != 3:
            raise InputError(f"{name} can be changed of colour images only")
        if name == "brightness" and amount:
            image = _scaled(image, 1, amount)
        elif name == "contrast" and abs(amount - 1) > 1e-3:
            image = _scaled(image, amount)
        elif name in ("saturation", "hue"):
            hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
            if name == "saturation":
                hsv[..., 1] = _scaled(hsv[..., 1], amount)
            else:
                hsv[..., 0] = _scaled(hsv[..., 0], 1, amount)
            image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        elif name == "order":
            image = np.ascontiguousarray(image[..., amount])
    return image


def expanded(image: np.ndarray, place: tuple[int, int, int, int], mean: np.ndarray | None) -> np.ndarray:
    """The image on a canvas of the mean's colour (rounded), black where there is none."""
    height, width, top, left = place
    canvas = np.zeros((height, width, image.shape[2]), np.uint8)
    if mean is not None and mean.size not in (1, image.shape[2], canvas.size):
        raise InputError(f"{mean.size} mean_value for {image.shape[2]} channels: give 1, or one each")
    if mean is not None:
        canvas[:] = np.rint(mean).clip(0, 255)
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def new_size(param: ResizeParameter, size: Size) -> Size:
    """What an image of `size` is resized to."""
    if param.height < 1 or param.width < 1:
        raise InputError("resize_param: give height and width")
    aspect = np.float32(size[1]) / np.float32(size[0])
    if param.resize_mode != ResizeParameter.FIT_SMALL_SIZE:
        return param.height, param.width
    if aspect < np.float32(param.width) / np.float32(param.height):
        return int(np.float32(param.width) / aspect), param.width
    return param.height, int(aspect * np.float32(param.height))


_BORDERS = {
    ResizeParameter.CONSTANT: cv2.BORDER_CONSTANT,
    ResizeParameter.MIRRORED: cv2.BORDER_REFLECT_101,
    ResizeParameter.REPEAT_NEAREST: cv2.BORDER_REPLICATE,
}


def resized(image: np.ndarray, param: ResizeParameter, interpolation: int) -> np.ndarray:
    """Raises InputError for pad_value that is neither one nor one for each channel."""
    height, width = new_size(param, image.shape[:2])
    check_count(height * width)
    if param.resize_mode != ResizeParameter.FIT_LARGE_SIZE_AND_PAD:
        return with_channels(cv2.resize(image, (width, height), interpolation=interpolation))
    if len(param.pad_value) not in (0, 1, image.shape[2]):
        raise InputError(f"resize_param: {len(param.pad_value)} pad_value for {image.shape[2]} channels")
    values = list(param.pad_value) or [0]
    colour = [float(value) for value in (values * 3 if len(values) == 1 else values)]
    aspect = np.float32(image.shape[1]) / np.float32(image.shape[0])
    inner = [width, height]
    if aspect > np.float32(width) / np.float32(height):
        inner[1] = int(np.float32(width) / aspect)
    else:
        inner[0] = int(aspect * np.float32(height))
    small = with_channels(cv2.resize(image, tuple(inner), interpolation=interpolation))
    before = (height - inner[1]) // 2, (width - inner[0]) // 2
    borders = (before[0], height - inner[1] - before[0], before[1], width - inner[0] - before[1])
    return with_channels(cv2.copyMakeBorder(small, *borders, _BORDERS[param.pad_mode], value=colour))


def noisy(image: np.ndarray, param: NoiseParameter, salt: list[int]) -> np.ndarray:
    """Raises InputError for convert_to_lab, whose numbers the fork reads as if they were bytes."""
    if param.convert_to_lab:
        raise InputError("noise_param: convert_to_lab is not supported")
    if param.decolorize:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    if param.gauss_blur:
        image = with_channels(cv2.GaussianBlur(image, (7, 7), 1.5))
    if param.hist_eq:
        image = _of_brightness(image, cv2.equalizeHist)
    if param.clahe:
        image = _of_brightness(image, cv2.createCLAHE(4).apply)
    if param.jpeg > 0:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(min(param.jpeg, 100))])
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if param.erode:
        image = with_channels(cv2.erode(image, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))))
    if param.posterize:
        image = image // 64 * 64 + 32
    if param.inverse:
        image = 255 - image
    if salt:
        image = image.copy()
        image[salt[1::2], salt[0::2]] = _salt_colour(param, image.shape[2])
    if param.convert_to_hsv:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    return image


def _of_brightness(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    if image.shape[2] == 1:
        return with_channels(change(image[:, :, 0]))
    planes = cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb)
    planes[..., 0] = change(planes[..., 0].copy())
    return cv2.cvtColor(planes, cv2.COLOR_YCrCb2BGR)


def _salt_colour(param: NoiseParameter, channels: int) -> np.ndarray:
    values = np.array(param.saltpepper_param.value, np.float32).astype(np.uint8)
    if len(values) not in (1, channels):
        raise InputError(
            f"saltpepper_param: {len(values)} value for {channels} channels: give 1, or one each"
        )
    return values
