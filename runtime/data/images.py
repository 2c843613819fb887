"""ImageData's and ImageSegData's source: a list of image files."""

import zlib
from abc import abstractmethod
from typing import Any

import numpy as np

from prototxt.caffe_pb2 import LayerParameter
from prototxt.errors import InputError
from runtime.data.order import ListOrder
from runtime.data.reading import (
    Listed,
    naming,
    read_labelled_list,
    read_labels,
    read_paired_list,
    read_pixels,
    stack_images,
)
from runtime.data.transformer import PairTransformer, Transformer
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

    Args:
        palette_labels: take the indices of label images with a palette, see `read_labels`.
    """

    def __init__(self, param: LayerParameter, rng: CaffeRNG, palette_labels: bool = False):
        self.palette_labels = palette_labels
        super().__init__(param, rng)

    def load(self, drawn: Drawn) -> tuple[np.ndarray, np.ndarray]:
        entries, words = drawn
        pairs = [self._load_one(entry, w) for entry, w in zip(entries, words, strict=True)]
        images, labels = zip(*pairs, strict=True)
        return stack_images(images, self.items(drawn)), stack_images(labels, self.items(drawn))

    def _load_one(self, entry: Listed, words: list[int]) -> tuple[np.ndarray, np.ndarray]:
        image = self._pixels(entry.name, self.param.is_color, entry)
        where = f"{self.param.source}:{entry.line}"
        labels = read_labels(self.param.root_folder + str(entry.value), self.size, where, self.palette_labels)
        if self.param.normalize:
            labels = (labels >= 128).astype(np.uint8)  # v / 255, rounded into a byte
        with naming(self._place(entry)):
            return self.transformer.pair(image, labels, words)

    def _transformer(self, param: LayerParameter) -> PairTransformer:
        return PairTransformer(param.transform_param, param.phase, param.image_data_param.ignore_label)

    def _read_list(self) -> list[Listed]:
        return read_paired_list(self.param.source)

    def _label_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.param.batch_size, 1, *shape[1:])
