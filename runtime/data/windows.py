"""WindowData's source: windows of images, sampled as R-CNN samples them for fine-tuning.

Source: window_data_layer.cpp of Caffe 1.0.
"""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from prototxt.caffe_pb2 import LayerParameter, WindowDataParameter
from prototxt.errors import InputError
from prototxt.files import MAX_IMAGE, read_ordinary, read_text
from runtime.data.reading import LABELS, decode, integer, naming
from runtime.data.transformer import Transformer
from runtime.rng import CaffeRNG

Drawn = list[tuple["Window", bool]]


@dataclass(frozen=True)
class Window:
    """One window of the list: corners in pixels, both included; background has label 0."""

    image: int
    label: int
    x1: int
    y1: int
    x2: int
    y2: int


@dataclass(frozen=True)
class Placed:
    """Where a window's pixels come from (rows, columns of the image) and go to (of the crop)."""

    source: tuple[slice, slice]
    size: tuple[int, int]
    top: int
    left: int


class ImageWindows:
    """WindowData: tops (batch, 3, crop, crop) and (batch,), the labels, float32.

    Each batch holds background windows first, then `fg_fraction` of foreground, all drawn with replacement.
    Pixels are (value - mean) · `window_data_param.scale`; around the image there is 0.

    Raises:
        InputError: a missing or malformed list, no foreground or no background, settings that Caffe refuses.
    """

    def __init__(self, param: LayerParameter, rng: CaffeRNG):
        self.param = param.window_data_param
        self.transformer = Transformer(param.transform_param, param.phase)
        self.transformer.seed(rng)
        self.crop, self.mirror = param.transform_param.crop_size, param.transform_param.mirror
        if not self.crop:
            raise InputError("WindowData warps windows to transform_param.crop_size: give it")
        if self.crop <= 2 * self.param.context_pad:
            raise InputError(f"context_pad {self.param.context_pad} leaves nothing of crop_size {self.crop}")
        if not self.param.batch_size:
            raise InputError("window_data_param.batch_size: give 1 or more")
        if not 0 <= self.param.fg_fraction <= 1:
            raise InputError(f"window_data_param.fg_fraction {self.param.fg_fraction}: give one from 0 to 1")
        self.rng = CaffeRNG(int(rng.words(1)[0]))
        self.images, windows = _read_windows(self.param)
        self.foreground, self.background = _sorted_out(windows, self.param)
        self.cache = {i: self._bytes(i) for i in self.images} if self.param.cache_images else {}
        self._list = zlib.crc32(repr((self.images, windows)).encode("utf-8", "surrogateescape"))
        batch = self.param.batch_size
        self.shapes = [(batch, 3, self.crop, self.crop), (batch,)]
        self.transformer.seed(rng)  # Caffe seeds it again as it starts its thread, …
        rng.words(1)  # … whose own generator takes a seed too, though nothing here draws from it

    def draw(self) -> Drawn:
        batch = self.param.batch_size
        wanted = int(np.float32(batch) * np.float32(self.param.fg_fraction))
        pools = [self.background] * (batch - wanted) + [self.foreground] * wanted
        words = self.rng.words(batch * (1 + self.mirror)).reshape(batch, -1).tolist()
        return [
            (pool[word % len(pool)], any(mirror % 2 for mirror in rest))
            for pool, (word, *rest) in zip(pools, words, strict=True)
        ]

    def load(self, drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
        data = np.zeros(self.shapes[0], np.float32)
        for top, (window, mirrored) in zip(data, drawn, strict=True):
            with naming(self._place(window)):
                self._warp(window, mirrored, top)
        return data, np.array([window.label for window, _ in drawn], np.float32)

    def items(self, drawn: Drawn) -> list[str]:
        return [self._place(window) for window, _ in drawn]

    def state(self) -> dict[str, Any]:
        return {"list": self._list, "random": self.rng.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises InputError for the state of another list."""
        if state["list"] != self._list:
            raise InputError(
                f"{self.param.source} is not the list that the saved order is of: resume with it"
            )
        self.rng.restore(state["random"])

    def _warp(self, window: Window, mirrored: bool, top: np.ndarray) -> None:
        image = decode(self.cache.get(window.image) or self._bytes(window.image), cv2.IMREAD_COLOR)
        if image is None:
            raise InputError("does not decode as an image: is it whole, and a JPEG or PNG?")
        placed = place_window(window, image.shape[:2], self.crop, self.param, mirrored)
        height, width = placed.size
        pixels = cv2.resize(image[placed.source], (width, height), interpolation=cv2.INTER_LINEAR)
        pixels = (pixels[:, ::-1] if mirrored else pixels).transpose(2, 0, 1).astype(np.float32)
        inside = slice(placed.top, placed.top + height), slice(placed.left, placed.left + width)
        mean = self._mean(inside)
        if mean is not None:
            pixels -= mean
        top[:, inside[0], inside[1]] = pixels * np.float32(self.param.scale)

    def _mean(self, inside: tuple[slice, slice]) -> np.ndarray | None:
        if self.transformer.mean is None:
            values = self.transformer.mean_values
            if len(values) not in (0, 1, 3):
                raise InputError(f"{len(values)} mean_value for 3 channels: give 1, or one each")
            return values[:, None, None] if len(values) else None
        mean = self.transformer.mean
        # Caffe takes the offset from the width, for the rows too.
        offset = (mean.shape[2] - self.crop) // 2
        if len(mean) != 3 or offset < 0 or offset + self.crop > mean.shape[1]:
            raise InputError(
                f"a mean of shape {mean.shape} does not cover 3 channels of a {self.crop}-pixel crop"
            )
        rows, columns = (slice(part.start + offset, part.stop + offset) for part in inside)
        return mean[:, rows, columns]

    def _bytes(self, image: int) -> bytes:
        path = self.images[image]
        try:
            return read_ordinary(path, MAX_IMAGE)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}): check root_folder") from error

    def _place(self, window: Window) -> str:
        return f"{self.param.source}: {self.images[window.image]}"


def place_window(
    window: Window, size: tuple[int, int], crop: int, param: WindowDataParameter, mirrored: bool
) -> Placed:
    """Where a window goes in a crop of `crop` pixels; `size` is the image's (height, width).

    With `context_pad` or crop_mode "square" the window is grown about its centre, and what lies outside of
    the image stays empty; in float32, rounded where Caffe rounds.

    Raises:
        InputError: a window that lies outside of the image.
    """
    top = left = 0
    height, width = crop, crop
    rows, columns = (window.y1, window.y2), (window.x1, window.x2)
    if param.context_pad or param.crop_mode == "square":
        rows, columns = _grown(window, crop, param)
        rows, top, _, height = _clipped(*rows, size[0], crop)
        columns, left, right, width = _clipped(*columns, size[1], crop)
        left = right if mirrored else left
        height, width = min(height, crop - top), min(width, crop - left)
    if not (0 <= rows[0] <= rows[1] < size[0] and 0 <= columns[0] <= columns[1] < size[1]):
        raise InputError(
            f"window ({window.x1}, {window.y1}) to ({window.x2}, {window.y2}) does not lie in the image of "
            f"{size[1]}×{size[0]} pixels (width × height)"
        )
    if min(height, width) < 1:
        raise InputError("a window with less than one pixel inside of the image: remove it from the list")
    source = slice(rows[0], rows[1] + 1), slice(columns[0], columns[1] + 1)
    return Placed(source, (height, width), top, left)


def _grown(window: Window, crop: int, param: WindowDataParameter) -> tuple[tuple[int, int], tuple[int, int]]:
    growth = np.float32(crop) / np.float32(crop - 2 * param.context_pad)
    halves = [
        np.float32((last - first + 1) / 2) for first, last in ((window.y1, window.y2), (window.x1, window.x2))
    ]
    centres = [np.float32(first) + half for first, half in zip((window.y1, window.x1), halves, strict=True)]
    if param.crop_mode == "square":
        halves = [max(halves)] * 2
    rows, columns = (
        (_rounded(centre - half * growth), _rounded(centre + half * growth))
        for centre, half in zip(centres, halves, strict=True)
    )
    return rows, columns


def _clipped(first: int, last: int, size: int, crop: int) -> tuple[tuple[int, int], int, int, int]:
    """The part within 0 … size - 1; and before it, behind it and within, in pixels of the crop."""
    before, behind = max(0, -first), max(0, last - size + 1)
    scale = np.float32(crop) / np.float32(last - first + 1)
    first, last = first + before, last - behind
    before, behind, within = (_rounded(np.float32(n) * scale) for n in (before, behind, last - first + 1))
    return (first, last), before, behind, within


def _rounded(value: np.float32) -> int:
    """C's round: halves away from zero."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))


def _read_windows(param: WindowDataParameter) -> tuple[dict[int, str], list[tuple[Window, np.float32]]]:
    """The images by the list's own numbers, and all windows with their overlaps.

    An image is `# INDEX PATH CHANNELS HEIGHT WIDTH WINDOWS`, then for each window `CLASS OVERLAP X1 Y1 X2 Y2`,
    with white space between. Caffe looks images up by position, so that the numbers must run from 0.
    """
    try:
        words = iter(read_text(param.source, errors="surrogateescape").split())
    except OSError as error:
        raise InputError(f"{param.source}: cannot be read ({error.strerror}): check the path") from error
    images: dict[int, str] = {}
    windows: list[tuple[Window, np.float32]] = []
    for mark in words:
        number = len(images)
        try:
            _read_image(mark, words, number, param, images, windows)
        except (ValueError, StopIteration) as error:
            told = str(error) or "ends in the middle"
            raise InputError(f"{param.source}: image {number}: {told}") from None
    if not images:
        raise InputError(f"{param.source}: is empty: list at least one image")
    return images, windows


def _read_image(
    mark: str,
    words: Iterator[str],
    number: int,
    param: WindowDataParameter,
    images: dict[int, str],
    windows: list[tuple[Window, np.float32]],
) -> None:
    if mark != "#":
        raise ValueError(f"{mark!r} stands where # INDEX must be")
    given = integer(next(words))
    if given != number:
        raise ValueError(f"is numbered {given}: number the images 0, 1, 2, …")
    images[number] = param.root_folder + next(words)
    channels, _, _, count = [integer(next(words)) for _ in range(4)]
    if channels != 3:
        raise ValueError(f"has {channels} channels: images are read in colour, with 3")
    for _ in range(count):
        label, overlap = integer(next(words)), np.float32(next(words))
        corners = [integer(next(words)) for _ in range(4)]
        if not all(number in LABELS for number in (label, *corners)):
            raise ValueError("has a number that is out of range for a 32-bit integer")
        windows.append((Window(number, label, *corners), overlap))


def _sorted_out(
    windows: list[tuple[Window, np.float32]], param: WindowDataParameter
) -> tuple[list[Window], list[Window]]:
    """Foreground by `fg_threshold`, background below `bg_threshold`; what is between is not used."""
    foreground = [w for w, overlap in windows if overlap >= np.float32(param.fg_threshold)]
    background = [
        Window(w.image, 0, w.x1, w.y1, w.x2, w.y2)
        for w, overlap in windows
        if overlap < np.float32(param.fg_threshold) and overlap < np.float32(param.bg_threshold)
    ]
    for kind, found in (("foreground", foreground), ("background", background)):
        if not found:
            raise InputError(f"{param.source}: no {kind} windows: lower or raise the thresholds")
    if any(w.label < 1 for w in foreground):
        raise InputError(f"{param.source}: a foreground window is of class 0 or less: classes begin at 1")
    return foreground, background
