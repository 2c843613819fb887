"""The sources of WindowSegData and SelectSegBinary: windows of images, with label images (DeconvNet, DecoupledNet).

Source: HyeonwooNoh/caffe, src/caffe/layers/{window_seg_data,select_seg_binary}_layer.cpp. That Caffe seeds the
generator of mirroring and crops anew for each batch, from the process-wide one, one batch ahead.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from prototxt.caffe_pb2 import ImageDataParameter, LayerParameter
from prototxt.errors import InputError
from runtime.data.order import ListOrder
from runtime.data.reading import LABELS, integer, naming, read_labels, read_lines, read_pixels
from runtime.data.transformer import PairTransformer
from runtime.rng import CaffeRNG

MOST_PIXELS = 1 << 28


@dataclass(frozen=True)
class Listed:
    """One line of the list.

    Attributes:
        labels: the label image's name, or the number that all pixels have.
        window: x1, y1, x2, y2 in pixels, all included; what is outside of the image is black, and not labelled.
        classes: SelectSegBinary's numbers for the image, one for each class.
    """

    name: str
    labels: str | int
    window: tuple[int, ...]
    classes: tuple[int, ...]
    line: int


Drawn = tuple[list[Listed], list[list[int]]]


class SegWindows:
    """Tops (batch, channels, height, width), and labels (batch, 1, height, width), float32.

    A third one has WindowSegData's image sizes (batch, 1, 1, 2), cut to the top's, or SelectSegBinary's numbers
    (batch, label_dim, 1, 1), which replace the labels of its pixels.

    Args:
        rng: the process-wide generator; it is drawn from with each batch too.
        tops: how many there are.
        palette_labels: take the indices of label images with a palette.

    Raises:
        InputError: a missing or malformed list, settings that the fork refuses.
    """

    def __init__(self, param: LayerParameter, rng: CaffeRNG, tops: int, palette_labels: bool = False):
        self.param, self.palette_labels = param.image_data_param, palette_labels
        self.selects = param.type == "SelectSegBinary"
        self.base = param.select_seg_binary_param.cls_label_base
        self.count = param.window_cls_data_param.label_dim if self.selects else 0
        size = self.param.new_height, self.param.new_width
        if any(size) and not all(size):
            raise InputError("image_data_param: give new_height and new_width, or neither")
        if not self.param.batch_size:
            raise InputError("image_data_param.batch_size: give 1 or more")
        if self.selects and self.count < 1:
            raise InputError("window_cls_data_param: label_dim must be at least 1")
        self.size = size if all(size) else None
        self.transformer = PairTransformer(param.transform_param, param.phase, self.param.ignore_label)
        if self.size is None and self.transformer.crop is None:
            raise InputError("windows differ in size: give new_height and new_width, or crop_size")
        self.entries = self._read_list()
        self.order = ListOrder(len(self.entries), self.param.shuffle, self.param.rand_skip, rng)
        height, width = self.transformer.crop or size
        batch, channels = self.param.batch_size, 3 if self.param.is_color else 1
        last = (batch, self.count, 1, 1) if self.selects else (batch, 1, 1, 2)
        shapes: list[tuple[int, ...]] = [(batch, channels, height, width), (batch, 1, height, width), last]
        self.shapes = shapes[:tops]
        self.rng = rng
        self.transformer.seed(rng)
        self.transformer.seed(rng)  # again for the first batch
        self._list = zlib.crc32(repr(self.entries).encode("utf-8", "surrogateescape"))

    def draw(self) -> Drawn:
        entries = [self.entries[i] for i in self.order.take(self.param.batch_size)]
        words = self.transformer.draw(len(entries))
        self.transformer.seed(self.rng)  # the next batch's
        return entries, words

    def load(self, drawn: Drawn) -> tuple[np.ndarray, ...]:
        images, labels, lasts = [], [], []
        for entry, words in zip(*drawn, strict=True):
            with naming(self._place(entry)):
                image, label, size = self._load_one(entry, words)
            images.append(image)
            labels.append(self._selected(label, entry) if self.selects else label)
            shown = [min(*both) for both in zip(size, image.shape[1:], strict=True)]
            lasts.append(np.array(entry.classes if self.selects else shown, np.float32))
        last = np.stack(lasts).reshape(len(lasts), -1, 1, 1)
        return (np.stack(images), np.stack(labels), last.reshape(self._last_shape()))[: len(self.shapes)]

    def _last_shape(self) -> tuple[int, ...]:
        return (self.param.batch_size, self.count, 1, 1) if self.selects else (self.param.batch_size, 1, 1, 2)

    def _load_one(self, entry: Listed, words: list[int]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
        image = read_pixels(self.param.root_folder + entry.name, self.param.is_color, None, "image")
        if isinstance(entry.labels, str):
            name = self.param.root_folder + entry.labels
            labels = read_labels(name, None, "label image", self.palette_labels)
            if labels.shape != image.shape[:2]:
                raise InputError(
                    f"an image of {image.shape[:2]} (height, width), a label image of {labels.shape}"
                )
        else:
            labels = np.full(image.shape[:2], min(max(entry.labels, 0), 255), np.uint8)
        cut = _window(image, entry.window, 0)
        cut_labels = _window(labels[:, :, None], entry.window, int(self.transformer.ignored))
        if self.size:
            across = self.size[::-1]
            cut = cv2.resize(cut, across, interpolation=cv2.INTER_LINEAR).reshape(*self.size, -1)
            cut_labels = cv2.resize(cut_labels, across, interpolation=cv2.INTER_NEAREST)
        pair = self.transformer.pair(cut, cut_labels.reshape(cut.shape[:2]), words)
        return *pair, image.shape[:2]

    def _selected(self, labels: np.ndarray, entry: Listed) -> np.ndarray:
        """Labels from `base` + 1 on are replaced by the image's numbers, others by 0; 0 and ignored ones stay."""
        numbers = labels.astype(np.int64) - self.base - 1
        chosen = np.where((numbers >= 0) & (numbers < self.count), numbers, self.count)
        replaced = np.array([*entry.classes, 0], np.float32)[chosen]
        kept = (labels == 0) | (labels == self.param.ignore_label)
        return np.where(kept, labels, replaced)

    # ---- where reading stands

    def items(self, drawn: Drawn) -> list[str]:
        return [self._place(entry) for entry in drawn[0]]

    def state(self) -> dict[str, Any]:
        return {"list": self._list, **self.order.state(), "transform": self.transformer.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Raises InputError for the state of another list."""
        if state["list"] != self._list:
            raise InputError(
                f"{self.param.source} is not the list that the saved order is of: resume with it"
            )
        self.order.restore(state)
        self.transformer.restore(state["transform"])

    def _place(self, entry: Listed) -> str:
        return f"{self.param.source}:{entry.line}: {entry.name}"

    # ---- the list

    def _read_list(self) -> list[Listed]:
        """Lines `IMAGE LABELS X1 Y1 X2 Y2 NUMBER…`, without LABELS where label_type is NONE."""
        entries = []
        for line, text in enumerate(read_lines(self.param.source), 1):
            try:
                entries.append(self._read_line(text.split(), line))
            except ValueError as error:
                raise InputError(f"{self.param.source}:{line}: {error}") from None
        if not entries:
            raise InputError(f"{self.param.source}: is empty: list at least one image")
        return entries

    def _read_line(self, words: list[str], line: int) -> Listed:
        kind = self.param.label_type
        named = kind != ImageDataParameter.NONE
        wanted = 5 + named + self.count
        if len(words) < wanted:
            form = f"IMAGE {'LABELS ' * named}X1 Y1 X2 Y2{f' and {self.count} numbers' * self.selects}"
            raise ValueError(f"has {len(words)} words, not {wanted}: write {form}")
        numbers = [integer(word) for word in words[1 + named : wanted]]
        if not all(number in LABELS for number in numbers):
            raise ValueError("has a number that is out of range for a 32-bit integer")
        x1, y1, x2, y2 = numbers[:4]
        if x2 < x1 or y2 < y1 or (x2 - x1 + 1) * (y2 - y1 + 1) > MOST_PIXELS:
            raise ValueError(f"the window ({x1}, {y1}) to ({x2}, {y2}) is empty, or too large")
        labels: str | int = self.param.ignore_label
        if named:
            labels = words[1] if kind == ImageDataParameter.PIXEL else integer(words[1])
        return Listed(words[0], labels, tuple(numbers[:4]), tuple(numbers[4:]), line)


def _window(image: np.ndarray, window: tuple[int, ...], outside: int) -> np.ndarray:
    """A part of an image (height, width, channels), with `outside` where it reaches beyond."""
    x1, y1, x2, y2 = window
    part = np.full((y2 - y1 + 1, x2 - x1 + 1, image.shape[2]), outside, np.uint8)
    top, left = max(y1, 0), max(x1, 0)
    inside = image[top : y2 + 1, left : x2 + 1] if min(x2, y2) >= 0 else image[:0, :0]
    part[top - y1 : top - y1 + inside.shape[0], left - x1 : left - x1 + inside.shape[1]] = inside
    return part
