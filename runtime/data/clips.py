"""C3D's VideoData: clips of videos, or of folders of frames, listed in a file (video_data_layer.cpp, image_io.cpp).

Version 1.1 of facebook/C3D has its settings in `video_data_param` and `transform_param`, version 1.0 in
`image_data_param`; the rules differ.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from prototxt.caffe_pb2 import LayerParameter, TransformationParameter
from prototxt.errors import InputError
from prototxt.layers.data import clip_settings
from runtime.c_random import process_random
from runtime.data.order import ListOrder
from runtime.data.reading import integer, naming, read_lines, read_pixels
from runtime.data.transformer import Transformer
from runtime.data.video import frame_count, open_video
from runtime.rng import CaffeRNG
from weights import read_binaryproto


@dataclass(frozen=True)
class Clip:
    """An entry of the list: a video or a folder, the first frame, the labels, the line in the list."""

    name: str
    start: int
    labels: tuple[int, ...]
    line: int


@dataclass(frozen=True)
class Drawn:
    """A clip, its first frame, every how many-th frame is taken, and the words for mirror and crop."""

    clip: Clip
    start: int
    rate: int
    words: list[int]


class VideoClips:
    """Tops (batch, 3, length, height, width) and, where asked for, labels: (batch,), (batch, labels) of 0 and 1 or,
    in version 1.0, (batch, 1, 1, 1, 1); float32.

    In TRAIN clips of videos that cannot be opened or are too short are passed over; a video that ends early is an
    error here, where the fork passes it over too. Version 1.0 seeds its generator anew for each batch, from the
    process's; here it is seeded once.

    Raises:
        InputError: a list, file or setting that the fork refuses; what it draws by the clock.
    """

    def __init__(self, param: LayerParameter, labelled: bool, rng: CaffeRNG):
        self.old, self.param = clip_settings(param)
        self.train = param.phase == 0
        where = "image_data_param" if self.old else "video_data_param"
        self.length = self.param.new_length
        self.size = (self.param.new_height, self.param.new_width)
        if any(self.size) and not all(self.size):
            raise InputError(f"{where}: give new_height and new_width, or neither")
        if not self.length or not self.param.batch_size or self.param.sampling_rate < 1:
            raise InputError(f"{where}: new_length, batch_size and sampling_rate must be at least 1")
        self.jitters = self.param.use_temporal_jitter
        if self.jitters and self.param.use_image:
            raise InputError(f"{where}: use_image with use_temporal_jitter stops in the fork at set-up")
        if self.jitters and self.old:
            raise InputError(
                "image_data_param: use_temporal_jitter draws by the clock: no run is like another"
            )
        self.transformer = Transformer(self._transform(param), param.phase)
        self.entries = self._read_list()
        self._names = zlib.crc32(repr(self.entries).encode("utf-8", "surrogateescape"))
        self._frames: dict[str, int] = {}
        if self.old:
            self.order: ListOrder = _ShuffledByC(
                len(self.entries), self.param.shuffle, self.param.rand_skip, rng
            )
            if self.train:
                self.transformer.seed(rng)
        else:
            self.transformer.seed(rng)
            self.order = ListOrder(len(self.entries), self.param.shuffle, self.param.rand_skip, rng)
        first = self.entries[0 if self.jitters else self.order.peek()]
        with naming(self._place(first)):
            volume = self._read(
                Drawn(first, 0 if self.jitters else first.start, self.param.sampling_rate, [])
            )
            self.mean = self._mean(param, volume.shape)
            shape = self.transformer.shape(3, *volume.shape[2:])
            if self.old and min(n - self.param.crop_size for n in volume.shape[2:]) < 1:
                raise InputError(f"the frames must be larger than the crop, {self.param.crop_size}")
        batch = self.param.batch_size
        labels: tuple[int, ...] = (batch, 1, 1, 1, 1) if self.old else (batch,)
        if not self.old and self.param.use_multiple_label:
            labels = (batch, self.param.num_of_labels)
        self.shapes = [(batch, 3, self.length, *shape[1:]), labels][: 1 + labelled]
        if not self.old:
            self.transformer.seed(rng)
            self.rng = CaffeRNG(int(rng.words(1)[0]))  # the loading thread's own

    # ---- the source

    def draw(self) -> list[Drawn]:
        taken: list[Drawn] = []
        passed = 0
        while len(taken) < self.param.batch_size:
            (index,) = self.order.take(1)
            clip = self.entries[index]
            rate = self.param.sampling_rate
            if not self.old and self.param.use_sampling_rate_jitter:
                rate = int(self.rng.words(1)[0]) % self.param.max_sampling_rate + 1
            spare = self._spare(clip, rate)
            if spare < 0 and self.train:
                passed += 1
                if passed > len(self.entries):
                    raise InputError(f"{self.param.source}: no clip of the list can be read")
                continue
            start = int(self.rng.words(1)[0]) % (spare + 1) if self.jitters and spare >= 0 else clip.start
            (words,) = self._words()
            taken.append(Drawn(clip, start, rate, words))
        return taken

    def load(self, drawn: list[Drawn]) -> tuple[np.ndarray, ...]:
        data = np.empty(self.shapes[0], np.float32)
        for item, one in zip(data, drawn, strict=True):
            with naming(self._place(one.clip)):
                volume = self._read(one)
                if volume.shape[2:] != self.mean.shape[2:]:
                    raise InputError(
                        f"frames of {volume.shape[2:]}; the first clip's are {self.mean.shape[2:]}"
                    )
                item[...] = self._transformed(volume, one.words)
        return (data, self._labels(drawn))[: len(self.shapes)]

    def items(self, drawn: list[Drawn]) -> list[str]:
        return [self._place(one.clip) for one in drawn]

    def state(self) -> dict[str, Any]:
        own = None if self.old else self.rng.state()
        return {
            "list": self._names,
            **self.order.state(),
            "transform": self.transformer.state(),
            "thread": own,
        }

    def restore(self, state: dict[str, Any]) -> None:
        if state["list"] != self._names or (state["thread"] is None) != self.old:
            raise InputError(f"{self.param.source} is not the list that the saved order is of")
        self.order.restore(state)
        self.transformer.restore(state["transform"])
        if not self.old:
            self.rng.restore(state["thread"])

    # ---- settings

    def _transform(self, param: LayerParameter) -> TransformationParameter:
        """Mirror, crop and scale, without the mean, which has a length too."""
        if not self.old:
            given = TransformationParameter()
            given.CopyFrom(param.transform_param)
            given.ClearField("mean_file")
            given.ClearField("mean_value")
            if param.transform_param.mean_file and param.transform_param.mean_value:
                raise InputError("transform_param has mean_file and mean_value: keep one")
            return given
        if self.param.mirror and not (self.param.crop_size and self.train):
            raise InputError("image_data_param: mirror needs crop_size, and phase TRAIN")
        return TransformationParameter(
            mirror=self.param.mirror, crop_size=self.param.crop_size, scale=self.param.scale
        )

    def _mean(self, param: LayerParameter, shape: tuple[int, ...]) -> np.ndarray:
        """(1 or 3, 1 or length, height, width): what is subtracted."""
        transform = param.transform_param
        file = self.param.mean_file if self.old else transform.mean_file
        if file:
            mean = read_binaryproto(file)
            if mean.shape[-4:] != shape or mean.size != np.prod(shape):
                raise InputError(f"{file}: a mean of shape {mean.shape}; the clip is {shape}")
            return mean.reshape(shape).astype(np.float32)
        values = [self.param.mean_value] if self.old else list(transform.mean_value) or [0.0]
        if len(values) not in (1, 3):
            raise InputError(f"transform_param: {len(values)} mean_value for 3 channels: give 1 or 3")
        mean = np.array(values, np.float32).reshape(-1, 1, 1, 1)
        return np.broadcast_to(mean, (len(values), 1, *shape[2:]))

    def _read_list(self) -> list[Clip]:
        """Lines NAME START LABEL; NAME LABEL where the start is drawn."""
        source, wanted = self.param.source, 2 if self.jitters else 3
        several = not self.old and self.param.use_multiple_label
        if several and not self.param.HasField("num_of_labels"):
            raise InputError("video_data_param: use_multiple_label needs num_of_labels")
        entries = []
        for number, line in enumerate(read_lines(source), 1):
            words = line.split()
            if not words:
                continue
            try:
                name, *numbers = words
                start = 0 if self.jitters else integer(numbers[0])
                labels = tuple(map(integer, numbers[-1].split(",") if several else [numbers[-1]]))
                if len(words) != wanted or start < 0:
                    raise ValueError
            except (ValueError, IndexError):
                form = "NAME LABEL" if self.jitters else "NAME FIRST_FRAME LABEL"
                raise InputError(f"{source}:{number}: {line!r} is not {form}") from None
            if several and not all(0 <= label < self.param.num_of_labels for label in labels):
                raise InputError(
                    f"{source}:{number}: labels must be from 0 to {self.param.num_of_labels - 1}"
                )
            entries.append(Clip(name, start, labels, number))
        if not entries:
            raise InputError(f"{source}: is empty: list at least one clip")
        return entries

    # ---- draws

    def _words(self) -> list[list[int]]:
        """Mirror, top, left; version 1.0 draws the mirror last."""
        words = self.transformer.draw(1)
        if self.old and self.param.mirror:
            words = [[mirror, top, left] for top, left, mirror in words]
        return words

    def _spare(self, clip: Clip, rate: int) -> int:
        """By how many frames the video is longer than a clip, or the clip's last frame from its end; -1: unreadable."""
        if self.param.use_image:
            files = [self._frame(clip, i) for i in self._indices(clip.start, rate)]
            return 0 if all(map(Path.is_file, files)) else -1
        path = self._path(clip)
        if path not in self._frames:
            self._frames[path] = frame_count(path)
        spare = self._frames[path] - self.length * rate
        return spare if self.jitters or spare < 0 else max(spare - clip.start, -1)

    # ---- pixels

    def _path(self, clip: Clip) -> str:
        return clip.name if self.old else self.param.root_folder + clip.name

    def _frame(self, clip: Clip, index: int) -> Path:
        return Path(f"{self._path(clip)}/{index:06d}.jpg")

    def _indices(self, start: int, rate: int) -> range:
        return range(start, start + self.length * rate, rate)

    def _place(self, clip: Clip) -> str:
        return f"{self.param.source}:{clip.line}: {clip.name}"

    def _read(self, drawn: Drawn) -> np.ndarray:
        """(3, length, height, width) uint8, BGR."""
        indices = self._indices(drawn.start, drawn.rate)
        if self.param.use_image:
            size = self.size if all(self.size) else None
            frames = [
                read_pixels(str(self._frame(drawn.clip, i)), True, size, self.param.source) for i in indices
            ]
        else:
            frames = self._video_frames(self._path(drawn.clip), indices)
        if len({frame.shape for frame in frames}) > 1:
            raise InputError("the frames differ in size: give new_height and new_width")
        return np.stack(frames).transpose(3, 0, 1, 2)

    def _video_frames(self, path: str, indices: range) -> list[np.ndarray]:
        video = open_video(path)
        count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        if indices.stop > count:
            raise InputError(f"{path} has {count} frames; the clip ends at {indices.stop}")
        if indices.start:
            video.set(cv2.CAP_PROP_POS_FRAMES, indices.start)
        frames = []
        for index in indices:
            if indices.step > 1:
                video.set(cv2.CAP_PROP_POS_FRAMES, index)
            found, frame = video.read()
            if not found:
                raise InputError(f"{path} has no frame {index}")
            frames.append(cv2.resize(frame, self.size[::-1]) if all(self.size) else frame)
        return frames

    def _transformed(self, volume: np.ndarray, words: list[int]) -> np.ndarray:
        crop = self.transformer.crop
        mirrored, *offsets = [words[0] % 2, *words[1:]] if self.transformer.mirror else [0, *words]
        top = left = 0
        if crop:
            spare = [n - c for n, c in zip(volume.shape[2:], crop, strict=True)]
            top, left = (n // 2 for n in spare)
            if self.train:
                choices = spare if self.old else [n + 1 for n in spare]
                top, left = (word % n for word, n in zip(offsets, choices, strict=True))
        height, width = crop or volume.shape[2:]
        seen = (..., slice(top, top + height), slice(left, left + width))
        out = np.subtract(volume[seen], self.mean[seen], dtype=np.float32) * self.transformer.scale
        return out[..., ::-1] if mirrored else out

    def _labels(self, drawn: list[Drawn]) -> np.ndarray:
        shape = self.shapes[-1]
        if not self.old and self.param.use_multiple_label:
            labels = np.zeros(shape, np.float32)
            for row, one in zip(labels, drawn, strict=True):
                row[list(one.clip.labels)] = 1
            return labels
        return np.array([one.clip.labels[0] for one in drawn], np.float32).reshape(
            shape if len(self.shapes) > 1 else -1
        )


class _ShuffledByC(ListOrder):
    """A list that C's `rand()` shuffles (std::random_shuffle); the seed that is drawn for it goes unused."""

    def _shuffle(self) -> None:
        if self.rng:
            self.indices = list(self.indices)
            process_random.shuffle(self.indices)

    def state(self) -> dict[str, Any]:
        return {**super().state(), "rand": process_random.state()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        process_random.restore(state["rand"])
