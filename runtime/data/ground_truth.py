"""ImageGtData's source: images with boxes, cut, scaled and labelled place by place as MS-CNN trains on them.

Source: zhaoweicai/mscnn, src/caffe/layers/image_gt_data_layer.cpp. Its numbers are single precision, its roundings C's.
"""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from prototxt.caffe_pb2 import ImageGtDataParameter, LayerParameter
from prototxt.errors import InputError
from prototxt.files import MAX_IMAGE, read_ordinary, read_text
from prototxt.layers.data import (
    ASPECT_STEP,
    aspects,
    check_ground_truth,
    ground_truth_shapes,
    ground_truth_size,
    resizes,
)
from runtime.data.order import saved_order, saved_place
from runtime.data.reading import LABELS, decode, integer, naming
from runtime.data.transformer import Transformer
from runtime.rng import CaffeRNG

ENOUGH_OF_NO_INTEREST = 0.4
LEAST_MATCH = 0.2


def overlap(a: np.ndarray, b: np.ndarray, mode: str = "IOU") -> np.ndarray:
    """The fork's BoxIOU of boxes (…, 4), [x, y, width, height], that broadcast; 0 where one has no area.

    Args:
        mode: what the shared area is divided by: "IOMU" the smaller area, "IOFU" the first, else the union.
    """
    x1, y1, w1, h1 = (a[..., i] for i in range(4))
    x2, y2, w2, h2 = (b[..., i] for i in range(4))
    left, top = np.where(x1 < x2, x2, x1), np.where(y1 < y2, y2, y1)
    right, bottom = _least(x1 + w1, x2 + w2), _least(y1 + h1, y2 + h2)
    apart = (left >= right) | (top >= bottom)
    shared = np.where(apart, w1.dtype.type(0), (right - left) * (bottom - top))
    first, second = w1 * h1, w2 * h2
    whole = {"IOMU": _least(first, second), "IOFU": first + second * 0}.get(mode, first + second - shared)
    without = (w1 <= 0) | (h1 <= 0) | (w2 <= 0) | (h2 <= 0)
    with np.errstate(all="ignore"):
        return np.where(without, w1.dtype.type(0), shared / whole)


def _least(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """std::min, which keeps the first where either is not a number."""
    return np.where(b < a, b, a)


@dataclass(frozen=True)
class Picture:
    """One image of the list.

    Attributes:
        size: height and width as the list says.
        boxes: (n, 4) float32, corners.
        marks: (n, 2) whole numbers, class and whether it is ignored.
        no_interest: (m, 4) float32, corners of regions that are left out.
    """

    path: str
    size: tuple[int, int]
    boxes: np.ndarray
    marks: np.ndarray
    no_interest: np.ndarray


@dataclass
class Placed:
    """What becomes of one image: all that was drawn, and the boxes where they are then.

    Attributes:
        cut: the part (rows, columns) of the resized image that is enlarged; None for all.
        scaled: height and width before it is copied.
        source, target: where copying begins in that, and in the top; (row, column).
        copied: height and width of what is copied.
    """

    picture: int
    mirrored: bool
    cut: tuple[slice, slice] | None
    scaled: tuple[int, int]
    source: tuple[int, int]
    target: tuple[int, int]
    copied: tuple[int, int]
    boxes: np.ndarray
    no_interest: np.ndarray


class GroundTruthImages:
    """ImageGtData: tops (batch, 3, height, width), (batch, 6, height / rate, width / rate) for each rate, float32.

    With `output_gt_boxes` a last one, (n, 7, 1, 1), the batch's boxes: [image, x1, y1, x2, y2, class, ignored].

    Raises:
        InputError: a missing or malformed list, settings that the fork refuses.
    """

    def __init__(self, param: LayerParameter, rng: CaffeRNG, tops: int):
        self.param, self.mirror = param.image_gt_data_param, param.transform_param.mirror
        self.means = np.array(param.transform_param.mean_value, np.float32)
        if len(self.means) not in (0, 1, 3):
            raise InputError(f"{len(self.means)} mean_value for 3 channels: give 1, or one each")
        self.maps = check_ground_truth(self.param, tops)
        transformer = Transformer(param.transform_param, param.phase)
        transformer.seed(rng)
        self.rng = CaffeRNG(int(rng.words(1)[0]))
        self.pictures = read_pictures(self.param)
        self.size = ground_truth_size(self.param, self.pictures[-1].size)
        self.shapes = ground_truth_shapes(self.param, self.size)
        self.cache = [self._bytes(picture) for picture in self.pictures] if self.param.cache_images else []
        self.order, self.position = list(range(len(self.pictures))), 0
        self._shuffle()
        listed = [(p.path, p.size, p.boxes.tolist(), p.marks.tolist()) for p in self.pictures]
        self._list = zlib.crc32(repr(listed).encode("utf-8", "surrogateescape"))
        transformer.seed(rng)  # again as the thread starts, …
        rng.words(1)  # … whose own generator takes a seed too

    # ---- draws

    def draw(self) -> list[Placed]:
        drawn = []
        for _ in range(self.param.batch_size):
            drawn.append(self._place(self.order[self.position]))
            self.position += 1
            if self.position == len(self.order):
                self.position = 0
                self._shuffle()
        return drawn

    def _shuffle(self) -> None:
        if self.param.shuffle:
            self.order = list(self.order)
            self.rng.shuffle(self.order)

    def _below(self, count: int) -> int:
        return int(self.rng.words(1)[0]) % count

    def _place(self, index: int) -> Placed:
        """Draw what is done to an image, in the fork's order."""
        param, picture = self.param, self.pictures[index]
        (height, width), single = picture.size, np.float32
        boxes, no_interest = picture.boxes.copy(), picture.no_interest.copy()
        both = (boxes, no_interest)
        mirrored = self.mirror and self._below(2) == 1
        if mirrored:
            for corners in both:
                corners[:, [0, 2]] = single(width) - corners[:, [2, 0]]
        if resizes(param) and (height, width) != (param.resize_height, param.resize_width):
            _scale(
                both, single(param.resize_width) / single(width), single(param.resize_height) / single(height)
            )
            height, width = param.resize_height, param.resize_width
        centre, chosen = self._centre(boxes, height, width)
        x_factor, y_factor = self._factors(boxes, chosen)
        cut, scaled = None, (_rounded(single(height) * y_factor), _rounded(single(width) * x_factor))
        if x_factor > 1.5 or y_factor > 1.5:
            # Where an image grows much, no more of it is enlarged than is needed.
            rows = _part(height, y_factor, centre[1])
            columns = _part(width, x_factor, centre[0])
            cut = rows, columns
            centre -= np.array([columns.start, rows.start], np.float32)
            _shift(both, -columns.start, -rows.start)
            scaled = (
                _rounded(single(rows.stop - rows.start) * y_factor),
                _rounded(single(columns.stop - columns.start) * x_factor),
            )
        if min(scaled) < 1:
            raise InputError(f"{picture.path} is scaled down to nothing: raise min_scale")
        _scale(both, x_factor, y_factor)
        x_noise, y_noise = self._below(20) - 10, self._below(20) - 10
        across = _copied(scaled[1], self.size[1], centre[0] * x_factor, x_noise)
        down = _copied(scaled[0], self.size[0], centre[1] * y_factor, y_noise)
        source, target, copied = zip(down, across, strict=True)
        _shift(both, target[1] - source[1], target[0] - source[0])
        return Placed(index, mirrored, cut, scaled, source, target, copied, boxes, no_interest)

    def _centre(self, boxes: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Where to look, x then y, and which box is there: one of the image's; without boxes, any place."""
        if len(boxes):
            chosen = boxes[self._below(len(boxes))].copy()
            return (chosen[:2] + chosen[2:]) / np.float32(2), chosen
        centre = []
        for size, wanted in ((width, self.size[1]), (height, self.size[0])):
            centre.append(self._below(size - wanted + 1) + wanted / 2 if size >= wanted else size / 2)
        return np.array(centre, np.float32), None

    def _factors(self, boxes: np.ndarray, chosen: np.ndarray | None) -> tuple[np.float32, np.float32]:
        """How much wider and higher the image becomes: so that the box has a size drawn from half octaves."""
        param, single = self.param, np.float32
        one = single(1)
        multiple = param.do_multiple_scale and param.HasField("min_scale") and param.HasField("max_scale")
        if not multiple or chosen is None or not self._below(2):
            return one, one
        octaves = single(math.log2(single(param.max_scale) / single(param.min_scale)))
        exponents = np.arange(_rounded(single(2) * octaves + one), dtype=single) / single(2)
        width, height = chosen[2:] - chosen[:2]
        area = width * height
        larger = 2.0 ** exponents.astype(np.float64)
        fields = (param.min_scale**2 * larger * larger).astype(single)
        with np.errstate(all="ignore"):
            alike = np.minimum(area, fields) / np.maximum(area, fields)
        best = alike.argmax() if (alike > 0).any() else 0
        exponent = (exponents - (exponents[best] if alike[best] > 0 else single(0)))[
            self._below(len(exponents))
        ]
        x_factor = y_factor = single(2.0 ** float(exponent))
        if not self._has_aspects() or not self._below(2):
            return x_factor, y_factor
        aspect = single(self._below(aspects(param))) * _INTERVAL + single(param.min_whaspect)
        with np.errstate(all="ignore"):
            by = aspect / (width / height)
            if self._below(2):
                if _within(width * x_factor * by, param):
                    x_factor *= by
            elif _within(height * y_factor / by, param):
                y_factor /= by
        return x_factor, y_factor

    def _has_aspects(self) -> bool:
        return self.param.HasField("min_whaspect") and self.param.HasField("max_whaspect")

    # ---- images and labels

    def load(self, drawn: list[Placed]) -> tuple[np.ndarray, ...]:
        tops = [np.zeros(shape, np.float32) for shape in self.shapes]
        rows = []
        for i, placed in enumerate(drawn):
            with naming(self._name(placed)):
                self._copy(placed, tops[0][i])
            marks = self._marks(placed)
            self._label(placed, marks, [top[i] for top in tops[1 : self.maps + 1]])
            rows += [
                (i, *box, *mark) for box, mark in zip(placed.boxes.tolist(), marks.tolist(), strict=True)
            ]
        if self.param.output_gt_boxes:
            tops[-1] = np.array(rows or [(0, 1, 1, 2, 2, 1, 1)], np.float32).reshape(-1, 7, 1, 1)
        return tuple(tops)

    def _copy(self, placed: Placed, top: np.ndarray) -> None:
        picture, param = self.pictures[placed.picture], self.param
        image = decode(self.cache[placed.picture] if self.cache else self._bytes(picture), cv2.IMREAD_COLOR)
        if image is None:
            raise InputError("does not decode as an image: is it whole, and a JPEG or PNG?")
        if image.shape[:2] != picture.size:
            raise InputError(
                f"has {image.shape[0]}×{image.shape[1]} pixels (height × width), the list says "
                f"{picture.size[0]}×{picture.size[1]}: correct the list"
            )
        if placed.mirrored:
            image = image[:, ::-1]
        if resizes(param):
            image = _resized(image, (param.resize_height, param.resize_width))
        image = _resized(image[placed.cut] if placed.cut else image, placed.scaled)
        (y, x), (height, width) = placed.source, placed.copied
        pixels = image[y : y + height, x : x + width].astype(np.float32)
        if len(self.means):
            pixels = pixels - self.means
        (y, x) = placed.target
        top[:, y : y + height, x : x + width] = (pixels * np.float32(param.scale)).transpose(2, 0, 1)

    def _marks(self, placed: Placed) -> np.ndarray:
        """Classes, and which boxes are ignored: also those whose centres are outside, and those that are too small."""
        marks = self.pictures[placed.picture].marks.copy()
        low, high = placed.boxes[:, :2], placed.boxes[:, 2:]
        centres, sizes = (low + high) / np.float32(2), high - low + np.float32(1)
        outside = (centres < 0) | (centres >= np.array([self.size[1], self.size[0]], np.float32))
        small = sizes < np.array([self.param.min_gt_width, self.param.min_gt_height], np.float32)
        marks[(outside | small).any(axis=1), 1] = 1
        return marks

    def _label(self, placed: Placed, marks: np.ndarray, maps: list[np.ndarray]) -> None:
        """Fill the label maps of one image."""
        single, param = np.float32, self.param
        boxes = placed.boxes
        sized = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        centres = (boxes[:, :2] + boxes[:, 2:]) / single(2)
        hidden = placed.no_interest
        hidden = np.concatenate([hidden[:, :2], hidden[:, 2:] - hidden[:, :2]], axis=1)
        matched, best, where = np.zeros(len(boxes), bool), np.zeros(len(boxes), single), [0] * len(boxes)
        for k, top in enumerate(maps):
            fields = _fields(top.shape[1:], param.downsample_rate[k], param.field_w[k], param.field_h[k])
            open_ = self._open(placed, k, top.shape[1:])
            none = np.zeros(open_.shape, single)
            covered = sum((overlap(fields, each, "IOFU") for each in hidden), none)
            open_ &= covered.astype(np.float64) < ENOUGH_OF_NO_INTEREST
            top[5] = 1
            if not len(boxes):
                top[5][open_] = 0
                continue
            shared = np.stack([overlap(each, fields) for each in sized])
            top[5][open_] = np.maximum(shared.max(axis=0), 0)[open_]
            of = shared.argmax(axis=0)
            found = open_ & (shared.max(axis=0) > max(single(param.fg_threshold), 0))
            top[0][found] = np.where(marks[of, 1] == 0, marks[of, 0], 0)[found]
            top[1:5, found] = np.concatenate([centres, sized[:, 2:]], axis=1)[of[found]].T
            matched[of[found]] = True
            most = np.where(open_, shared, 0).reshape(len(boxes), -1).max(axis=1)
            for each in np.flatnonzero(most > best):
                best[each], where[each] = most[each], k
        for each in np.flatnonzero(~matched & (marks[:, 1] == 0) & (best.astype(np.float64) >= LEAST_MATCH)):
            # What no field matches well goes to the place of its centre, if that has no class yet.
            top, rate = maps[where[each]], single(param.downsample_rate[where[each]])
            x, y = (
                min(max(math.floor(c / rate), 0), size - 1)
                for c, size in zip(centres[each], top.shape[:0:-1], strict=True)
            )
            if not top[0, y, x] > 0:
                top[:5, y, x] = marks[each, 0], *centres[each], *sized[each, 2:]

    def _open(self, placed: Placed, k: int, shape: tuple[int, ...]) -> np.ndarray:
        """The places of a label map that the copied image covers."""
        rate = np.float32(self.param.downsample_rate[k])
        open_ = np.zeros(shape, bool)
        (top, left), (height, width) = (
            [_rounded(np.float32(n) / rate) for n in pair] for pair in (placed.target, placed.copied)
        )
        open_[top : top + height, left : left + width] = True
        return open_

    # ---- where reading stands

    def items(self, drawn: list[Placed]) -> list[str]:
        return [self._name(placed) for placed in drawn]

    def state(self) -> dict[str, Any]:
        return {
            "list": self._list,
            "position": self.position,
            "order": self.order,
            "random": self.rng.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Raises InputError for the state of another list."""
        if state["list"] != self._list:
            raise InputError(
                f"{self.param.source} is not the list that the saved order is of: resume with it"
            )
        self.order = saved_order(state["order"], len(self.pictures))
        self.position = saved_place(state["position"], len(self.pictures))
        self.rng.restore(state["random"])

    def _name(self, placed: Placed) -> str:
        return f"{self.param.source}: {self.pictures[placed.picture].path}"

    def _bytes(self, picture: Picture) -> bytes:
        try:
            return read_ordinary(picture.path, MAX_IMAGE)
        except OSError as error:
            raise InputError(
                f"{picture.path} cannot be read ({error.strerror}): check root_folder"
            ) from error


# ---- settings


_INTERVAL = np.float32(ASPECT_STEP)


def _within(size: np.float32, param: ImageGtDataParameter) -> bool:
    return param.min_scale * 0.8 <= float(size) <= param.max_scale * 1.2


# ---- geometry


def _rounded(value: np.floating | float) -> int:
    """C's round: halves away from zero.

    Raises:
        InputError: what is no number, as an image's scale by a box without area.
    """
    if not math.isfinite(value):
        raise InputError("a box without area has no scale: remove it from the list")
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))


def _scale(both: tuple[np.ndarray, np.ndarray], x: np.float32, y: np.float32) -> None:
    for corners in both:
        corners *= np.array([x, y, x, y], np.float32)


def _shift(both: tuple[np.ndarray, np.ndarray], x: int, y: int) -> None:
    for corners in both:
        corners += np.array([x, y, x, y], np.float32)


def _part(size: int, factor: np.float32, centre: np.float32) -> slice:
    """The part of an axis around a centre that is somewhat more than the whole would be before it was enlarged."""
    length = min(_rounded(1.2 * size / float(factor)), size)
    start = max(_rounded(float(centre) - length * 0.5), 0)
    start -= max(start + length - size, 0)
    return slice(start, start + length)


def _copied(size: int, wanted: int, centre: np.float32, noise: int) -> tuple[int, int, int]:
    """Along one axis: where copying begins in the image and in the top, and how much is copied."""
    if size < wanted:
        return 0, min(max(0, _rounded((wanted - size) / 2) + noise), wanted - size), size
    if size == wanted:
        return 0, 0, wanted
    start = _rounded(centre) + noise - _rounded(wanted / 2)
    return min(max(0, start), size - wanted), 0, wanted


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == size:
        return image
    return cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=cv2.INTER_LINEAR)


def _fields(shape: tuple[int, ...], rate: int, width: int, height: int) -> np.ndarray:
    """(rows, columns, 4) float32: the field around each place, [x, y, width, height]."""
    edges = []
    for count, size in zip(shape[::-1], (width, height), strict=True):
        centre = (np.arange(count) + 0.5) * rate
        radius = np.float64(np.float32(size) / np.float32(2))
        low, high = (centre - radius).astype(np.float32), (centre + radius).astype(np.float32)
        edges.append((low, high - low))
    (x, w), (y, h) = edges
    return np.stack(np.broadcast_arrays(x, y[:, None], w, h[:, None]), axis=-1)


# ---- the list


def read_pictures(param: ImageGtDataParameter) -> list[Picture]:
    """The list's images, those with a box that counts `fg_img_multiple` times.

    An image is `# INDEX PATH CHANNELS HEIGHT WIDTH BOXES`, for each box `CLASS IGNORED X1 Y1 X2 Y2`, then the number
    of regions of no interest, for each `X1 Y1 X2 Y2`, with white space between. The index is not used.

    Raises:
        InputError: a missing, empty or malformed list.
    """
    try:
        words = iter(read_text(param.source, errors="surrogateescape").split())
    except OSError as error:
        raise InputError(f"{param.source}: cannot be read ({error.strerror}): check the path") from error
    pictures: list[Picture] = []
    for count, mark in enumerate(words):
        try:
            picture = _read_picture(mark, words, param.root_folder)
        except (ValueError, StopIteration) as error:
            told = str(error) or "ends in the middle"
            raise InputError(f"{param.source}: image {count}: {told}") from None
        foreground = (picture.marks[:, 1] == 0).any()
        pictures += [picture] * (param.fg_img_multiple if foreground else 1)
    if not pictures:
        raise InputError(f"{param.source}: is empty: list at least one image")
    return pictures


def _read_picture(mark: str, words: Iterator[str], root: str) -> Picture:
    def numbers(count: int) -> list[int]:
        found = [integer(next(words)) for _ in range(count)]
        if not all(number in LABELS for number in found):
            raise ValueError("has a number that is out of range for a 32-bit integer")
        return found

    if mark != "#":
        raise ValueError(f"{mark!r} stands where # INDEX must be")
    numbers(1)
    path = root + next(words)
    channels, height, width, count = numbers(4)
    if channels != 3:
        raise ValueError(f"has {channels} channels: images are read in colour, with 3")
    if min(height, width) < 1:
        raise ValueError(f"has {height}×{width} pixels")
    rows = np.array([numbers(6) for _ in range(count)], np.int64).reshape(-1, 6)
    if (rows[:, 0] < 1).any():
        raise ValueError("has a box of class 0 or less: classes begin at 1")
    (count,) = numbers(1)
    hidden = np.array([numbers(4) for _ in range(count)], np.float32).reshape(-1, 4)
    return Picture(path, (height, width), rows[:, 2:].astype(np.float32), rows[:, :2], hidden)
