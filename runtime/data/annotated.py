"""AnnotatedData's source, of SSD's fork: AnnotatedDatum messages in an LMDB, images with their boxes."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from google.protobuf.message import DecodeError

from prototxt.caffe_pb2 import AnnotatedDatum, LayerParameter, ResizeParameter
from prototxt.errors import InputError
from prototxt.layers.declare import refuse_other_fields
from runtime.data import augment
from runtime.data.augment import Boxes, Recipe
from runtime.data.database import DatabaseImages
from runtime.data.order import saved_place
from runtime.data.prefetch import Share
from runtime.data.reading import naming, stack_images
from runtime.data.transformer import Transformer, Words
from runtime.data.video import open_video
from runtime.rng import CaffeRNG

_MOST_TRIALS = 100_000
"""Of boxes for an image, which take seconds; SSD's nets try 350."""


class DetectionTransformer(Transformer):
    """transform_param as SSD's fork has it: what is resized and made noisy before the crop."""

    def __init__(self, param: LayerParameter):
        transform = param.transform_param
        if len(transform.resize_param) > 1:
            raise InputError("transform_param: give one resize_param")
        self.resize = transform.resize_param[0] if transform.resize_param else None
        self.noise = transform.noise_param if transform.HasField("noise_param") else None
        if self.noise is not None:
            refuse_other_fields("noise_param", self.noise, *_NOISE)
        super().__init__(transform, param.phase)

    def _crop_sizes(self) -> tuple[int, int] | None:
        param = self.param
        if param.crop_size:
            return param.crop_size, param.crop_size
        return (param.crop_h, param.crop_w) if param.crop_h and param.crop_w else None

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        if self.resize is not None:
            height, width = augment.new_size(self.resize, (height, width))
        return super().shape(channels, height, width)

    def draw_for(self, size: augment.Size, recipe: Recipe, rng: CaffeRNG) -> None:
        """Draw what resizing and noise need, into the recipe; `size` is the image's."""
        if self.resize is not None:
            recipe.resize = augment.draw_interpolation(self.resize, rng)
            size = augment.new_size(self.resize, size)
        if self.noise is not None:
            recipe.salt = augment.draw_salt(self.noise, size, rng)

    def pixels(self, image: np.ndarray, recipe: Recipe, words: Words) -> np.ndarray:
        """(channels, height, width) float32 of an image (height, width, channels)."""
        if self.resize is not None:
            image = augment.resized(image, self.resize, recipe.resize)
        if self.noise is not None:
            image = augment.noisy(image, self.noise, recipe.salt)
        image = image.transpose(2, 0, 1)
        mirrored, *offsets = self._mirror(words)
        super().shape(*image.shape)
        image = self._window(image, *self._offsets(image.shape[1:], offsets))
        if mirrored:
            image = image[:, :, ::-1]  # before the mean is subtracted, which is not mirrored
        return self._scaled(image, self._mean_for(image))

    def boxes(self, boxes: Boxes, size: augment.Size, words: Words) -> Boxes:
        """The boxes of an image of `size` in fractions of what `pixels` makes of it."""
        emit = self.param.emit_constraint if self.param.HasField("emit_constraint") else None
        mirrored, *offsets = self._mirror(words)
        whole = size
        if self.resize is not None:
            boxes = augment.resized_boxes(self.resize, size, boxes)
            whole = augment.new_size(self.resize, size)
        height, width = self.crop or whole
        top, left = self._offsets(whole, offsets)
        window = np.float32([left, top, left + width, top + height]) / np.float32([whole[1], whole[0]] * 2)
        boxes = augment.seen_from(window, boxes, emit)
        corners = boxes.corners
        if mirrored:
            corners = np.stack([1 - corners[:, 2], corners[:, 1], 1 - corners[:, 0], corners[:, 3]], axis=1)
        return Boxes(boxes.marks, self._extrapolated(corners, size, window))

    def _extrapolated(self, corners: np.ndarray, size: augment.Size, window: np.ndarray) -> np.ndarray:
        """FIT_SMALL_SIZE with height_scale and width_scale: in fractions of those, not of the crop."""
        param = self.resize
        if param is None or param.resize_mode != ResizeParameter.FIT_SMALL_SIZE:
            return corners
        if not (param.height_scale and param.width_scale):
            return corners
        aspect = np.float32(size[1]) / np.float32(size[0])
        height, width = np.float32(param.height), np.float32(param.width)
        if aspect < width / height:
            height = width / aspect
        else:
            width = height * aspect
        down, across = height * (window[3] - window[1]), width * (window[2] - window[0])
        if across < param.width_scale or down < param.height_scale:
            raise InputError("resize_param: height_scale and width_scale must not exceed the crop")
        return corners * np.float32([across / param.width_scale, down / param.height_scale] * 2)


_NOISE = (
    *("prob", "hist_eq", "inverse", "decolorize", "gauss_blur", "jpeg", "posterize", "erode", "saltpepper"),
    *("saltpepper_param", "clahe", "convert_to_hsv", "convert_to_lab"),
)


@dataclass
class _Item:
    key: bytes
    recipe: Recipe
    boxes: Boxes
    words: list[int]


class AnnotatedImages(DatabaseImages):
    """AnnotatedData: tops (batch, channels, height, width), and (1, 1, boxes of the batch, 8), float32.

    A row is [image in the batch, label, instance, xmin, ymin, xmax, ymax, difficult]; one row of -1 where there is no
    box. Without annotations in the database: (batch,), the labels.

    Raises:
        InputError: as DatabaseImages; images that are not encoded; settings that are not supported.
    """

    def __init__(self, param: LayerParameter, labelled: bool, share: Share, rng: CaffeRNG):
        rng.words(1)  # the thread that reads the database takes a seed
        annotated = param.annotated_data_param
        refuse_other_fields("annotated_data_param", annotated, "batch_sampler", "label_map_file", "anno_type")
        self.samplers = list(annotated.batch_sampler)
        trials = sum(sampler.max_trials for sampler in self.samplers)
        if trials > _MOST_TRIALS:
            raise InputError(
                f"batch_sampler: max_trials are {trials:,} for an image: at most {_MOST_TRIALS:,} are supported"
            )
        self.typed = annotated.HasField("anno_type")
        super().__init__(param, labelled, share, rng)
        resize = self.transformer.resize
        small = resize is not None and resize.resize_mode == ResizeParameter.FIT_SMALL_SIZE
        if small and self.param.batch_size != 1:
            raise InputError("resize_param: FIT_SMALL_SIZE needs batch_size: 1")
        first = self._datum(self.cursor.value())
        self.boxed = self.typed or first.HasField("type")
        if labelled and self.boxed:
            count = sum(len(group.annotation) for group in first.annotation_group)
            self.shapes[1] = (1, 1, max(count, 1), 8)
        self.rng = CaffeRNG(int(self.thread_seed))

    def _transformer(self, param: LayerParameter) -> Transformer:
        return DetectionTransformer(param)

    def draw(self) -> list[_Item]:
        items = []
        for _ in range(self.param.batch_size):
            key, value = self._next()
            with naming(self._place(key)):
                items.append(self._item(key, value))
        return items

    def _item(self, key: bytes, value: bytes) -> _Item:
        """Draw all that is random about an image, in the fork's order, which its boxes and size take part in."""
        datum, param = self._datum(value), self.transformer.param
        emit = param.emit_constraint if param.HasField("emit_constraint") else None
        size = self._image(value)[0].shape[1:]
        boxes, recipe = _boxes(datum), Recipe()
        if param.HasField("distort_param"):
            recipe.distort = augment.draw_distortion(param.distort_param, self.rng)
        if param.HasField("expand_param"):
            found = augment.draw_expansion(param.expand_param, size, self.rng)
            if found:
                recipe.expand, canvas = found
                boxes, size = augment.seen_from(canvas, boxes, emit), recipe.expand[:2]
        if self.samplers:
            windows = augment.sampled_boxes(self.samplers, boxes.corners, self.rng)
            if windows:
                window = windows[int(self.rng.words(1)[0]) % len(windows)]
                recipe.crop = window
                boxes = augment.seen_from(np.clip(window, 0, 1), boxes, emit)
                rows, columns = augment.window_pixels(window, size)
                size = rows.stop - rows.start, columns.stop - columns.start
        (words,) = self.transformer.draw(1)
        self.transformer.draw_for(size, recipe, self.rng)
        return _Item(key, recipe, self.transformer.boxes(boxes, size, words), words)

    def load(self, drawn: list[_Item]) -> tuple[np.ndarray, ...]:
        images, labels = [], []
        for item in drawn:
            with naming(self._place(item.key)):
                image, label = self._image(self.database.get(item.key))
                images.append(self._done(image.transpose(1, 2, 0), item))
                labels.append(label)
        data = stack_images(images, self.items(drawn))
        if not self.labelled:
            return (data,)
        return data, self._rows(drawn) if self.boxed else np.array(labels, np.float32)

    def _done(self, image: np.ndarray, item: _Item) -> np.ndarray:
        recipe, transformer = item.recipe, self.transformer
        if recipe.distort is not None:
            image = self._again(augment.distorted(np.ascontiguousarray(image), recipe.distort))
        if recipe.expand is not None:
            mean = transformer.mean_values if len(transformer.mean_values) else None
            image = self._again(augment.expanded(image, recipe.expand, mean))
        if recipe.crop is not None:
            rows, columns = augment.window_pixels(recipe.crop, image.shape[:2])
            image = self._again(np.ascontiguousarray(image[rows, columns]))
        return transformer.pixels(np.ascontiguousarray(image), recipe, item.words)

    def _again(self, image: np.ndarray) -> np.ndarray:
        if not image.size:
            raise InputError("a window of no pixels was sampled: raise min_scale")
        return augment.encoded_again(image)

    def _rows(self, drawn: list[_Item]) -> np.ndarray:
        rows = [
            [i, label, instance, *corners, difficult]
            for i, item in enumerate(drawn)
            for (label, instance, difficult), corners in zip(
                item.boxes.marks, item.boxes.corners, strict=True
            )
        ]
        return np.array(rows or [[-1] * 8], np.float32)[None, None]

    def items(self, drawn: list[_Item]) -> list[str]:
        return [self._place(item.key) for item in drawn]

    def state(self) -> dict[str, Any]:
        return {**super().state(), "thread": self.rng.state()}

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self.rng.restore(state["thread"])

    def _datum(self, value: bytes) -> AnnotatedDatum:
        try:
            return AnnotatedDatum.FromString(value)
        except DecodeError:
            raise InputError("is no AnnotatedDatum message: is this a database of SSD's?") from None

    def _image(self, value: bytes | None) -> tuple[np.ndarray, int]:
        if value is None:
            raise InputError("is not found again: is the database whole, and nobody writing to it?")
        datum = self._datum(value).datum
        if not datum.encoded:
            raise InputError("AnnotatedData needs encoded images: make the database with --encoded")
        return self._decoded(datum)


def _boxes(datum: AnnotatedDatum) -> Boxes:
    marks, corners = [], []
    for group in datum.annotation_group:
        for annotation in group.annotation:
            box = annotation.bbox
            marks.append((group.group_label, annotation.instance_id, box.difficult))
            corners.append((box.xmin, box.ymin, box.xmax, box.ymax))
    return Boxes(np.array(marks, np.int64).reshape(-1, 3), np.array(corners, np.float32).reshape(-1, 4))


class VideoFrames:
    """VideoData of a file: tops (batch, channels, height, width) and, where asked for, (batch,) zeros; float32.

    After each frame that is taken, `skip_frames` are passed over; a batch begins with as many. (The fork writes those
    it passes over too, before the memory of the first.) It transforms a frame twice, and so draws twice for it.

    Raises:
        InputError: a file that is missing or is no video, a camera, batch_size missing.
    """

    def __init__(self, param: LayerParameter, labelled: bool, rng: CaffeRNG):
        video = param.video_data_param
        refuse_other_fields("video_data_param", video, "video_type", "video_file", "skip_frames", "device_id")
        if video.video_type != video.VIDEO:
            raise InputError(
                "video_data_param: a camera is not supported: give video_type: VIDEO and a video_file"
            )
        if not param.data_param.batch_size:
            raise InputError("data_param.batch_size: give 1 or more")
        self.file, self.skip, self.batch = video.video_file, video.skip_frames, param.data_param.batch_size
        self.labelled = labelled
        self.transformer = DetectionTransformer(param)
        self.transformer.seed(rng)
        if not self.file:
            raise InputError("video_data_param.video_file: no video that can be opened")
        self.capture = open_video(self.file)
        found, frame = self.capture.read()
        if not found:
            raise InputError(f"{self.file}: holds no frame")
        self.frames, self.position = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        self._seek(0)
        with naming(self.file):
            shape = self.transformer.shape(frame.shape[2], *frame.shape[:2])
        self.shapes = [(self.batch, *shape), (self.batch,)][: 1 + labelled]
        self.transformer.seed(rng)
        self.rng = CaffeRNG(int(rng.words(1)[0]))

    def draw(self) -> list[tuple[int, np.ndarray | None, Recipe, list[int]]]:
        taken = []
        for _ in range(self.batch):
            found, frame = True, None
            for _ in range(self.skip + 1):
                found, frame = self.capture.read()
                if not found:
                    break  # so are all behind it, and skip_frames may be thousands of millions
            frame = frame if found else None
            self.position += self.skip + 1
            recipe, words = Recipe(), []
            for _ in range(2 if frame is not None else 0):
                (words,) = self.transformer.draw(1)
                self.transformer.draw_for(frame.shape[:2], recipe, self.rng)
            taken.append((self.position, frame, recipe, words))
        return taken

    def load(self, drawn: list[tuple[int, np.ndarray | None, Recipe, list[int]]]) -> tuple[np.ndarray, ...]:
        images = []
        for number, frame, recipe, words in drawn:
            if frame is None:
                raise InputError(
                    f"{self.file}: ended at frame {min(number, self.frames)}: lower the number of batches"
                )
            with naming(f"{self.file}: frame {number}"):
                images.append(self.transformer.pixels(frame, recipe, words))
        return (np.stack(images), np.zeros(self.batch, np.float32))[: 1 + self.labelled]

    def items(self, drawn: list[tuple[int, np.ndarray | None, Recipe, list[int]]]) -> list[str]:
        return [f"{self.file}: frame {number}" for number, *_ in drawn]

    def state(self) -> dict[str, Any]:
        return {
            "frame": self.position,
            "transform": self.transformer.state(),
            "thread": self.rng.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.position = saved_place(state["frame"], 1 << 31)
        self._seek(self.position)
        self.transformer.restore(state["transform"])
        self.rng.restore(state["thread"])

    def _seek(self, frame: int) -> None:
        self.capture.set(cv2.CAP_PROP_POS_FRAMES, frame)
