"""Detections in pixels of the images that they are of, and the files that SSD's fork writes of them."""

import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
from google.protobuf import text_format

from prototxt.caffe_pb2 import DetectionOutputParameter, LabelMap, ResizeParameter
from prototxt.errors import InputError
from prototxt.files import read_text
from runtime.data.augment import UNIT, Size, boxes_within
from runtime.data.output import held_back
from weights.files import write_text


def read_sizes(path: str) -> list[tuple[str, Size]]:
    """Lines `name height width`.

    Raises:
        InputError: a file that cannot be read, or lines of something else.
    """
    try:
        words = read_text(path, errors="surrogateescape").split()
        rows = zip(words[::3], words[1::3], words[2::3], strict=True)
        return [(name, (int(height), int(width))) for name, height, width in rows]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): check name_size_file") from error
    except ValueError:
        raise InputError(f"{path}: its lines must be NAME HEIGHT WIDTH") from None


def in_pixels(boxes: np.ndarray, size: Size, resize: ResizeParameter | None) -> np.ndarray:
    """Boxes (n, 4), fractions of what the net saw, in pixels of an image of `size`; cut to it."""
    boxes, (height, width) = boxes.astype(np.float32), size
    scale = np.float32([width, height] * 2)
    mode = resize.resize_mode if resize is not None else ResizeParameter.WARP
    if mode == ResizeParameter.FIT_LARGE_SIZE_AND_PAD:
        across, down = np.float32(resize.width), np.float32(resize.height)
        aspect = np.float32(width) / np.float32(height)
        source = UNIT.copy()
        if aspect > across / down:
            source[[1, 3]] = np.float32([0, 1]) + np.float32([1, -1]) * ((down - across / aspect) / 2 / down)
        else:
            source[[0, 2]] = np.float32([0, 1]) + np.float32([1, -1]) * (
                (across - down * aspect) / 2 / across
            )
        boxes = boxes_within(source, boxes)
    elif mode == ResizeParameter.FIT_SMALL_SIZE and resize.height_scale and resize.width_scale:
        own = boxes * np.float32([resize.width_scale, resize.height_scale] * 2)
        return np.clip(own, 0, scale)
    return np.clip(boxes, 0, 1) * scale


def pixel_overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersections over unions (n, m) of boxes in pixels, whose last one counts."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    apart = (high < low).any(axis=-1)  # the fork then has a box of 0s, which is one pixel
    sides = np.where(apart[..., None], np.float32(1), high - low + 1)
    areas = [
        np.where((x[:, 2:] < x[:, :2]).any(axis=1), 0, (x[:, 2:] - x[:, :2] + 1).prod(axis=1)) for x in (a, b)
    ]
    shared = sides.prod(axis=-1, dtype=np.float32)
    return shared / (areas[0][:, None] + areas[1] - shared)


class DetectionFiles:
    """What DetectionOutput's save_output_param writes, once `num_test_image` images were seen; again after as many.

    VOC: a file for each class, lines `image score xmin ymin xmax ymax`; ILSVRC: one, with the label's number; COCO:
    JSON. Numbers are cut to whole pixels in the first two.

    Raises:
        InputError: files that cannot be read, an output_format that is none of these, a label without a name.
    """

    def __init__(self, param: DetectionOutputParameter):
        saved = param.save_output_param
        self.saved, self.resize = saved, saved.resize_param if saved.HasField("resize_param") else None
        if saved.output_format not in ("VOC", "COCO", "ILSVRC"):
            raise InputError(
                f"save_output_param: output_format {saved.output_format!r} is not VOC, COCO or ILSVRC"
            )
        self.images = read_sizes(saved.name_size_file)
        self.count = saved.num_test_image if saved.HasField("num_test_image") else len(self.images)
        if not 1 <= self.count <= len(self.images):
            raise InputError(f"save_output_param: num_test_image {self.count} for {len(self.images)} images")
        self.names = _names(saved.label_map_file)
        self.background = param.background_label_id
        self.seen = 0
        self.found: list = []

    def add(self, rows: np.ndarray, images: int) -> None:
        """Take one batch's detections, rows [image, label, score, box] of `images` images."""
        if held_back():
            return
        for i in range(images):
            name, size = self.images[self.seen]
            mine = rows[(rows[:, 0] == i) & (rows[:, 1] >= 0)]
            boxes = in_pixels(mine[:, 3:], size, self.resize).astype(np.float64)
            for (_, label, score, *_), (x1, y1, x2, y2) in zip(mine, boxes, strict=True):
                if int(label) not in self.names:
                    raise InputError(f"{self.saved.label_map_file}: has no label {int(label)}")
                numbers = [float(np.floor(x * 100 + 0.5) / 100) for x in (x1, y1, x2 - x1, y2 - y1)]
                self.found.append((name, int(label), float(score), numbers))
            self.seen += 1
            if self.seen == self.count:
                self._write()
                self.seen, self.found = 0, []

    def _write(self) -> None:
        folder, prefix = Path(self.saved.output_directory), self.saved.output_name_prefix
        os.makedirs(folder, exist_ok=True)
        if self.saved.output_format == "COCO":
            rows = [
                {"image_id": _number(n), "category_id": _number(self.names[k]), "bbox": box, "score": s}
                for n, k, s, box in self.found
            ]
            write_text(folder / f"{prefix}.json", json.dumps(rows, indent=2) + "\n")
            return
        lines: defaultdict[str, list[str]] = defaultdict(list)
        voc = self.saved.output_format == "VOC"
        if voc:
            lines.update({f"{prefix}{name}": [] for k, name in self.names.items() if k != self.background})
        for name, label, score, box in self.found:
            x, y, width, height = map(int, box)
            told = f"{score:g} {x} {y} {x + width} {y + height}"
            file, line = (
                (f"{prefix}{self.names[label]}", f"{name} {told}")
                if voc
                else (prefix, f"{name} {label} {told}")
            )
            lines[file].append(line)
        for file, told in (lines or {prefix: []}).items():
            write_text(folder / f"{file}.txt", "".join(f"{line}\n" for line in told))


def _number(text: str) -> str | int:
    """COCO's names are numbers, and written as such."""
    return int(text) if text.isdecimal() else text


def _names(path: str) -> dict[int, str]:
    labels = LabelMap()
    try:
        text_format.Parse(read_text(path), labels)
    except (OSError, ValueError, text_format.ParseError) as error:
        raise InputError(f"{path}: no label map that can be read ({' '.join(str(error).split())})") from error
    return {item.label: item.name for item in labels.item}
