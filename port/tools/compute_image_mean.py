"""compute_image_mean: the mean image of an LMDB, as tools/compute_image_mean.cpp computes it."""

from collections.abc import Sequence

import numpy as np

from port.tools.databases import check_backend
from port.tools.gflags import Flag, Program
from port.tools.process import CheckFailed
from port.tools.progress import log_above_bar
from port.training.caffe_log import CaffeLog, number
from prototxt.errors import InputError
from runtime.data.database import datum_image, item_name, open_database, parse_datum
from runtime.data.reading import naming
from weights import write_binaryproto

PROGRAM = Program(
    "compute_image_mean",
    "tools/compute_image_mean.cpp",
    "Compute the mean_image of a set of images given by a leveldb/lmdb\n"
    "Usage:\n"
    "    compute_image_mean [FLAGS] INPUT_DB [OUTPUT_FILE]\n",
    (Flag("backend", "lmdb", "The backend {leveldb, lmdb} containing the images"),),
)

TOLD = 10_000
"""Images between two lines of the log."""


def main(arguments: Sequence[str]) -> int:
    flags, rest = PROGRAM.parse(arguments)
    if len(rest) not in (1, 2):
        print(PROGRAM.usage(), end="")
        return 1
    log = CaffeLog()
    check_backend(flags["backend"])
    mean = mean_image(rest[0], log)
    if len(rest) == 2:
        log("compute_image_mean.cpp:108", f"Write to {rest[1]}")
        write_binaryproto(rest[1], mean[None])
    log("compute_image_mean.cpp:114", f"Number of channels: {len(mean)}")
    for channel, plane in enumerate(mean):
        total = np.cumsum(plane, dtype=np.float32)[-1]  # one after the other, as Caffe adds
        value = number(total / np.float32(plane.size))
        log("compute_image_mean.cpp:119", f"mean_value channel [{channel}]: {value}")
    return 0


def mean_image(source: str, log: CaffeLog) -> np.ndarray:
    """(channels, height, width) float32, summed in float32 in the order of the keys.

    Raises:
        InputError: a database that is missing or empty, images of unlike sizes.
    """
    database = open_database(source)
    log("db_lmdb.cpp:35", f"Opened lmdb {source}")
    total, count = None, 0
    with log_above_bar(log, len(database), "images") as step:
        for key, value in database:
            with naming(item_name(source, key)):
                datum = parse_datum(value)
                image = datum_image(datum)
            if total is None:
                if datum.encoded:
                    log("compute_image_mean.cpp:57", "Decoding Datum")
                log("compute_image_mean.cpp:70", "Starting iteration")
                total = np.zeros(image.shape, np.float32)
            if image.size != total.size:
                sizes = f"size_in_datum == data_size ({image.size} vs. {total.size})"
                told = f"Check failed: {sizes} Incorrect data field size {image.size}"
                raise CheckFailed("compute_image_mean.cpp:79", told)
            total += image.reshape(total.shape)
            count += 1
            if count % TOLD == 0:
                log("compute_image_mean.cpp:95", f"Processed {count} files.")
            step()
    if total is None:
        raise InputError(f"{source}: holds no items")
    if count % TOLD:
        log("compute_image_mean.cpp:101", f"Processed {count} files.")
    return total / np.float32(count)
