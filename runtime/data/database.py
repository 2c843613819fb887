"""Data's source: Datum messages in an LMDB."""

import os
import weakref
from typing import Any

import cv2
import numpy as np
from google.protobuf.message import DecodeError

from prototxt.caffe_pb2 import DataParameter, Datum, LayerParameter
from prototxt.errors import InputError, need_packages
from runtime.data.prefetch import Share
from runtime.data.reading import decode, naming, stack_images
from runtime.data.transformer import Transformer
from runtime.rng import CaffeRNG

_open_ones: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
"""LMDB environments by path: a process may open each only once, and two layers may read the same."""

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
        self.transformer = self._transformer(param)
        self.transformer.seed(rng)
        self.environment = _open(self.param.source)
        self.cursor = self.environment.begin().cursor()
        if not self.cursor.first():
            raise InputError(f"{self.param.source}: holds no items")
        self.offset = 0
        key, value = self.cursor.item()
        with naming(self._place(key)):
            shape = self.transformer.shape(*self._image(value)[0].shape)
        self.shapes = [(self.param.batch_size, *shape), (self.param.batch_size,)][: 1 + labelled]
        self.transformer.seed(rng)  # again, and then the thread's own generator, as ImageData does
        self.thread_seed = int(rng.words(1)[0])

    def _transformer(self, param: LayerParameter) -> Transformer:
        return Transformer(param.transform_param, param.phase)

    def draw(self) -> Drawn:
        keys = [self._next()[0] for _ in range(self.param.batch_size)]
        return keys, self.transformer.draw(len(keys))

    def _next(self) -> tuple[bytes, bytes]:
        """The next item's key and value."""
        rank, count = self.share()
        while self.offset % count != rank:
            self._advance()
        item = self.cursor.item()
        self._advance()
        return item

    def load(self, drawn: Drawn) -> tuple[np.ndarray, ...]:
        images, labels = [], []
        with self.environment.begin() as reading:
            for key, words in zip(*drawn, strict=True):
                with naming(self._place(key)):
                    image, label = self._image(reading.get(key))
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
        self.offset = state["offset"]
        self.transformer.restore(state["transform"])

    def _advance(self) -> None:
        if not self.cursor.next():
            self.cursor.first()
        self.offset += 1

    def _place(self, key: bytes) -> str:
        return f"{self.param.source}: item {key.decode('utf-8', 'backslashreplace')}"

    def _image(self, value: bytes) -> tuple[np.ndarray, int]:
        """(channels, height, width), uint8 or float32, and the label."""
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
    if min(shape) < 1 or values.size != np.prod(shape):
        raise InputError(f"{values.size} values for (channels, height, width) {shape}")
    return values.reshape(shape)


def _open(source: str) -> Any:
    """The LMDB environment."""
    need_packages(
        "lmdb",
        purpose="reading an LMDB",
        install='pip install "seenet-caffe[lmdb]"',
        otherwise=" (or pip install lmdb)",
    )
    import lmdb

    if not os.path.isdir(source):
        raise InputError(f"{source or 'data_param.source'}: no such folder: give the one with data.mdb in it")
    try:
        path = os.path.realpath(source)
        environment = _open_ones.get(path) or lmdb.open(path, readonly=True, lock=False, create=False)
        _open_ones[path] = environment
    except lmdb.Error as error:
        raise InputError(f"{source}: is no LMDB that can be read ({error})") from error
    return environment
