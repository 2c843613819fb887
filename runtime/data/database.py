"""Data's source: Datum messages in an LMDB."""

import logging
import math
import os
from typing import Any

import cv2
import numpy as np
from google.protobuf.message import DecodeError

from prototxt.caffe_pb2 import DataParameter, Datum, LayerParameter
from prototxt.errors import InputError
from runtime.data.lmdb_file import LmdbFile
from runtime.data.order import MOST_DRAWN, saved_place
from runtime.data.prefetch import Share
from runtime.data.reading import decode, naming, stack_images
from runtime.data.transformer import Transformer
from runtime.rng import CaffeRNG

log = logging.getLogger(__name__)

LEVELDB = (
    "LevelDB is not supported: make an LMDB from the images (convert_imageset -backend lmdb), "
    "and write backend: LMDB in the net"
)

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
                f"{self.param.source}: data_param.backend is LEVELDB, as it is where none is given: {LEVELDB}"
            )
        if not self.param.batch_size:
            raise InputError("data_param.batch_size: give 1 or more")
        self.transformer = self._transformer(param)
        self.transformer.seed(rng)
        self.database = open_database(self.param.source)
        self.cursor = self.database.cursor()
        if not self.cursor.first():
            raise InputError(f"{self.param.source}: holds no items")
        self.offset = 0
        with naming(self._place(self.cursor.key())):
            shape = self.transformer.shape(*self._image(self.cursor.value())[0].shape)
        self.shapes = [(self.param.batch_size, *shape), (self.param.batch_size,)][: 1 + labelled]
        self.transformer.seed(rng)  # again, and then the thread's own generator, as ImageData does
        self.thread_seed = int(rng.words(1)[0])

    def _transformer(self, param: LayerParameter) -> Transformer:
        return Transformer(param.transform_param, param.phase)

    def __len__(self) -> int:
        """How many items the database holds."""
        return len(self.database)

    def draw(self) -> Drawn:
        keys = [self._next()[0] for _ in range(self.param.batch_size)]
        return keys, self.transformer.draw(len(keys))

    def _next(self) -> tuple[bytes, bytes]:
        """The next item's key and value."""
        rank, count = self.share()
        while self.offset % count != rank:
            self._advance()
        item = self.cursor.key(), self.cursor.value()
        self._advance()
        return item

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
        self.offset = saved_place(state["offset"], MOST_DRAWN)
        self.transformer.restore(state["transform"])

    def _advance(self) -> None:
        if not self.cursor.next():
            log.info("Restarting data prefetching from start.")
            self.cursor.first()
        self.offset += 1

    def _place(self, key: bytes) -> str:
        return item_name(self.param.source, key)

    def _image(self, value: bytes | None) -> tuple[np.ndarray, int]:
        """(channels, height, width), uint8 or float32, and the label."""
        if value is None:
            raise InputError("is not found again: is the database whole, and nobody writing to it?")
        return self._decoded(parse_datum(value))

    def _decoded(self, datum: Datum) -> tuple[np.ndarray, int]:
        param, flag = self.transformer.param, cv2.IMREAD_UNCHANGED
        if param.force_color or param.force_gray:
            flag = cv2.IMREAD_COLOR if param.force_color else cv2.IMREAD_GRAYSCALE
        return datum_image(datum, flag), datum.label


def open_database(source: str) -> LmdbFile:
    """An LMDB to read.

    Raises:
        InputError: a folder that is missing or holds no LMDB.
    """
    found = [os.path.exists(os.path.join(source, name)) for name in ("CURRENT", "data.mdb")]
    if source and found == [True, False]:
        raise InputError(f"{source}: {LEVELDB}")
    return LmdbFile(source)


def item_name(source: str, key: bytes) -> str:
    """What names an item in a message."""
    return f"{source}: item {key.decode('utf-8', 'backslashreplace')}"


def parse_datum(value: bytes) -> Datum:
    """Raises InputError where an item is no Datum."""
    try:
        return Datum.FromString(value)
    except DecodeError:
        raise InputError("is no Datum message: is this a database of Caffe's?") from None


def datum_image(datum: Datum, flag: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
    """(channels, height, width), uint8 or float32.

    Args:
        flag: OpenCV's, for encoded images.

    Raises:
        InputError: an encoded image that does not decode to 8 bits, numbers that do not fill the shape.
    """
    if not datum.encoded:
        return _raw(datum)
    image = decode(datum.data, flag)
    if image is None:
        raise InputError("its encoded image does not decode")
    if image.dtype != np.uint8:
        raise InputError(f"its encoded image is {image.dtype}: it must have 8 bits, or set force_color")
    return image.transpose(2, 0, 1)


def _raw(datum: Datum) -> np.ndarray:
    shape = datum.channels, datum.height, datum.width
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if min(shape) < 1 or values.size != math.prod(shape):
        raise InputError(f"{values.size} values for (channels, height, width) {shape}")
    return values.reshape(shape)
