"""convert_imageset: from a list of images to an LMDB, as tools/convert_imageset.cpp makes it."""

from collections.abc import Sequence

import cv2
import numpy as np

from port.tools.databases import new_database
from port.tools.gflags import Flag, Program
from port.tools.process import CheckFailed
from port.tools.progress import log_above_bar
from port.training.caffe_log import CaffeLog
from prototxt.caffe_pb2 import Datum
from prototxt.errors import InputError
from prototxt.files import MAX_IMAGE, read_ordinary
from runtime.data.decoding import check_count, decode_image
from runtime.data.reading import Listed, naming, read_entries
from runtime.rng import caffe_rng

PROGRAM = Program(
    "convert_imageset",
    "tools/convert_imageset.cpp",
    "Convert a set of images to the leveldb/lmdb\n"
    "format used as input for Caffe.\n"
    "Usage:\n"
    "    convert_imageset [FLAGS] ROOTFOLDER/ LISTFILE DB_NAME\n"
    "The ImageNet dataset for the training demo is at\n"
    "    http://www.image-net.org/download-images\n",
    (
        Flag("gray", False, "When this option is on, treat images as grayscale ones"),
        Flag("shuffle", False, "Randomly shuffle the order of images and their labels"),
        Flag("backend", "lmdb", "The backend {lmdb, leveldb} for storing the result"),
        Flag("resize_width", 0, "Width images are resized to"),
        Flag("resize_height", 0, "Height images are resized to"),
        Flag("check_size", False, "When this option is on, check that all the datum have the same size"),
        Flag("encoded", False, "When this option is on, the encoded image will be save in datum"),
        Flag("encode_type", "", "Optional: What type should we encode the image as ('png','jpg',...)."),
    ),
)

COMMIT = 1000
"""Images in one transaction."""


def main(arguments: Sequence[str]) -> int:
    flags, rest = PROGRAM.parse(arguments)
    if len(rest) < 3:
        print(PROGRAM.usage(), end="")
        return 1
    root, list_file, name = rest[:3]
    log = CaffeLog()
    entries = read_entries(list_file)
    if flags["shuffle"]:
        log("convert_imageset.cpp:86", "Shuffling data")
        caffe_rng().shuffle(entries)
    log("convert_imageset.cpp:89", f"A total of {len(entries)} images.")
    if flags["encode_type"] and not flags["encoded"]:
        log("convert_imageset.cpp:92", "encode_type specified, assuming encoded=true.")
    height, width = max(0, flags["resize_height"]), max(0, flags["resize_width"])
    with naming(f"--resize_height {height} --resize_width {width}"):
        check_count(height * width)
    reader = ImageReader(log, not flags["gray"], (height, width), flags["encoded"], flags["encode_type"])
    count = size = 0
    with (
        new_database(flags["backend"], name, log) as database,
        log_above_bar(log, len(entries), "images") as step,
    ):
        for position, entry in enumerate(entries):
            step()
            datum = reader.read(root, entry)
            if datum is None:
                continue
            if flags["check_size"]:
                size = _checked_size(datum, size if count else None)
            key = f"{position:08d}_{entry.name}".encode("utf-8", "surrogateescape")
            database.put(key, datum.SerializeToString())
            count += 1
            if count % COMMIT == 0:
                database.commit()
                log("convert_imageset.cpp:147", f"Processed {count} files.")
    if count % COMMIT:
        log("convert_imageset.cpp:153", f"Processed {count} files.")
    return 0


def _checked_size(datum: Datum, size: int | None) -> int:
    """The size that all share; raises CheckFailed where this one's differs."""
    if size is None:
        return datum.channels * datum.height * datum.width
    found = len(datum.data)
    if found != size:
        told = (
            f"Check failed: data.size() == data_size ({found} vs. {size}) Incorrect data field size {found}"
        )
        raise CheckFailed("convert_imageset.cpp:131", told)
    return size


class ImageReader:
    """Reads list entries into one Datum, as Caffe's ReadImageToDatum does.

    Args:
        size: (height, width) to resize to by OpenCV's bilinear rule, where both are above 0.
        encoded: store files as they are, or encoded anew where they were changed.
        encode_type: "png", "jpg", …; "": each file's own, by its name.
    """

    def __init__(self, log: CaffeLog, colour: bool, size: tuple[int, int], encoded: bool, encode_type: str):
        self.log, self.colour, self.size = log, colour, size
        self.encoded, self.encode_type = encoded, encode_type
        self.datum = Datum()  # one for all, as in Caffe: a field that is not set again keeps its value

    def read(self, root: str, entry: Listed) -> Datum | None:
        """The image, or None where it cannot be read, which the log says."""
        path = root + entry.name
        encoding = self._encoding(entry.name)
        data = _file_bytes(path)
        image = self._pixels(data)
        if image is None:
            self.log("io.cpp:80", f"Could not open or find file {path}", severity="E")
            return None
        if not encoding:
            self._store_raw(image)
        elif self._kept_as_it_is(image, path, encoding):
            self.datum.data, self.datum.encoded = data, True
        else:
            self.datum.data, self.datum.encoded = _encoded(image, encoding, path), True
        self.datum.label = entry.value
        return self.datum

    def _encoding(self, name: str) -> str:
        if self.encode_type or not self.encoded:
            return self.encode_type
        _, dot, ending = name.rpartition(".")
        if not dot:
            told = f"Failed to guess the encoding of '{name}'"
            self.log("convert_imageset.cpp:117", told, severity="W")
        return ending.lower()

    def _pixels(self, data: bytes) -> np.ndarray | None:
        """(height, width) or (height, width, 3), uint8, resized."""
        if not data:
            return None
        flag = cv2.IMREAD_COLOR if self.colour else cv2.IMREAD_GRAYSCALE
        try:
            image = decode_image(data, flag)
        except InputError:  # too many pixels
            return None
        return cv2.resize(image, self.size[::-1]) if image is not None and all(self.size) else image

    def _kept_as_it_is(self, image: np.ndarray, path: str, encoding: str) -> bool:
        # A grey image counts as what was asked for where grey was: the file may still hold colours.
        return (image.ndim == 3) == self.colour and not any(self.size) and _matches(path, encoding)

    def _store_raw(self, image: np.ndarray) -> None:
        planes = image if image.ndim == 3 else image[:, :, None]
        datum = self.datum
        datum.height, datum.width, datum.channels = planes.shape
        datum.ClearField("float_data")
        datum.encoded = False
        datum.data = planes.transpose(2, 0, 1).tobytes()


def _file_bytes(path: str) -> bytes:
    """The file's bytes; none where it cannot be read or is no ordinary file."""
    try:
        return read_ordinary(path, MAX_IMAGE)
    except OSError:
        return b""


def _matches(path: str, encoding: str) -> bool:
    """Whether a file's ending tells that encoding."""
    ending, encoding = path.rpartition(".")[2].lower(), encoding.lower()
    return ending == encoding or (encoding, ending) == ("jpg", "jpeg")


def _encoded(image: np.ndarray, encoding: str, path: str) -> bytes:
    try:
        done, data = cv2.imencode(f".{encoding}", image)
    except cv2.error:
        done = False
    if not done:
        raise InputError(f"{path}: cannot be encoded as {encoding!r}: give -encode_type png or jpg")
    return data.tobytes()
