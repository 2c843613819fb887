""".binaryproto: one array, mostly the mean image of a data set."""

import os

import numpy as np
from google.protobuf.message import DecodeError

from weights.opening import map_file, not_a
from weights.wire import WireError, blob_pieces, read_blob, write_message


def read_binaryproto(path: str | os.PathLike) -> np.ndarray:
    """The array of a BlobProto, float32 or float64 as stored; four axes where its shape is the
    older kind, five in a file of C3D 1.0.

    Raises:
        InputError: where the file is missing, cut short, or no BlobProto.
    """
    try:
        return read_blob(map_file(path))[0].copy()
    except (WireError, DecodeError) as error:
        raise not_a("binaryproto", path, error) from error


def write_binaryproto(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write one array, in the way that all that read such files understand.

    A mean image must have four axes (1, channels, height, width) for Caffe's data layers: these are written
    as `num` to `width`, as compute_image_mean does; other shapes as `shape`, as pycaffe's
    array_to_blobproto does. float64 is written as `double_data`, which Caffe reads but pycaffe's
    blobproto_to_array does not; everything else as float32.

    Raises:
        InputError: where the file cannot be written.
    """
    array = np.asarray(array)
    if array.dtype != np.float64:
        array = array.astype(np.float32)
    write_message(path, blob_pieces(array, four_numbers=array.ndim == 4))
