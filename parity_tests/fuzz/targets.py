"""What is tried with broken files: for each kind whole ones to begin with, and everything that reads them."""

import contextlib
import importlib.util
import io
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import scipy.io
import torch
from google.protobuf import text_format

import port.pycaffe
import prototxt
import reference.pycaffe
from parity_tests.fuzz import settings as net_settings
from parity_tests.fuzz.edits import Edit, broken
from parity_tests.recordings import GOLDEN
from port.caffe_layers.voc_data import VocImages, settings_of
from port.export.run import run_export
from port.export.settings import ExportSettings
from port.images import read_image
from port.net import CaffeNet
from port.training.loop import check_solver
from port.training.snapshots import _sealed, _unsealed
from port.translate.run import run_translate
from port.translate.settings import TranslateSettings
from port.voc.label_images import read_label_image, read_map
from port.voc.lists import read_entries, read_names
from prototxt.caffe_pb2 import TEST, TRAIN, Datum, V1LayerParameter
from prototxt.errors import InputError
from prototxt.limits import set_max_memory
from prototxt.plan import plan_net
from prototxt.proto_file import read_proto
from prototxt.read import parse_net, read_net, read_solver
from prototxt.text import message_text
from prototxt.upgrade import V0_TYPES
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
        is_slow: a case takes a second; a tenth of the cases are tried.
    """

    seeds: Callable[[], list[bytes]]
    attempt: Callable[[Path], object]
    suffix: str = ""
    is_text: bool = False
    breaks: Callable[[bytes, Sequence[Edit], bool], bytes] = broken
    is_slow: bool = False


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


def _old_nets() -> list[bytes]:
    """Nets of version 0 and 1: whole ones, and a layer of each type that these had."""
    inputs = 'input: "data" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 5 input: "label" input_dim: 2 '
    inputs += "input_dim: 1 input_dim: 1 input_dim: 1 "
    new = (
        'bottom: "data" top: "y" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 param: "w" include { phase: TEST } '
    )
    old = "num_output: 4 kernelsize: 3 pad: 1 stride: 2 pool: AVE local_size: 3 blobs_lr: 1 weight_decay: 0"
    layers = [
        *(
            f'layers {{ name: "l" type: {kind} {new} }}'
            for kind in V1LayerParameter.LayerType.DESCRIPTOR.values_by_name
        ),
        *(
            f'layers {{ name: "l" type: {kind} bottom: "label" {new} }}'
            for kind in ("ELTWISE", "SOFTMAX_LOSS")
        ),
        *(
            f'layers {{ layer {{ name: "l" type: "{kind}" {old} }} bottom: "data" top: "y" }}'
            for kind in V0_TYPES
        ),
    ]
    whole = [FORMATS / "v0.prototxt", FORMATS / "v1.prototxt", GOLDEN / "tools" / "v1.prototxt"]
    return [*(path.read_bytes() for path in whole), *((inputs + layer).encode() for layer in layers)]


def _upgrade(path: Path) -> None:
    """What an old net becomes is read again as itself, but for comments."""
    text = message_text(read_net(path))
    if "# " not in text and message_text(parse_net(text)) != text:
        raise AssertionError("an upgraded net is not read as it was written")
    _plan(path)


def _protos() -> list[bytes]:
    """Parts of Caffe's own schema, and one that has what that lacks."""
    text = (Path(prototxt.__file__).parent / "caffe.proto").read_text()
    parts = re.split(r"\n(?=message |enum )", text)
    return [*(part.encode() for part in parts if len(part) < 3000), _PROTO.encode()]


_PROTO = """
syntax = "proto2"; package own.nets; import "other.proto";
option optimize_for = SPEED;
message LayerParameter {
  optional string name = 1 [default = "a\\n\\x41", deprecated = true];
  oneof kind { double slope = 2; int32 count = 3; }
  map<string, Inner> named = 4;
  repeated group Part = 5 { required sint64 size = 1 [default = -0x1F]; }
  message Inner { repeated float values = 1 [packed = true]; optional Mode mode = 2 [default = FAST]; }
  enum Mode { option allow_alias = true; SLOW = 0; FAST = 1; QUICK = 1; }
  reserved 6, 8 to 10; reserved "old"; extensions 100 to max;
  optional .own.nets.LayerParameter.Inner inner = 7;
}
service Nets { rpc Run (LayerParameter) returns (LayerParameter); }
"""


def _proto(path: Path) -> None:
    path.with_name("other.proto").write_text("message Other { optional bool on = 1; }")
    for kind in read_proto(path).values():
        text_format.Parse(text_format.MessageToString(kind()), kind())


def _small_net(path: Path) -> CaffeNet | None:
    """The net, where it is small: what is tried is not its size."""
    set_max_memory(_MOST_MEMORY)
    net = CaffeNet(str(path), TEST)
    return net if sum(np.prod(shape, dtype=float) for shape in net.plan.shapes) <= _MOST_VALUES else None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with (
        no_output_files(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        yield


def run_engines(path: Path) -> None:
    """Both engines run what the plan takes, as far as it is small, forward and backward."""
    with _quietly(), contextlib.suppress(InputError):
        net = _small_net(path)
        if net is None:
            return
        shapes = net.blob_shapes
        with torch.inference_mode():
            net(*(torch.zeros(shapes[name]) for name in net.inputs))
    for make in (reference.pycaffe.Net, port.pycaffe.Net):
        with _quietly(), contextlib.suppress(InputError):
            engine = make(str(path), TEST)
            engine.forward()
            engine.backward()


def _onnx_nets() -> list[bytes]:
    """The settings' nets, once a net was exported: what that imports is not what a case takes."""
    found = net_settings.nets()
    if all(importlib.util.find_spec(package) for package in ("onnx", "onnxscript", "onnxruntime")):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.prototxt"
            path.write_bytes(net_settings.net('type: "ReLU"', (2, 3)).encode())
            _export(path)
    return found


def _export(path: Path) -> None:
    """Export, as `seenet export --onnx`: what is written passes ONNX's checker and runs in ONNX Runtime."""
    with _quietly():
        net = _small_net(path)
        if net is None:
            return
        weights = path.with_name("weights.caffemodel")
        net.save(weights)
        run_export(ExportSettings(weights=weights, files={"onnx": path.with_name("net.onnx")}, prototxt=path))


def _translate(path: Path) -> None:
    """Translate: what is written is imported, and held against the net."""
    with _quietly(), tempfile.TemporaryDirectory() as folder:
        if _small_net(path) is not None:
            run_translate(TranslateSettings(prototxt=path, out=Path(folder) / "out"))


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
    "old": Target(_old_nets, _upgrade, ".prototxt", is_text=True),
    "proto": Target(_protos, _proto, ".proto", is_text=True),
    "engines": Target(_nets, run_engines, ".prototxt", is_text=True),
    "data": Target(net_settings.data_nets, _data_layers, ".prototxt", breaks=net_settings.with_settings),
    "settings": Target(net_settings.nets, run_engines, ".prototxt", breaks=net_settings.with_settings),
    "translate": Target(net_settings.nets, _translate, ".prototxt", breaks=net_settings.with_settings),
    "onnx": Target(_onnx_nets, _export, ".prototxt", breaks=net_settings.with_settings, is_slow=True),
}
