"""What is tried with broken files: for each kind whole ones to begin with, and everything that reads them."""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import scipy.io
import torch

import port.pycaffe
import reference.pycaffe
from parity_tests.fuzz import settings as net_settings
from parity_tests.fuzz.edits import Edit, broken
from parity_tests.recordings import GOLDEN
from port.caffe_layers.voc_data import VocImages, settings_of
from port.images import read_image
from port.net import CaffeNet
from port.training.loop import check_solver
from port.training.snapshots import _sealed, _unsealed
from port.voc.label_images import read_label_image, read_map
from port.voc.lists import read_entries, read_names
from prototxt.caffe_pb2 import TEST, TRAIN, Datum
from prototxt.errors import InputError
from prototxt.limits import set_max_memory
from prototxt.plan import plan_net
from prototxt.read import parse_net, read_net, read_solver
from runtime.data.database import DatabaseImages
from runtime.data.lmdb_file import LmdbFile
from runtime.data.mat import MatBlobs
from runtime.data.output import no_output_files
from runtime.data.prefetch import whole
from runtime.data.reading import read_labelled_list, read_paired_list, read_pixels
from runtime.data.reading import read_names as read_file_names
from runtime.data.windows import ImageWindows
from runtime.rng import CaffeRNG
from weights import read_binaryproto, read_solverstate, read_weights, write_solverstate, write_weights
from weights.tensors import read_safetensors_metadata

FORMATS = GOLDEN / "formats"
_MOST_VALUES = 1 << 16  # of a net that is run: what is tried is not its size
_MOST_MEMORY = 1 << 26


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        seeds: whole files, from which broken ones are made.
        attempt: reads a file; may raise InputError, and nothing else.
        suffix: of the file.
        breaks: makes a broken file of a whole one.
    """

    seeds: Callable[[], list[bytes]]
    attempt: Callable[[Path], object]
    suffix: str = ""
    is_text: bool = False
    breaks: Callable[[bytes, Sequence[Edit], bool], bytes] = broken


def _files(*patterns: str) -> Callable[[], list[bytes]]:
    return lambda: [path.read_bytes() for pattern in patterns for path in sorted(FORMATS.glob(pattern))]


def _converted(suffix: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"w{suffix}"
            write_weights(path, read_weights(FORMATS / "v2.caffemodel"))
            return [path.read_bytes()]

    return seeds


def _weights(path: Path) -> None:
    """Read, and what could be read must be written and read again."""
    read_weights(path, with_empty=True)
    layers = read_weights(path)
    for suffix in (".caffemodel", ".h5", ".safetensors"):
        again = path.with_name(f"again{suffix}")
        with contextlib.suppress(InputError):
            write_weights(again, layers)
            read_weights(again)


def _safetensors(path: Path) -> None:
    read_safetensors_metadata(path)
    _weights(path)


def _state(path: Path) -> None:
    state = read_solverstate(path)
    for suffix in ("", ".h5"):
        again = path.with_name(f"again.solverstate{suffix}")
        write_solverstate(again, state)
        read_solverstate(again)


def _each(*readers: Callable[[Path], object]) -> Callable[[Path], None]:
    def attempt(path: Path) -> None:
        for reader in readers:
            with contextlib.suppress(InputError):
                reader(path)

    return attempt


def _mats() -> list[bytes]:
    """Weights, and what MatRead reads; as they are written and packed as MATLAB packs."""
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    files = [io.BytesIO(), io.BytesIO()]
    for file, packed in zip(files, (False, True), strict=True):
        scipy.io.savemat(file, {"data": data, "text": "a"}, do_compression=packed)
    return [*_converted(".mat")(), *(file.getvalue() for file in files)]


def _mat(path: Path) -> None:
    path.with_name("list.txt").write_text("x\n")
    path.with_name("x_blob_0.mat").write_bytes(path.read_bytes())
    net = parse_net('layer { name: "d" type: "MatRead" top: "d" }')
    param = net.layer[0].mat_read_param
    param.source, param.prefix, param.batch_size = str(path.with_name("list.txt")), f"{path.parent}/", 2
    with contextlib.suppress(InputError):
        source = MatBlobs(net.layer[0], 1)
        source.load(source.draw())
    _weights(path)


def _windows(path: Path) -> None:
    net = parse_net('layer { name: "d" type: "WindowData" top: "d" top: "l" }')
    param = net.layer[0]
    param.window_data_param.source, param.window_data_param.batch_size = str(path), 4
    param.transform_param.crop_size = 7
    source = ImageWindows(param, CaffeRNG(1))
    source.load(source.draw())


def _voc_list(path: Path) -> None:
    settings = settings_of(repr({"list": str(path), "size": 8}), InputError)
    images = VocImages(settings, error=InputError)
    images.load(images.draw())


def _images() -> list[bytes]:
    pixels = np.random.RandomState(0).randint(0, 256, (9, 11, 3), np.uint8)
    kinds = [(kind, pixels) for kind in (".png", ".jpg", ".bmp", ".webp", ".tiff", ".ppm")]
    encoded = [cv2.imencode(kind, image)[1].tobytes() for kind, image in [*kinds, (".png", pixels[:, :, 0])]]
    label = next((GOLDEN / "seg_train_run" / "labels").glob("*.png"))
    return [*encoded, label.read_bytes()]


def _lmdb() -> list[bytes]:
    import lmdb

    found = []
    for count, size in ((30, 60), (40, 6000)):
        with tempfile.TemporaryDirectory() as folder:
            with lmdb.open(folder, map_size=1 << 22) as environment, environment.begin(write=True) as writing:
                for i in range(count):
                    writing.put(b"%08d" % i, _datum(size).SerializeToString())
            found.append((Path(folder) / "data.mdb").read_bytes())
    return found


def _datum(size: int) -> Datum:
    return Datum(channels=1, height=1, width=size, data=bytes(size), label=1)


def _read_database(path: Path) -> None:
    folder = path.with_name("db")
    folder.mkdir(exist_ok=True)
    path.replace(folder / "data.mdb")
    net = parse_net(
        'layer { name: "d" type: "Data" top: "d" top: "l" data_param { batch_size: 3 backend: LMDB } }'
    )
    net.layer[0].data_param.source = str(folder)
    _each(lambda _: _all_items(folder))(path)
    source = DatabaseImages(net.layer[0], True, whole, CaffeRNG(1))
    for _ in range(4):
        source.load(source.draw())


def _all_items(folder: Path) -> None:
    cursor = LmdbFile(str(folder)).cursor()
    there, left = cursor.first(), 1000
    while there and left:
        cursor.value()
        there, left = cursor.next(), left - 1


def _datums() -> list[bytes]:
    image = _images()[0]
    return [
        _datum(12).SerializeToString(),
        Datum(channels=2, height=2, width=1, float_data=[1, 2, 3, 4]).SerializeToString(),
        Datum(data=image, encoded=True, label=7).SerializeToString(),
    ]


def _read_datum(path: Path) -> None:
    net = parse_net('layer { name: "d" type: "Data" top: "d" transform_param { scale: 0.5 } }')
    from runtime.data.transformer import Transformer

    reader = DatabaseImages.__new__(DatabaseImages)
    reader.transformer = Transformer(net.layer[0].transform_param, TEST)
    image, _ = reader._image(path.read_bytes())
    reader.transformer(image, [])


def _sidecars() -> list[bytes]:
    return [json.dumps(CaffeRNG(1).state()).encode(), _sealed({"ranks": [{"random": CaffeRNG(2).state()}]})]


def _read_sidecar(path: Path) -> None:
    """Sealed text, and what may be forged behind a seal that fits."""
    with contextlib.suppress(ValueError, RecursionError):
        _unsealed(path.read_bytes())
    with contextlib.suppress(ValueError, RecursionError, TypeError, KeyError, OverflowError):
        generator = CaffeRNG(1)
        generator.restore(json.loads(path.read_bytes()))
        generator.words(700)


def _solver(path: Path) -> None:
    check_solver(read_solver(path), str(path))


def _nets() -> list[bytes]:
    """The recorded layers' nets."""
    recorded = json.loads((GOLDEN / "layers.json").read_text())
    return [case["prototxt"].encode() for case in recorded if len(case["prototxt"]) < 3000]


def _plan(path: Path) -> None:
    for phase in (TRAIN, TEST):
        with contextlib.suppress(InputError):
            plan_net(read_net(path), phase, where=str(path))


def run_engines(path: Path) -> None:
    """Both engines run what the plan takes, as far as it is small, forward and backward."""
    set_max_memory(_MOST_MEMORY)
    with no_output_files(), contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(InputError):
        net = CaffeNet(str(path), TEST)
        shapes = net.blob_shapes
        if sum(np.prod(shape, dtype=float) for shape in shapes.values()) > _MOST_VALUES:
            return
        with torch.inference_mode():
            net(*(torch.zeros(shapes[name]) for name in net.inputs))
    for make in (reference.pycaffe.Net, port.pycaffe.Net):
        with no_output_files(), contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(InputError):
            engine = make(str(path), TEST)
            engine.forward()
            engine.backward()


def _data_layers(path: Path) -> None:
    if not (path.parent / "list.txt").exists():
        net_settings.write_files(path.parent)
    run_engines(path)


TARGETS = {
    "caffemodel": Target(_files("v*.caffemodel", "solver_iter_3.caffemodel"), _weights, ".caffemodel"),
    "hdf5": Target(_files("*.caffemodel.h5"), _weights, ".h5"),
    "safetensors": Target(_converted(".safetensors"), _safetensors, ".safetensors"),
    "pth": Target(_converted(".pth"), _weights, ".pth"),
    "npz": Target(_converted(".npz"), _weights, ".npz"),
    "mat": Target(_mats, _mat, ".mat"),
    "solverstate": Target(_files("*.solverstate"), _state, ".solverstate"),
    "solverstate.h5": Target(_files("*.solverstate.h5"), _state, ".h5"),
    "binaryproto": Target(_files("*.binaryproto"), read_binaryproto, ".binaryproto"),
    "lmdb": Target(_lmdb, _read_database, ".mdb"),
    "datum": Target(_datums, _read_datum),
    "image": Target(
        _images,
        _each(
            lambda path: read_image(path, to_bgr=True),
            read_label_image,
            lambda path: read_map(path, "map", "make it"),
            lambda path: read_pixels(str(path), True, (5, 5), "list:1"),
        ),
        ".png",
    ),
    "list": Target(
        lambda: [
            b"a.png 1\nb.png 2\n\n c.png -3\n",
            b"a.png a_label.png\nb.png b_label.png\n",
            b"2007_01 3 14\nb 0\n",
        ],
        _each(
            lambda path: read_labelled_list(str(path)),
            lambda path: read_paired_list(str(path)),
            lambda path: read_file_names(str(path)),
            read_entries,
            read_names,
            _voc_list,
        ),
        ".txt",
        is_text=True,
    ),
    "windows": Target(
        lambda: [
            b"# 0 /x.png 3 20 20 2\n1 0.9 1 2 10 12\n2 0.1 3 3 8 9\n# 1 /y.png 3 9 9 1\n0 0.0 0 0 5 5\n"
        ],
        _windows,
        ".txt",
        is_text=True,
    ),
    "sidecar": Target(_sidecars, _read_sidecar, ".json", is_text=True),
    "solver": Target(_files("solver.prototxt"), _solver, ".prototxt", is_text=True),
    "plan": Target(_nets, _plan, ".prototxt", is_text=True),
    "engines": Target(_nets, run_engines, ".prototxt", is_text=True),
    "data": Target(net_settings.data_nets, _data_layers, ".prototxt", breaks=net_settings.with_settings),
    "settings": Target(net_settings.nets, run_engines, ".prototxt", breaks=net_settings.with_settings),
}
