"""VideoData as TSN has it: frames from each of a video's segments, as image files, stacked as channels.

Source: yjxiong/caffe, src/caffe/layers/video_data_layer.cpp and data_transformer.cpp. A line of the list is
FOLDER FRAMES LABEL.
"""

import re
import zlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from prototxt.caffe_pb2 import TRAIN, LayerParameter, TransformationParameter, VideoDataParameter
from prototxt.errors import InputError
from runtime.data.order import ListOrder
from runtime.data.reading import LABELS, integer, naming, read_lines, read_pixels
from runtime.data.transformer import Transformer
from runtime.rng import CaffeRNG

_LONGEST = 29  # of a frame's name: the published code has room for no more
_NEAR = 3  # a crop that differs by less from the net's size has that size
_SCALES = (1.0, 0.875, 0.75, 0.66)
_TOP = ("source", "batch_size", "shuffle", "new_height", "new_width", "new_length", "num_segments")
_OBEYED = (*_TOP, "modality", "name_pattern", "grayscale", "encoded", "rand_skip")


@dataclass(frozen=True)
class Video:
    """One line of the list."""

    folder: str
    frames: int
    label: int
    line: int


@dataclass(frozen=True)
class Cut:
    """What is read of a video: the frame before each segment's first, and how they are cut and mirrored."""

    video: Video
    offsets: tuple[int, ...]
    mirrored: bool
    corner: tuple[int, int]
    size: tuple[int, int]


class VideoSegments:
    """Tops (batch, channels · new_length · num_segments, height, width) and (batch, 1, 1, 1), float32.

    Flow has two channels a frame, x and y; mirrored, with `is_flow`, those of x are 255 less. In TRAIN the frames, the
    crop's size (`multi_scale`) and its place (`fix_crop`: one of 5, with `more_fix_crop` of 13) are drawn.

    The published code skips a video whose frames cannot be read and leaves what the batch held; here it is refused.

    Args:
        rng: the process-wide generator; a word of it is drawn with each batch too, so that nothing is read ahead.

    Raises:
        InputError: a missing or malformed list, settings that the fork refuses.
    """

    in_step = True

    def __init__(self, layer: LayerParameter, rng: CaffeRNG, tops: int):
        if tops != 2:
            raise InputError("VideoData, as TSN has it, makes two tops, frames and labels")
        self.param, self.rng = layer.video_data_param, rng
        self.length = self.param.new_length if self.param.HasField("new_length") else 1
        _check(self.param, self.length)
        self.transformer = _SegmentTransformer(layer.transform_param, layer.phase)
        self.train = layer.phase == TRAIN
        self.transformer.seed(rng)
        self.entries = _read_list(self.param.source)
        self._list = zlib.crc32(repr(self.entries).encode("utf-8", "surrogateescape"))
        self.order = ListOrder(len(self.entries), self.param.shuffle, 0, rng)
        self.frames_rng = CaffeRNG(int(rng.words(1)[0]))
        first = self.entries[self.order.peek()]
        with naming(self._place(first)):
            if self._spare(first) < 0:
                raise InputError(
                    f"is too short for {self.param.num_segments} segments of {self.length} frames"
                )
            image = self._stacked(first, self._drawn_offsets(first))
            self.size = image.shape[1:]
            shape = self.transformer.shape(*image.shape)
        self.shapes: list[tuple[int, ...]] = [
            (self.param.batch_size, *shape),
            (self.param.batch_size, 1, 1, 1),
        ]
        self.transformer.seed(rng)

    def draw(self) -> list[Cut]:
        cuts = []
        for i in self.order.take(self.param.batch_size):
            video = self.entries[i]
            offsets = self._drawn_offsets(video) if self.train else self._middle_offsets(video)
            cuts.append(Cut(video, offsets, *self.transformer.drawn(self.size)))
        self.transformer.seed(self.rng)  # for the next batch
        return cuts

    def _spare(self, video: Video) -> int:
        return video.frames // self.param.num_segments - self.length

    def _drawn_offsets(self, video: Video) -> tuple[int, ...]:
        spare, average = self._spare(video), video.frames // self.param.num_segments
        if spare < 0:
            return (0,) * self.param.num_segments
        words = self.frames_rng.words(self.param.num_segments)
        return tuple(int(word) % (spare + 1) + i * average for i, word in enumerate(words))

    def _middle_offsets(self, video: Video) -> tuple[int, ...]:
        spare, average = self._spare(video), video.frames // self.param.num_segments
        return tuple(
            (spare + 1) // 2 + i * average if spare >= 0 else 0 for i in range(self.param.num_segments)
        )

    def load(self, drawn: list[Cut]) -> tuple[np.ndarray, ...]:
        images = []
        for cut in drawn:
            with naming(self._place(cut.video)):
                image = self._stacked(cut.video, cut.offsets)
                if image.shape[1:] != self.size:
                    raise InputError(
                        f"has frames of {image.shape[1:]} (height, width), the first video {self.size}"
                    )
                images.append(self.transformer.made(image, cut))
        labels = np.array([cut.video.label for cut in drawn], np.float32)
        return np.stack(images), labels.reshape(-1, 1, 1, 1)

    def _stacked(self, video: Video, offsets: tuple[int, ...]) -> np.ndarray:
        """All frames as (channels, height, width), uint8."""
        flow = self.param.modality == VideoDataParameter.FLOW
        colour = not flow and not self.param.grayscale
        given = self.param.new_height, self.param.new_width
        size = given if all(given) else None
        frames = []
        for offset in offsets:
            for number in range(offset + 1, offset + 1 + self.length):
                for values in (("x", number), ("y", number)) if flow else ((number,),):
                    path = f"{video.folder}/{_pattern(self.param) % values}"
                    frames.append(read_pixels(path, colour, size, f"{self.param.source}:{video.line}"))
        if any(frame.shape != frames[0].shape for frame in frames):
            raise InputError("its frames have several sizes: give new_height and new_width")
        return np.concatenate(frames, axis=2).transpose(2, 0, 1)

    def _place(self, video: Video) -> str:
        return f"{self.param.source}:{video.line}: {video.folder}"

    def items(self, drawn: list[Cut]) -> list[str]:
        return [self._place(cut.video) for cut in drawn]

    def state(self) -> dict[str, Any]:
        return {
            "list": self._list,
            **self.order.state(),
            "frames": self.frames_rng.state(),
            "transform": self.transformer.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        if state["list"] != self._list:
            raise InputError(
                f"{self.param.source} is not the list that the saved order is of: resume with the same list, "
                "or without the saved random state"
            )
        self.order.restore(state)
        self.frames_rng.restore(state["frames"])
        self.transformer.restore(state["transform"])


class _SegmentTransformer(Transformer):
    """TSN's transform_param: crops of several sizes, from fixed places."""

    def __init__(self, param: TransformationParameter, phase: int):
        super().__init__(param, phase)
        self.scales = tuple(map(np.float32, param.scale_ratios or _SCALES))

    def drawn(self, size: tuple[int, int]) -> tuple[bool, tuple[int, int], tuple[int, int]]:
        """Whether mirrored; the crop's corner; its size."""
        mirrored = bool(self._below(2)) if self.mirror else False
        if self.crop is None:
            return mirrored, (0, 0), size
        crop = self.crop
        if not self.train:
            return mirrored, self._offsets(size, []), crop
        if self.param.multi_scale:
            sizes = self._sizes(size)
            crop = sizes[self._below(len(sizes))]
        spare = size[0] - crop[0], size[1] - crop[1]
        if self.param.fix_crop:
            places = _corners(self.param.more_fix_crop)
            down, right = places[self._below(len(places))]
            return mirrored, (down * (spare[0] // 4), right * (spare[1] // 4)), crop
        return mirrored, (self._below(spare[0] + 1), self._below(spare[1] + 1)), crop

    def _below(self, count: int) -> int:
        assert self.rng is not None  # seeded wherever there is anything to draw
        return int(self.rng.words(1)[0]) % count

    def _sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """The crops to choose from: heights and widths of scales that are not too far from each other."""
        base, due = min(size), self.param.crop_size
        sides = [int(np.float32(base) * scale) for scale in self.scales]
        sides = [due if abs(side - due) < _NEAR else side for side in sides]
        found = [
            (height, width)
            for i, height in enumerate(sides)
            for j, width in enumerate(sides)
            if abs(i - j) <= self.param.max_distort
        ]
        if not found or any(
            not 0 < side <= whole for crop in found for side, whole in zip(crop, size, strict=True)
        ):
            raise InputError(
                f"transform_param: scale_ratios and max_distort give crops that do not fit into {size[0]}×{size[1]}"
            )
        return found

    def made(self, image: np.ndarray, cut: Cut) -> np.ndarray:
        (top, left), (height, width) = cut.corner, cut.size
        mean = self._mean_for(image)
        part = image[:, top : top + height, left : left + width]
        if self.crop is not None and cut.size != self.crop:
            part = np.stack([cv2.resize(each, self.crop[::-1]) for each in np.ascontiguousarray(part)])
        if mean is not None and self.mean is not None:
            if self.param.multi_scale and self.crop is not None:  # as published, from the upper left corner
                mean = mean[:, : self.crop[0], : self.crop[1]]
            else:
                mean = mean[:, top : top + height, left : left + width]
        part = part.astype(np.float32)
        if cut.mirrored and self.param.is_flow:
            part[::2] = 255 - part[::2]
        out = self._scaled(part, mean)
        return out[:, :, ::-1] if cut.mirrored else out

    @staticmethod
    def _per_channel(values: np.ndarray, image: np.ndarray, name: str) -> np.ndarray:
        if len(image) % len(values):
            raise InputError(
                f"{len(values)} {name} for {len(image)} channels: their number must divide the channels'"
            )
        return np.tile(values, len(image) // len(values))[:, None, None]


def _corners(more: bool) -> list[tuple[int, int]]:
    """Down and right, in quarters of what is left over."""
    places = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    if more:
        places += [(0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3)]
    return places


def _check(param: VideoDataParameter, length: int) -> None:
    for field, _ in param.ListFields():
        if field.name not in _OBEYED:
            raise InputError(f"video_data_param: {field.name} is not obeyed by TSN's VideoData: remove it")
    if min(param.batch_size, param.num_segments, length) < 1:
        raise InputError("video_data_param: batch_size, num_segments and new_length must be at least 1")
    pattern = _pattern(param)
    wanted = r"%c[^%]*%0?\d?[di]" if param.modality == VideoDataParameter.FLOW else r"%0?\d?[di]"
    if not re.fullmatch(rf"[^%]*{wanted}[^%]*", pattern):
        raise InputError(
            f"video_data_param: name_pattern {pattern!r} must hold %c and %04d for flow, %04d alone for images"
        )
    if len(pattern) > _LONGEST:
        raise InputError(f"video_data_param: name_pattern {pattern!r} is longer than {_LONGEST} characters")


def _pattern(param: VideoDataParameter) -> str:
    flow = param.modality == VideoDataParameter.FLOW
    return param.name_pattern or ("flow_%c_%04d.jpg" if flow else "image_%04d.jpg")


def _read_list(path: str) -> list[Video]:
    """Raises InputError for a missing, empty or malformed list."""
    words = [(word, number) for number, line in enumerate(read_lines(path), 1) for word in line.split()]
    entries = []
    for i in range(0, len(words) - 2, 3):
        (folder, line), (frames, _), (label, _) = words[i : i + 3]
        try:
            entry = Video(folder, integer(frames), integer(label), line)
        except ValueError as error:
            raise InputError(f"{path}:{line}: {folder}: {error}: write FOLDER FRAMES LABEL") from None
        if entry.label not in LABELS or entry.frames not in LABELS or entry.frames < 0:
            raise InputError(f"{path}:{line}: {folder}: {frames} frames, label {label}: out of range")
        entries.append(entry)
    if not entries:
        raise InputError(f"{path}: is empty: list at least one FOLDER FRAMES LABEL")
    return entries
