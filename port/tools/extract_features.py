"""extract_features: blobs of a net's passes into databases, as tools/extract_features.cpp writes them."""

import contextlib
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import h5py
import numpy as np

from port.tools.databases import new_database
from port.tools.process import CheckFailed
from port.tools.progress import log_above_bar
from port.training.caffe_log import CaffeLog
from prototxt.caffe_pb2 import TEST, Datum
from prototxt.errors import InputError
from runtime.data.new_database import NewDatabase
from weights.files import atomic_path

if TYPE_CHECKING:
    import torch

    from port.net import CaffeNet

USAGE = (
    "This program takes in a trained network and an input data layer, and then extract features of the input "
    "data produced by the net.\n"
    "Usage: extract_features  pretrained_net_param  feature_extraction_proto_file  "
    "extract_feature_blob_name1[,name2,...]  save_feature_dataset_name1[,name2,...]  num_mini_batches  db_type"
    "  [CPU/GPU] [DEVICE_ID=0]\n"
    "Note: you can extract multiple features in one pass by specifying multiple feature blob names and dataset "
    "names separated by ','. The names cannot contain white space characters and the number of blobs and "
    "datasets must be equal."
)

COMMIT = 1000
"""Items in one transaction."""

ERROR = 2
"""Caffe says what it does as errors, to be seen: its glog shows no less on stderr."""


def main(arguments: Sequence[str]) -> int:
    log = CaffeLog(threshold=ERROR)
    if len(arguments) < 6:
        log("extract_features.cpp:35", USAGE, "E")
        return 1
    weights, model, blob_names, dataset_names, batches, backend = arguments[:6]
    from port.net import CaffeNet
    from port.tools.caffe import allowed_modules

    device = _device(arguments[6:], log)
    net = CaffeNet(model, TEST, allow_modules=allowed_modules()).to(device)
    net.load_weights(weights)
    blobs, datasets = blob_names.split(","), dataset_names.split(",")
    _check_names(net, model, blobs, datasets)
    batch, left = _wanted(net, batches)
    count = -(-left // batch)
    with contextlib.ExitStack() as open_files:
        writers = [
            open_files.enter_context(_writer(backend, dataset, name, log))
            for dataset, name in zip(datasets, blobs, strict=True)
        ]
        log("extract_features.cpp:133", "Extracting Features", "E")
        with log_above_bar(log, count, "batches") as step:
            for values in itertools.islice(_passes(net, blobs, device), count):
                for writer, name in zip(writers, blobs, strict=True):
                    each = values[name].ndim and len(values[name]) == batch  # a row for each item
                    writer.add(values[name][:left] if each else values[name])
                left -= batch
                step()
        for writer in writers:
            writer.close()
    log("extract_features.cpp:181", "Successfully extracted the features!", "E")
    return 0


def _device(arguments: Sequence[str], log: CaffeLog) -> "torch.device":
    """What `[CPU/GPU] [DEVICE_ID=0]` names."""
    from port.tools.caffe import chosen_device

    if arguments[:1] != ["GPU"]:
        log("extract_features.cpp:62", "Using CPU", "E")
        return chosen_device("", log)
    gpu = arguments[1] if len(arguments) > 1 else "0"
    log("extract_features.cpp:52", "Using GPU", "E")
    log("extract_features.cpp:58", f"Using Device_id={gpu}", "E")
    return chosen_device(gpu, log)


def _check_names(net: "CaffeNet", model: str, blobs: Sequence[str], datasets: Sequence[str]) -> None:
    """Raises CheckFailed for a blob that the net lacks, or another number of data sets."""
    if len(blobs) != len(datasets):
        numbers = f"blob_names.size() == dataset_names.size() ({len(blobs)} vs. {len(datasets)})"
        told = f"Check failed: {numbers}  the number of blob names and dataset names must be equal"
        raise CheckFailed("extract_features.cpp:109", told)
    for name in blobs:
        if name not in net.plan.blobs:
            told = "Check failed: feature_extraction_net->has_blob(blob_names[i]) "
            told += f"Unknown feature blob name {name} in the network {model}"
            raise CheckFailed("extract_features.cpp:114", told)


def _wanted(net: "CaffeNet", batches: str) -> tuple[int, int]:
    """The batch size, and how many items are wanted: so many batches, or for "all" each item once."""
    batch = (net.blob_shapes[net.plan.blobs[0]] or (1,))[0] if net.plan.blobs else 1
    if batches.isdecimal():
        return batch, batch * int(batches)
    if batches != "all":
        raise InputError(f"num_mini_batches {batches!r}: must be a number of batches, or all")
    for layer in net.layers:
        if hasattr(getattr(layer, "source", None), "__len__"):
            return batch, len(layer.source)
    raise InputError("num_mini_batches all: only for a Data or ImageData layer: give a number of batches")


def _passes(
    net: "CaffeNet", blobs: Sequence[str], device: "torch.device"
) -> Iterator[Mapping[str, np.ndarray]]:
    """The blobs of one pass after the other. Inputs that no layer fills are zeros, as in Caffe."""
    import torch

    inputs = [torch.zeros(net.blob_shapes[name], device=device) for name in net.inputs]
    with torch.no_grad():
        while True:
            found = net(*inputs, blobs=blobs)
            yield {name: found[name].float().cpu().numpy() for name in blobs}


class Writer(Protocol):
    """Takes a blob, batch after batch."""

    def add(self, blob: np.ndarray) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def _writer(backend: str, dataset: str, blob: str, log: CaffeLog) -> Iterator[Writer]:
    if backend == "hdf5":
        writer = _HDF5Writer(blob, log)
        yield writer
        with atomic_path(dataset) as beside:
            beside.write_bytes(writer.file())
    else:
        log("extract_features.cpp:125", f"Opening dataset {dataset}")
        with new_database(backend, dataset, log) as database:
            yield _DatabaseWriter(database, blob, log)


class _DatabaseWriter:
    """Datum messages of floats under the keys 0000000000, 0000000001, …"""

    def __init__(self, database: NewDatabase, blob: str, log: CaffeLog):
        self.database, self.blob, self.log, self.count = database, blob, log, 0

    def add(self, blob: np.ndarray) -> None:
        """`blob`: (num, channels, height, width), or fewer axes, which count as 1."""
        if blob.ndim > 4:
            raise InputError(f"blob {self.blob} has {blob.ndim} axes: a Datum holds four at most: use hdf5")
        num, channels, height, width = (*blob.shape, 1, 1, 1, 1)[:4]
        for row in blob.reshape(num, -1):
            datum = Datum(channels=channels, height=height, width=width, float_data=row.tolist())
            self.database.put(f"{self.count:010d}".encode(), datum.SerializeToString())
            self.count += 1
            if self.count % COMMIT == 0:
                self.database.commit()
                _log_count(self.log, "extract_features.cpp:165", self.count, self.blob)

    def close(self) -> None:
        _log_count(self.log, "extract_features.cpp:176", self.count, self.blob)


class _HDF5Writer:
    """One dataset, named as the blob: its batches one after the other along the first axis.

    The file is made in memory: libhdf5 itself crashes where the disk is full.
    """

    def __init__(self, blob: str, log: CaffeLog):
        self.blob, self.log = blob, log
        self.batches: list[np.ndarray] = []

    def add(self, blob: np.ndarray) -> None:
        self.batches.append(blob if blob.ndim else blob[None])

    def close(self) -> None:
        _log_count(self.log, "extract_features.cpp:176", sum(map(len, self.batches)), self.blob)

    def file(self) -> bytes:
        """The HDF5 file's bytes."""
        image = io.BytesIO()
        with h5py.File(image, "w") as file:
            if self.batches:
                file[self.blob] = np.concatenate(self.batches)
        return image.getvalue()


def _log_count(log: CaffeLog, place: str, count: int, blob: str) -> None:
    log(place, f"Extracted features of {count} query images for feature blob {blob}", "E")
