"""The sources of ImageData, ImageSegData and their like in forks: a list of image files."""

import zlib
from abc import abstractmethod
from typing import Any

import numpy as np

from prototxt.caffe_pb2 import ImageDataParameter, LayerParameter
from prototxt.errors import InputError
from runtime.data.order import ListOrder
from runtime.data.reading import (
    Listed,
    naming,
    read_labelled_list,
    read_labels,
    read_names,
    read_paired_list,
    read_pixels,
    stack_images,
)
from runtime.data.transformer import LabelmapTransformer, PairTransformer, Transformer
from runtime.rng import CaffeRNG

Drawn = tuple[list[Listed], list[list[int]]]


class _ListedImages:
    """What both share: the list, its order, and the draws at set-up in Caffe's order.

    Raises:
        InputError: a missing or malformed list, settings that Caffe refuses.
    """

    def __init__(self, param: LayerParameter, rng: CaffeRNG):
        self.param = param.image_data_param
        new_size = self.param.new_height, self.param.new_width
        if any(new_size) and not all(new_size):
            raise InputError("image_data_param: give new_height and new_width, or neither")
        if not self.param.batch_size:
            raise InputError("image_data_param.batch_size: give 1 or more")
        self.size = new_size if all(new_size) else None
        self.transformer = self._transformer(param)
        self.transformer.seed(rng)
        self.entries = self._read_list()
        self._names = zlib.crc32(repr(self.entries).encode("utf-8", "surrogateescape"))
        self.order = ListOrder(len(self.entries), self.param.shuffle, self.param.rand_skip, rng)
        first = self.entries[self.order.peek()]
        image = self._pixels(first.name, self.param.is_color, first)
        with naming(self._place(first)):
            shape = self.transformer.shape(image.shape[2], *image.shape[:2])
        self.shapes = [(self.param.batch_size, *shape), self._label_shape(shape)]
        self.transformer.seed(rng)  # Caffe seeds it again as it starts its thread, …
        rng.words(1)  # … whose own generator takes a seed too, though nothing here draws from it

    def __len__(self) -> int:
        """How many images are listed."""
        return len(self.entries)

    def draw(self) -> Drawn:
        entries = [self.entries[i] for i in self.order.take(self.param.batch_size)]
        return entries, self.transformer.draw(len(entries))

    def state(self) -> dict[str, Any]:
        return {"list": self._names, **self.order.state(), "transform": self.transformer.state()}

    def restore(self, state: dict[str, Any]) -> None:
        if state["list"] != self._names:
            raise InputError(
                f"{self.param.source} is not the list that the saved order is of: resume with the same list, "
                "or without the saved random state"
            )
        self.order.restore(state)
        self.transformer.restore(state["transform"])

    def items(self, drawn: Drawn) -> list[str]:
        return [self._place(entry) for entry in drawn[0]]

    def _place(self, entry: Listed) -> str:
        return f"{self.param.source}:{entry.line}: {entry.name}"

    @abstractmethod
    def _transformer(self, param: LayerParameter) -> Transformer: ...

    @abstractmethod
    def _read_list(self) -> list[Listed]: ...

    @abstractmethod
    def _label_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]: ...

    def _pixels(self, name: str, colour: bool, entry: Listed) -> np.ndarray:
        # root_folder is put before the name as it is: without a slash at its end it is a prefix.
        where = f"{self.param.source}:{entry.line}"
        return read_pixels(self.param.root_folder + name, colour, self.size, where)


class LabelledImages(_ListedImages):
    """ImageData: tops (batch, channels, height, width) and (batch,), the labels, float32."""

    def load(self, drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
        entries, words = drawn
        images = [self._load_one(entry, w) for entry, w in zip(entries, words, strict=True)]
        data = stack_images(images, self.items(drawn))
        return data, np.array([entry.value for entry in entries], np.float32)

    def _load_one(self, entry: Listed, words: list[int]) -> np.ndarray:
        image = self._pixels(entry.name, self.param.is_color, entry)
        with naming(self._place(entry)):
            return self.transformer(image.transpose(2, 0, 1), words)

    def _transformer(self, param: LayerParameter) -> Transformer:
        return Transformer(param.transform_param, param.phase)

    def _read_list(self) -> list[Listed]:
        return read_labelled_list(self.param.source)

    def _label_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.param.batch_size,)


class PairedImages(_ListedImages):
    """ImageSegData: tops (batch, channels, height, width) and (batch, 1, height, width), float32.

    As the fork's code: each list line names an image and a label image, whatever `label_type` says, and
    new_height and new_width resize label images bilinearly too.

    With one top or three it is DeepLab's and PSPNet's: top 2 is (batch, 1, 1, 2), each image's height and width, or
    the crop's where that is less; and `label_type` is obeyed. IMAGE: a line names an image and a number, which all
    its pixels have; NONE: an image alone, whose pixels have `ignore_label`.

    Args:
        palette_labels: take the indices of label images with a palette, see `read_labels`.
        tops: how many there are.
    """

    def __init__(self, param: LayerParameter, rng: CaffeRNG, palette_labels: bool = False, tops: int = 2):
        self.palette_labels = palette_labels
        self.binary = param.image_data_param.normalize
        settings = param.image_data_param
        obeyed = tops != 2 and settings.HasField("label_type")
        self.label_type = settings.label_type if obeyed else ImageDataParameter.PIXEL
        super().__init__(param, rng)
        self.shapes = [*self.shapes, (settings.batch_size, 1, 1, 2)][:tops]

    def load(self, drawn: Drawn) -> tuple[np.ndarray, ...]:
        entries, words = drawn
        pairs = [self._load_one(entry, w) for entry, w in zip(entries, words, strict=True)]
        images, labels, sizes = zip(*pairs, strict=True)
        tops = [stack_images(images, self.items(drawn)), stack_images(labels, self.items(drawn))]
        shown = np.minimum(np.array(sizes), tops[0].shape[2:]).astype(np.float32).reshape(-1, 1, 1, 2)
        return (*tops, shown)[: len(self.shapes)]

    def _load_one(self, entry: Listed, words: list[int]) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
        image = self._pixels(entry.name, self.param.is_color, entry)
        labels = self._labels(entry, image.shape[:2])
        if self.binary:
            labels = (labels >= 128).astype(np.uint8)  # v / 255, rounded into a byte
        with naming(self._place(entry)):
            assert isinstance(self.transformer, PairTransformer)
            return *self.transformer.pair(image, labels, words), image.shape[:2]

    def _labels(self, entry: Listed, size: tuple[int, ...]) -> np.ndarray:
        if self.label_type == ImageDataParameter.PIXEL:
            where = f"{self.param.source}:{entry.line}"
            name = self.param.root_folder + str(entry.value)
            return read_labels(name, self.size, where, self.palette_labels)
        value = self.param.ignore_label if self.label_type == ImageDataParameter.NONE else int(entry.value)
        return np.full(size, min(max(value, 0), 255), np.uint8)

    def _transformer(self, param: LayerParameter) -> PairTransformer:
        return PairTransformer(param.transform_param, param.phase, param.image_data_param.ignore_label)

    def _read_list(self) -> list[Listed]:
        if self.label_type == ImageDataParameter.NONE:
            return [Listed(name, "", line) for line, name in enumerate(read_names(self.param.source), 1)]
        if self.label_type == ImageDataParameter.IMAGE:
            return read_labelled_list(self.param.source)
        return read_paired_list(self.param.source)

    def _label_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.param.batch_size, 1, *shape[1:])


class LabelmapImages(PairedImages):
    """HED's ImageLabelmapData: as ImageSegData, but label images are edge maps: 1 from half of white on, else 0."""

    def __init__(self, param: LayerParameter, rng: CaffeRNG, palette_labels: bool = False):
        self.palette_labels = palette_labels
        self.binary, self.label_type = True, ImageDataParameter.PIXEL
        _ListedImages.__init__(self, param, rng)

    def _transformer(self, param: LayerParameter) -> LabelmapTransformer:
        return LabelmapTransformer(param.transform_param, param.phase)


class DenseImages:
    """SegNet's DenseImageData: tops (batch, channels, height, width) and (batch, 1, height, width), float32.

    Mirroring and crops are dense_image_data_param's own; label images are resized by the nearest pixel. The published
    code draws mirrors and crops from the process's generator in a thread of its own, in no fixed order; here they come
    from a generator that is seeded from it at set-up.

    Raises:
        InputError: a missing or malformed list, settings that the fork refuses.
    """

    def __init__(self, param: LayerParameter, rng: CaffeRNG, palette_labels: bool = False):
        self.param, self.palette_labels = param.dense_image_data_param, palette_labels
        self.size = self._pair("new_height", "new_width")
        self.crop = self._pair("crop_height", "crop_width")
        self.shapes: list[tuple[int, ...]]
        self.factor = self.param.label_divide_factor
        if not self.param.batch_size:
            raise InputError("dense_image_data_param.batch_size: give 1 or more")
        if param.transform_param.mirror or param.transform_param.crop_size:
            raise InputError(
                "DenseImageData takes mirror and crops in dense_image_data_param, not in transform_param"
            )
        if self.factor < 1 or (self.factor > 1 and (self.size is None or self.crop is not None)):
            raise InputError(
                "dense_image_data_param: label_divide_factor goes with new_height and new_width, without a crop"
            )
        self.transformer = Transformer(param.transform_param, param.phase)
        self.entries = read_paired_list(self.param.source)
        self._names = zlib.crc32(repr(self.entries).encode("utf-8", "surrogateescape"))
        self.order = ListOrder(len(self.entries), self.param.shuffle, self.param.rand_skip, rng)
        self.words = self.param.mirror + 2 * (self.crop is not None)
        self.rng = CaffeRNG(int(rng.words(1)[0])) if self.words else None
        first = self.entries[self.order.peek()]
        image, _ = self._read(first)
        height, width = self.crop or image.shape[:2]
        self.shapes = [
            (self.param.batch_size, image.shape[2], height, width),
            (self.param.batch_size, 1, height // self.factor, width // self.factor),
        ]

    def draw(self) -> Drawn:
        count = self.param.batch_size
        entries = [self.entries[i] for i in self.order.take(count)]
        words = (
            self.rng.words(count * self.words).reshape(count, self.words).tolist()
            if self.rng
            else [[]] * count
        )
        return entries, words

    def load(self, drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
        entries, words = drawn
        pairs = [self._load_one(entry, w) for entry, w in zip(entries, words, strict=True)]
        images, labels = zip(*pairs, strict=True)
        return stack_images(images, self.items(drawn)), stack_images(labels, self.items(drawn))

    def items(self, drawn: Drawn) -> list[str]:
        return [self._place(entry) for entry in drawn[0]]

    def state(self) -> dict[str, Any]:
        return {"list": self._names, **self.order.state(), "draws": self.rng and self.rng.state()}

    def restore(self, state: dict[str, Any]) -> None:
        if state["list"] != self._names or (state["draws"] is None) != (self.rng is None):
            raise InputError(f"{self.param.source}: the saved order is of another list or other settings")
        self.order.restore(state)
        if self.rng:
            self.rng.restore(state["draws"])

    def _pair(self, high: str, wide: str) -> tuple[int, int] | None:
        sizes = getattr(self.param, high), getattr(self.param, wide)
        if any(sizes) and not all(sizes):
            raise InputError(f"dense_image_data_param: give {high} and {wide}, or neither")
        return sizes if all(sizes) else None

    def _place(self, entry: Listed) -> str:
        return f"{self.param.source}:{entry.line}: {entry.name}"

    def _read(self, entry: Listed) -> tuple[np.ndarray, np.ndarray]:
        where = f"{self.param.source}:{entry.line}"
        image = read_pixels(self.param.root_folder + entry.name, self.param.is_color, self.size, where)
        size = self.size and (self.size[0] // self.factor, self.size[1] // self.factor)
        name = self.param.root_folder + str(entry.value)
        labels = read_labels(name, size, where, self.palette_labels, nearest=True)
        with naming(self._place(entry)):
            if self.factor == 1 and image.shape[:2] != labels.shape:
                raise InputError(
                    f"an image of {image.shape[:2]} (height, width), a label image of {labels.shape}"
                )
            if self.crop and any(n < crop for n, crop in zip(labels.shape, self.crop, strict=True)):
                raise InputError(f"{labels.shape} (height, width) is smaller than the crop, {self.crop}")
        return image, labels

    def _load_one(self, entry: Listed, words: list[int]) -> tuple[np.ndarray, np.ndarray]:
        image, labels = self._read(entry)
        if self.param.mirror and words[0] % 2:
            image, labels = image[:, ::-1], labels[:, ::-1]
        if self.crop:
            rows, columns = (
                slice(word % (n - crop + 1), word % (n - crop + 1) + crop)
                for word, n, crop in zip(words[-2:], labels.shape, self.crop, strict=True)
            )
            image, labels = image[rows, columns], labels[rows, columns]
        with naming(self._place(entry)):
            values = self.transformer(image.transpose(2, 0, 1), [])
        return values, labels[None].astype(np.float32)
