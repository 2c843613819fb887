"""Data's source: Datum messages in an LMDB."""

import math
from typing import Any

import cv2
import numpy as np
from google.protobuf.message import DecodeError

from prototxt.caffe_pb2 import DataParameter, Datum, LayerParameter
from prototxt.errors import InputError
from runtime.data.lmdb_file import LmdbFile
from runtime.data.prefetch import Share
from runtime.data.reading import decode, naming, stack_images
from runtime.data.transformer import Transformer
from runtime.rng import CaffeRNG

Drawn = tuple[list[bytes], list[list[int]]]


class DatabaseImages:
    """Data: tops (batch, channels, height, width) and, where asked for, (batch,), the labels; float32.

    Read in key order, around and around; of several ranks, each reads every count-th item.

    Raises:
        InputError: a database that is missing, of another kind, or holds something else than images.
    """

    def __init__(self, param: LayerParameter, labelled: bool, share: Share, rng: CaffeRNG):
        self.param, self.labelled, self.share = param.data_param, labelled, share
        if self.param.backend != DataParameter.LMDB:
            raise InputError(
                f"{self.param.source}: LEVELDB (data_param.backend's default) is not carried: "
                "convert it to an LMDB and say backend: LMDB"
            )
        if not self.param.batch_size:
            raise InputError("data_param.batch_size: give 1 or more")
        self.transformer = Transformer(param.transform_param, param.phase)
        self.transformer.seed(rng)
        self.database = LmdbFile(self.param.source)
        self.cursor = self.database.cursor()
        if not self.cursor.first():
            raise InputError(f"{self.param.source}: holds no items")
        self.offset = 0
        with naming(self._place(self.cursor.key())):
            shape = self.transformer.shape(*self._image(self.cursor.value())[0].shape)
        self.shapes = [(self.param.batch_size, *shape), (self.param.batch_size,)][: 1 + labelled]
        self.transformer.seed(rng)  # again, and then the thread's own generator, as ImageData does
        rng.words(1)

    def draw(self) -> Drawn:
        keys = []
        for _ in range(self.param.batch_size):
            rank, count = self.share()
            while self.offset % count != rank:
                self._advance()
            keys.append(self.cursor.key())
            self._advance()
        return keys, self.transformer.draw(len(keys))

    def load(self, drawn: Drawn) -> tuple[np.ndarray, ...]:
        images, labels = [], []
        for key, words in zip(*drawn, strict=True):
            with naming(self._place(key)):
                image, label = self._image(self.database.get(key))
                images.append(self.transformer(image, words))
                labels.append(label)
        data = stack_images(images, self.items(drawn))
        return (data, np.array(labels, np.float32))[: 1 + self.labelled]

    def items(self, drawn: Drawn) -> list[str]:
        return [self._place(key) for key in drawn[0]]

    def state(self) -> dict[str, Any]:
        return {
            "key": self.cursor.key().hex(),
            "offset": self.offset,
            "transform": self.transformer.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Raises InputError where the database lacks the item to go on with."""
        if not self.cursor.set_key(bytes.fromhex(state["key"])):
            raise InputError(
                f"{self.param.source} has no item {bytes.fromhex(state['key'])!r}, with which the saved "
                "state goes on: resume with the same database, or without the saved random state"
            )
        self.offset = int(state["offset"])
        self.transformer.restore(state["transform"])

    def _advance(self) -> None:
        if not self.cursor.next():
            self.cursor.first()
        self.offset += 1

    def _place(self, key: bytes) -> str:
        return f"{self.param.source}: item {key.decode('utf-8', 'backslashreplace')}"

    def _image(self, value: bytes | None) -> tuple[np.ndarray, int]:
        """(channels, height, width), uint8 or float32, and the label."""
        if value is None:
            raise InputError("is not found again: is the database whole, and nobody writing to it?")
        try:
            datum = Datum.FromString(value)
        except DecodeError:
            raise InputError("is no Datum message: is this a database of Caffe's?") from None
        return (self._decoded(datum) if datum.encoded else _raw(datum)), datum.label

    def _decoded(self, datum: Datum) -> np.ndarray:
        param = self.transformer.param
        flag = cv2.IMREAD_UNCHANGED
        if param.force_color or param.force_gray:
            flag = cv2.IMREAD_COLOR if param.force_color else cv2.IMREAD_GRAYSCALE
        image = decode(datum.data, flag)
        if image is None:
            raise InputError("its encoded image does not decode")
        if image.dtype != np.uint8:
            raise InputError(f"its encoded image is {image.dtype}: 8 bits are due, or force_color")
        return image.transpose(2, 0, 1)


def _raw(datum: Datum) -> np.ndarray:
    shape = datum.channels, datum.height, datum.width
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if min(shape) < 1 or values.size != math.prod(shape):
        raise InputError(f"{values.size} values for (channels, height, width) {shape}")
    return values.reshape(shape)
