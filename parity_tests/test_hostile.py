"""Hostile and broken files: one line that names them, nothing written, nothing read that was not named."""

import contextlib
import io
import json
import math
import os
import pickle
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
import h5py
import numpy as np
import pytest
import scipy.io
import torch
from matplotlib.figure import Figure

from parity_tests.bench.timing import Timing
from parity_tests.recordings import GOLDEN
from port.attention.settings import parse_shard
from port.caffe_layers.voc_data import VocImages, settings_of
from port.last_resort import run_command
from port.ranks import joined_ranks
from port.report.pages import table
from port.tools.resize_and_crop_images import main as resize_images
from port.training.caffe_log import CaffeLog
from port.training.snapshots import SIDECAR, _sealed, _unsealed, check_prefix, only_run
from port.voc.classes import class_index
from port.voc.lists import read_entries, read_names
from port.voc.saliency import make_saliency
from port.voc.segment import Segmenting, segment_dataset
from port.voc.stages import _newest_whole
from port.voc.study_design import read_design
from prototxt.errors import InputError, figure_text, printable
from prototxt.files import open_ordinary, read_ordinary
from prototxt.plan import plan_net
from prototxt.read import parse_net
from runtime.c_random import CRandom
from runtime.data.detections import _names, read_sizes
from runtime.data.lmdb_file import LmdbFile
from runtime.data.mat import MatBlobs
from runtime.data.order import saved_order, saved_place
from runtime.data.reading import read_labelled_list, read_pixels
from runtime.data.reading import read_names as read_file_names
from runtime.data.video import open_video
from runtime.pycaffe.draw import net_graph
from runtime.python_layer import load_modules
from runtime.rng import CaffeRNG
from weights import LayerWeights, read_solverstate, read_weights, write_solverstate, write_weights
from weights.arrays import read_mat, read_npz
from weights.files import atomic_path, only_writer, remove_partial
from weights.tensors import read_safetensors

ROOT = Path(__file__).parents[1]
FORMATS = GOLDEN / "formats"
SMALL = ROOT / "weights" / "shapes" / "seenet.caffemodel"
MEGABYTE = 1 << 20


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails a test that hangs, instead of waiting for it."""

    def late(number: int, frame: object) -> None:
        raise AssertionError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def refused(call: Callable[[], object], *told: str) -> str:
    """The one line with which `call` is refused."""
    with within(30), pytest.raises(InputError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and all(part in line for part in told), line
    return line


# ---- files that are no files


@pytest.fixture(params=["fifo", "/dev/zero", "folder", "nul\0name", "missing"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "fifo":
        os.mkfifo(tmp_path / "fifo")
    if request.param == "folder":
        (tmp_path / "folder").mkdir()
    return os.path.join(tmp_path, request.param)


def mat_blob(path: str) -> np.ndarray:
    """What MatRead takes from a file of this name."""
    source = MatBlobs.__new__(MatBlobs)
    source._path = lambda index, top: path
    return source._read(0, 0)


READERS = {
    "weights": read_weights,
    "state": read_solverstate,
    "prototxt": lambda path: __import__("prototxt").read_net(path),
    "list": read_labelled_list,
    "names": read_file_names,
    "image": lambda path: read_pixels(path, True, None, "list:1"),
    "npz": read_npz,
    "mat": read_mat,
    "mat data": mat_blob,
    "label map": _names,
    "video": open_video,
    "sizes": read_sizes,
    "voc list": lambda path: read_entries(Path(path)),
    "voc data": lambda path: VocImages(settings_of(repr({"list": path})), error=InputError),
    "photograph": lambda path, to_bgr=False: __import__("port.images").images.read_image(path, to_bgr),
    "label image": lambda path: __import__("port.voc.label_images").voc.label_images.read_label_image(
        Path(path)
    ),
    "lmdb": LmdbFile,
}


@pytest.mark.parametrize("reader", READERS)
def test_only_ordinary_files_are_opened(reader: str, no_file: str) -> None:
    refused(lambda: READERS[reader](no_file), printable(no_file))


def test_no_more_is_read_than_makes_sense(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(bytes(5000))
    assert len(read_ordinary(tmp_path / "long", 5000)) == 5000
    with pytest.raises(OSError, match="larger than"):
        read_ordinary(tmp_path / "long", 4999)
    (tmp_path / "link").symlink_to("long")
    open_ordinary(tmp_path / "link").close()


def test_a_video_is_no_address() -> None:
    """OpenCV asks servers, and devices, for what prototxts name."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        refused(lambda: open_video(f"http://127.0.0.1:{server.getsockname()[1]}/video.avi"))
        with pytest.raises(BlockingIOError):
            server.accept()


# ---- HDF5


def hdf5(path: Path, fill: Callable[[h5py.Group], object]) -> Path:
    with h5py.File(path, "w") as file:
        fill(file.create_group("data/ip"))
    return path


def external_link(ip: h5py.Group) -> None:
    os.mkfifo(Path(ip.file.filename).parent / "fifo")
    ip["0"] = h5py.ExternalLink("fifo", "/x")


def doubled_groups(ip: h5py.Group) -> None:
    for _ in range(24):
        below = ip.create_group("x")
        ip["y"] = below
        ip = below


def circle(ip: h5py.Group) -> None:
    ip["again"] = ip.parent


def virtual(ip: h5py.Group) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    ip.create_virtual_dataset("0", layout)


HDF5 = {
    "external storage": (
        lambda ip: ip.create_dataset("0", (8,), "u1", external=[("/etc/passwd", 0, 8)]),
        "in other files",
    ),
    "external link": (external_link, "is a link"),
    "soft link": (lambda ip: ip.__setitem__("0", h5py.SoftLink("/elsewhere")), "is a link"),
    "virtual": (virtual, "in other files"),
    "doubled groups": (doubled_groups, "another name"),
    "circle": (circle, "another name"),
    "claimed": (lambda ip: ip.create_dataset("0", (10**9,), "f4"), "claims"),
    "claimed, chunked": (lambda ip: ip.create_dataset("0", (10**6, 10**6), "f4", chunks=(64, 64)), "claims"),
    "claimed, packed": (
        lambda ip: ip.create_dataset("0", (10**12,), "f4", chunks=(64,), compression=9),
        "claims",
    ),
    "null": (lambda ip: ip.create_dataset("0", data=h5py.Empty("f4")), "no array of numbers"),
    "texts": (lambda ip: ip.create_dataset("0", data=["a", "b"]), "no array of numbers"),
    "pairs": (lambda ip: ip.create_dataset("0", data=np.zeros(3, "f4,f4")), "no array of numbers"),
    "a blob called x": (lambda ip: ip.create_dataset("x", data=np.zeros(3, "f4")), "not named by the index"),
}


@pytest.mark.parametrize("kind", HDF5)
def test_hdf5_stays_within_its_file(kind: str, tmp_path: Path) -> None:
    fill, told = HDF5[kind]
    path = hdf5(tmp_path / "w.h5", fill)
    refused(lambda: read_weights(path), str(path), told)


def test_packed_hdf5_is_read(tmp_path: Path) -> None:
    """Numbers that deflate packs as far as it can."""
    fill = lambda ip: ip.create_dataset("0", data=np.zeros(10**6, "f4"), compression=9)  # noqa: E731
    assert not read_weights(hdf5(tmp_path / "w.h5", fill))[0].blobs[0].any()


@pytest.mark.parametrize("limit", [1, 4, 60])
@pytest.mark.parametrize("suffix", [".h5", ".caffemodel", ".safetensors", ".pth"])
def test_a_full_disk_is_one_line(suffix: str, limit: int, tmp_path: Path) -> None:
    """The limit on a file's size fails writes as a full disk does; with HDF5 it ended the process."""
    layers = [LayerWeights(f"l{i}", "InnerProduct", [np.ones((64, 64), np.float32)]) for i in range(8)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit * 1024, before[1]))
    try:
        refused(lambda: write_weights(tmp_path / f"w{suffix}", layers), "writing failed", "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())


def test_a_part_of_an_npz_that_is_no_array(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("ip.weight", b"no array")
    refused(lambda: read_weights(tmp_path / "w.npz"), "w.npz")


def test_weights_unpack_only_so_much(tmp_path: Path) -> None:
    """A megabyte of zeros, packed, is a gigabyte; weights hardly pack."""
    zeros = np.zeros(100_000_000, np.float32)
    fill = lambda ip: ip.create_dataset("0", data=zeros, chunks=(1 << 20,), compression=9)  # noqa: E731
    np.savez_compressed(tmp_path / "w.npz", **{"ip.weight": zeros})
    scipy.io.savemat(tmp_path / "w.mat", {"layers": zeros}, do_compression=True)
    for path in (hdf5(tmp_path / "w.h5", fill), tmp_path / "w.npz", tmp_path / "w.mat"):
        assert path.stat().st_size < 2 * MEGABYTE
        refused(lambda path=path: read_weights(path), str(path))


def test_a_mat_that_ends_scipys_process(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parent / "fuzz" / "torn.mat", tmp_path / "torn.mat")
    refused(lambda: read_weights(tmp_path / "torn.mat"), "torn.mat: cannot be read as a .mat")
    refused(lambda: mat_blob(str(tmp_path / "torn.mat")), "torn.mat: cannot be read as a MATLAB file")


# ---- .pth and .safetensors


def _nested() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


PTH = {
    "expanded": lambda: {"a.weight": torch.ones(1).expand(1 << 38)},
    "expanded by rows": lambda: {"a.weight": torch.ones(4).expand(1 << 20, 4)},
    "meta": lambda: {"a.weight": torch.ones(4, device="meta")},
    "sparse": lambda: {"a.weight": torch.eye(4).to_sparse()},
    "nested": lambda: {"a.weight": _nested()},
    "many axes": lambda: {"a.weight": torch.ones((1,) * 40)},
    "halves": lambda: {"a.weight": torch.ones(4, dtype=torch.float16)},
    "no tensor": lambda: {"a.weight": [1, 2]},
    "half a surrogate pair": lambda: {"\ud800.weight": torch.ones(4)},
    "no dict": lambda: [torch.ones(4)],
}


@pytest.mark.parametrize("kind", PTH)
def test_pth_tensors_that_are_not_plain(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(PTH[kind](), path)
    refused(lambda: read_weights(path), str(path))


def test_pth_shares_numbers_only_so_often(tmp_path: Path) -> None:
    one = torch.ones(1 << 22)
    torch.save({"a.weight": one, "b.weight": one}, tmp_path / "tied.pth")
    assert len(read_weights(tmp_path / "tied.pth")) == 2
    torch.save({f"l{i}.weight": one for i in range(40)}, tmp_path / "many.pth")
    refused(lambda: read_weights(tmp_path / "many.pth"), "share numbers")


def test_pth_runs_no_code_and_unpacks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"a.weight": os.getcwd}))
    refused(lambda: read_weights(path), "could run code")
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50 * MEGABYTE))
    refused(lambda: read_weights(path), "is packed")


def safetensors(path: Path, header: dict, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("shape", [[1] * 40, [0, 1 << 62, 1 << 62], [0] * 33])
def test_safetensors_of_odd_shapes(shape: list[int], tmp_path: Path) -> None:
    count = 4 if all(shape) else 0
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, count]}
    path = safetensors(tmp_path / "w.safetensors", {"a.weight": entry}, bytes(count))
    refused(lambda: read_safetensors(path), str(path))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".h5", ".caffemodel"])
def test_many_layers_take_seconds(suffix: str, tmp_path: Path) -> None:
    """Names were compared each with each: 60,000 layers took over a minute."""
    count = 3_000 if suffix == ".h5" else 20_000  # h5py takes half a millisecond for each object
    layers = [LayerWeights(f"layer{i}", blobs=[np.zeros(1, np.float32)]) for i in range(count)]
    with within(100):
        started = time.process_time()
        write_weights(tmp_path / f"w{suffix}", layers)
        assert len(read_weights(tmp_path / f"w{suffix}")) == len(layers)
        assert time.process_time() - started < 20


# ---- .caffemodel, .solverstate


def _length(count: int) -> bytes:
    """As protobuf writes it."""
    return bytes([count % 128 | 128, count // 128 % 128 | 128, count // 128**2 % 128 | 128, count // 128**3])


def test_many_tiny_fields(tmp_path: Path) -> None:
    path = tmp_path / "tiny.caffemodel"
    path.write_bytes(b"\xa2\x06\0" * 300_000)
    refused(lambda: read_weights(path), "more than 262,144 times")
    layer = b"\x0a\0" * 2_200_000  # its name, again and again
    path.write_bytes(b"\xa2\x06" + _length(len(layer)) + layer)
    refused(lambda: read_weights(path), "besides the weights")
    path.write_bytes(b"\x42\0" * 2_200_000 + b"\xa2\x06\0")  # input_shape {}, which nothing reads
    assert read_weights(path) == []
    path.write_bytes(b"\xa2\x06\0" * 200_000)
    assert read_weights(path) == []


def not_utf8(name: str, wrong: bytes, right: bytes, folder: Path) -> Path:
    path = folder / name
    path.write_bytes((FORMATS / name).read_bytes().replace(right, wrong))
    return path


@pytest.mark.parametrize("suffix", [".h5", ".caffemodel", ".safetensors", ".pth"])
def test_names_that_are_not_utf8(suffix: str, tmp_path: Path) -> None:
    """As in prototxts, which are read with the same replacement."""
    layers = read_weights(not_utf8("v2.caffemodel", b"c\xffnv", b"conv", tmp_path))
    write_weights(tmp_path / f"w{suffix}", layers)
    assert read_weights(tmp_path / f"w{suffix}")[0].name == "c\ufffdnv"


@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_paths_that_are_not_utf8(suffix: str, tmp_path: Path) -> None:
    """A path is any bytes, and is written again as it was."""
    state = read_solverstate(not_utf8("solver_iter_3.solverstate", b"\xffolver_", b"solver_", tmp_path))
    assert b"\xffolver_" in os.fsencode(state.learned_net)
    write_solverstate(tmp_path / f"again.solverstate{suffix}", state)
    assert read_solverstate(tmp_path / f"again.solverstate{suffix}").learned_net == state.learned_net


# ---- LMDB


@pytest.fixture
def database(tmp_path: Path) -> Path:
    lmdb = pytest.importorskip("lmdb")
    random = np.random.RandomState(0)
    with (
        lmdb.open(str(tmp_path / "db"), map_size=1 << 24) as environment,
        environment.begin(write=True) as writing,
    ):
        for i in range(400):
            writing.put(b"%08d" % i, random.bytes(random.randint(0, 9000)))
    return tmp_path / "db"


def items(source: Path) -> list[tuple[bytes, bytes]]:
    cursor, found = LmdbFile(str(source)).cursor(), []
    there = cursor.first()
    while there:
        found.append((cursor.key(), cursor.value()))
        there = cursor.next()
    return found


def test_lmdb_as_its_own_library_reads_it(database: Path) -> None:
    import lmdb

    with lmdb.open(str(database), readonly=True, lock=False) as environment, environment.begin() as reading:
        own = list(reading.cursor())
    assert items(database) == own
    file = LmdbFile(str(database))
    assert all(file.get(key) == value for key, value in own)
    assert file.get(b"00000399x") is None and file.get(b"") is None


def test_lmdb_cut_off_or_damaged(database: Path) -> None:
    """LMDB's own library ends the process for one in seven of these."""
    path = database / "data.mdb"
    data, random = path.read_bytes(), np.random.RandomState(1)
    path.write_bytes(data[: len(data) // 2])
    refused(lambda: items(database), str(database), "is cut off", "copy it again")
    path.write_bytes(b"text")
    refused(lambda: items(database), str(database), "does not begin as an LMDB does")
    for _ in range(300):
        damaged = bytearray(data)
        for place in random.randint(0, len(data), 20) & ~np.int64(0xF00):  # more often in the pages' heads
            damaged[place] = random.randint(256)
        path.write_bytes(damaged)
        with within(20), contextlib.suppress(InputError):
            items(database)


# ---- images


def jpeg(path: Path, size: tuple[int, int] | None = None) -> Path:
    """A small photograph; with `size`, its header claims that (height, width)."""
    pixels = np.random.RandomState(0).randint(0, 256, (40, 60, 3), np.uint8)
    data = bytearray(cv2.imencode(".jpg", pixels)[1].tobytes())
    if size:
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", *size)
    path.write_bytes(data)
    return path


def png_bomb(path: Path, side: int) -> Path:
    """A grey PNG of side² zeros: a thousandth of its pixels' bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def test_images_that_claim_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (jpeg(tmp_path / "lie.jpg", (65500, 65500)), png_bomb(tmp_path / "bomb.png", 10_000)):
        told = (str(path), "too large an image", "SEENET_MAX_PIXELS")
        refused(lambda path=path: READERS["photograph"](path), *told)
        refused(lambda path=path: READERS["image"](path), *told)
        refused(lambda path=path: READERS["label image"](path))
    monkeypatch.setenv("SEENET_MAX_PIXELS", "2399")
    refused(lambda: READERS["photograph"](jpeg(tmp_path / "small.jpg")), "2,400 pixels, at most 2,399")
    monkeypatch.setenv("SEENET_MAX_PIXELS", "2400")
    assert READERS["photograph"](tmp_path / "small.jpg").shape == (40, 60, 3)
    monkeypatch.setenv("SEENET_MAX_PIXELS", "many")
    refused(lambda: READERS["photograph"](tmp_path / "small.jpg"), "give a number of pixels")


def test_a_png_of_bytes_that_claims_gigabytes(tmp_path: Path) -> None:
    """OpenCV took 4 GB for a chunk's length before it saw that the file ends."""
    whole = cv2.imencode(".png", np.zeros((4, 5, 3), np.uint8))[1].tobytes()
    place = whole.index(b"IDAT") - 4
    (tmp_path / "lie.png").write_bytes(whole[:place] + b"\xff\xff\xff\xf0" + whole[place + 4 :])
    code = (
        "import resource; from port.images import read_image\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30,) * 2)\n"
        "try: read_image('lie.png')\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "lie.png: does not decode" in done.stdout, done.stderr


ATTENTION = ("attention", "--weights", SMALL, "--test-size", "64", "--out")


def test_one_bad_image_does_not_stop_the_others(seenet, tmp_path: Path) -> None:
    good = [jpeg(tmp_path / f"good{i}.jpg") for i in (1, 2)]
    lie = jpeg(tmp_path / "lie.jpg", (65500, 65500))
    status, _, err = seenet(*ATTENTION, tmp_path / "out", good[0], lie, good[1], "--labels", "person")
    assert status == 2 and err.count("\n") == 1 and "lie.jpg" in err
    assert (tmp_path / "out" / "good2_14.png").is_file()
    images = tmp_path / "voc" / "JPEGImages"
    images.mkdir(parents=True)
    for path in (*good, lie):
        shutil.copy(path, images)
    (tmp_path / "list").write_text("good1 14\nlie 14\ngood2 14\n")
    out = tmp_path / "maps"
    status, _, err = seenet(*ATTENTION, out, "--voc", tmp_path / "voc", "--list", tmp_path / "list")
    assert status == 2 and "lie" in err
    assert {path.name for path in out.iterdir()} == {"attention.json", "good1_14.png", "good2_14.png"}


def test_decoders_keep_quiet(tmp_path: Path) -> None:
    """libpng and libjpeg write to stderr by themselves; what Python writes meanwhile gets through."""
    pixels = np.random.RandomState(0).randint(0, 256, (40, 60, 3), np.uint8)
    whole = cv2.imencode(".png", pixels)[1].tobytes()
    (tmp_path / "torn.png").write_bytes(whole[:300] + bytes(9) + whole[309:])
    command = [sys.executable, "-m", "port.cli", "explain", "torn.png", "--labels", "person", "--out", "o"]
    done = subprocess.run(
        [*command, "--weights", SMALL],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2 and done.stderr.startswith("error: torn.png: does not decode")
    assert done.stderr.count("\n") == 1
    code = (
        "import os, sys\nfrom prototxt.native_output import *\nwith without_native_output(): os.write(2, b'a')\n"
        "keep_own_stderr()\nwith without_native_output(), without_native_output():\n"
        " os.write(2, b'b'); print('c', file=sys.stderr)\nos.write(2, b'd')"
    )
    assert in_another_process(code).stderr == "ac\nd"


# ---- lists and names


@pytest.mark.parametrize("name", ["../b", "/tmp/b", "a/../../b", "a\x1b[31m"])
def test_lists_lead_nowhere_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"good 1\n{name} 14\n")
    entries, failed = read_entries(tmp_path / "list")
    assert [entry.name for entry in entries] == ["good"]
    assert len(failed) == 1 and "leads out of the folder" in str(failed[0]) and ":2:" in str(failed[0])
    assert all("/" not in entry.name and entry.name != ".." for entry in read_names(tmp_path / "list")[0])


@pytest.mark.parametrize("text", ["-1", "1.4", "²", "20", "+1", "١", "1_0", "9" * 5000, "0x1", ""])
def test_labels_are_not_guessed(text: str, tmp_path: Path) -> None:
    refused(lambda: class_index(text), "no such class")
    if text:
        (tmp_path / "list").write_text(f"a {text}\n")
        assert not read_entries(tmp_path / "list")[0]
        refused(lambda: VocImages(settings_of(repr({"list": str(tmp_path / "list")})), error=InputError))


@pytest.mark.parametrize(
    ("text", "index"), [("14", 14), (" 0 ", 0), ("dining table", 10), ("TV/monitor", 19)]
)
def test_labels_that_are_meant(text: str, index: int) -> None:
    assert class_index(text) == index


@pytest.mark.parametrize("label", ["9" * 5000, "-2147483649", "2147483648"])
def test_image_lists_take_no_number_that_is_out_of_range(label: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"a.png 3\nb.png {label}\n")
    refused(lambda: read_labelled_list(str(tmp_path / "list")), "list:2: b.png: label")


@pytest.mark.parametrize(
    ("label", "number"), [("1_0", 1), ("x", 0), ("١", 0), ("0" * 5000 + "7", 7), ("-", 0)]
)
def test_image_lists_are_read_as_c_reads_them(label: str, number: int, tmp_path: Path) -> None:
    """Python's own `int` would take underscores and the digits of other scripts."""
    (tmp_path / "list").write_text(f"a.png 3\nb.png {label}\n")
    assert [entry.value for entry in read_labelled_list(str(tmp_path / "list"))] == [3, number]


NAMES = ("cat [final]", "[/nothing]", "[red]x", ":smile:", "a\x1b[31mb", "a\u202eb")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are(name: str, seenet, tmp_path: Path) -> None:
    quoted = json.dumps(name)
    (tmp_path / "net.prototxt").write_text(
        f"name: {quoted} layer {{ name: {quoted} type: 'Input' top: {quoted} "
        "input_param { shape { dim: 1 dim: 2 } } } layer { name: 'r' type: 'ReLU' "
        f"bottom: {quoted} top: 'r' }}".replace("\\u001b", "\\033").replace("\\u202e", "\u202e")
    )
    status, out, err = seenet("summary", tmp_path / "net.prototxt")
    assert status == 0, err
    assert out.count(printable(name)) >= 2 and "\x1b" not in out and "\u202e" not in out
    arguments = ("--prototxt", tmp_path / "net.prototxt", "--engines", "port")
    status, out, err = seenet("parity", *arguments)
    assert status == 0 and "\x1b" not in out, err


def test_file_names_are_printed_as_they_are(seenet, tmp_path: Path) -> None:
    photo = jpeg(tmp_path / "cat [final].jpg")
    status, out, _ = seenet(*ATTENTION, tmp_path / "[out]", photo, "--labels", "person")
    assert status == 0 and "cat [final]_14.png" in out and "[out]" in out.replace("\n", "")


def test_errors_are_one_line_that_no_terminal_obeys() -> None:
    error = InputError('layer "a\nb\x1b[2J\r\u202e": x')
    assert str(error) == 'layer "a\\nb\\x1b[2J\\r\\u202e": x' == str(InputError(str(error)))


def test_dollars_are_no_formulas(seenet, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 2 } } }'
        'layer { name: "p" type: "Power" bottom: "d" top: "$a_{$ \\\\frac$" power_param { scale: 0.3 } }'
    )
    page = tmp_path / "page.html"
    assert (
        seenet("parity", "--prototxt", tmp_path / "net.prototxt", "--engines", "port", "--html", page)[0] == 0
    )
    assert page.is_file()


def test_dot_text_quotes_any_name() -> None:
    net = parse_net(r'name: "n\\" layer { name: "r\\" type: "ReLU" bottom: "a\\\"; evil [image=x" top: "t" }')
    text = net_graph(net).dot_text()
    assert r'"n\\"' in text and r'"a\\\"; evil [image=x_blob"' in text and r'"r\\_ReLU"' in text
    assert r'label="r\\\n(ReLU)"' in text


# ---- writing


WRITERS = {
    "HDF5Output": 'bottom: "r" bottom: "l" hdf5_output_param { file_name: "leak" }',
    "MatWrite": 'bottom: "r" mat_write_param { prefix: "leak" }',
    "DetectionOutput": 'bottom: "loc" bottom: "conf" bottom: "priors" top: "o" detection_output_param { num_classes: 2 '
    'nms_param { nms_threshold: 0.5 } save_output_param { output_directory: "leak" output_name_prefix: "x" '
    'output_format: "VOC" label_map_file: "map" name_size_file: "sizes" } }',
}
LOOKERS = {
    "parity": ("--prototxt", "net.prototxt", "--engines", "port,reference"),
    "translate": ("net.prototxt", "--out", "out"),
    "summary": ("net.prototxt",),
    "survey": ("net.prototxt", "--jobs", "1"),
    "export": ("--prototxt", "net.prototxt", "--weights", "w.caffemodel", "--torchscript", "out"),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("command", LOOKERS)
def test_what_looks_at_a_net_writes_no_file_that_it_names(
    command: str, kind: str, seenet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "d" type: "Input" top: "d" top: "l" input_param { shape { dim: 2 dim: 3 } } }'
        'layer { name: "b" type: "Input" top: "loc" top: "conf" top: "priors" input_param { shape { dim: 1 dim: 8 } '
        "shape { dim: 1 dim: 4 } shape { dim: 1 dim: 2 dim: 8 } } }"
        'layer { name: "r" type: "ReLU" bottom: "d" top: "r" }'
        f'layer {{ name: "o" type: "{kind}" {WRITERS[kind]} }}'
    )
    (tmp_path / "map").write_text('item { name: "a" label: 1 }')
    (tmp_path / "sizes").write_text("image 10 10")
    write_weights(tmp_path / "w.caffemodel", [LayerWeights("r")])
    seenet(command, *LOOKERS[command])
    assert not list(tmp_path.glob("leak*"))


def test_killed_writers_leave_nothing_for_good(tmp_path: Path) -> None:
    for name in (".w.partial-abcdefgh.h5", "..w.partial-abcdefgh.partial-abcdefg_.h5", ".w.other.h5", "w.h5"):
        (tmp_path / name).touch()
    with atomic_path(tmp_path / "w.h5") as beside:
        remove_partial(tmp_path, "w")
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
            [beside.name, ".w.other.h5", "w.h5"]
        )
    write_weights(tmp_path / "x.h5", [])
    (tmp_path / ".x.partial-abcdefgh.h5").touch()
    write_weights(tmp_path / "x.h5", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".w.other.h5", "w.h5", "x.h5"]


def in_another_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=100)


def test_two_writers_of_one_place(tmp_path: Path) -> None:
    lock = tmp_path / ".x.lock"
    code = (
        f"from weights.files import only_writer\nwith only_writer({str(lock)!r}, 'the folder'): print('in')"
    )
    with only_writer(lock, "the folder"):
        assert str(os.getpid()) in lock.read_text()
        second = in_another_process(code)
        assert f"the folder: process {os.getpid()} on " in second.stderr and not second.stdout
    assert not lock.exists()
    lock.write_text("process 1 on elsewhere\n")  # what a killed one leaves holds nobody up
    assert in_another_process(code).stdout == "in\n" and not lock.exists()


def test_two_trainings_with_one_prefix(tmp_path: Path) -> None:
    prefix = str(tmp_path / "snap")
    with only_run(prefix):
        code = f"from port.training.snapshots import only_run\nonly_run({prefix!r}).__enter__()"
        assert "is writing there" in in_another_process(code).stderr
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "snap_iter_0.tempfile").symlink_to("victim")
    check_prefix(prefix)
    assert (tmp_path / "victim").read_text() == "precious"
    refused(lambda: check_prefix("a\0b"), "snapshot_prefix")


# ---- snapshots


def test_sidecars_are_sealed() -> None:
    """Of single flipped bits one in three was taken in silence."""
    whole = _sealed({"iteration": 3, "ranks": [{"key": [1, 2, 3]}], "of": [1, 2]})
    assert {name: value for name, value in json.loads(whole).items() if name != "crc32"} == _unsealed(whole)
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((ValueError, RecursionError)):
            _unsealed(bytes(flipped))


@pytest.mark.parametrize(
    "wrong", [{"pos": 625}, {"pos": -1}, {"pos": 1.5}, {"pos": "1"}, {"key": []}, {"key": [1 << 32] * 624}]
)
def test_generators_take_only_their_own_states(wrong: dict) -> None:
    """NumPy reads outside of its table for a place above 624."""
    generator = CaffeRNG(1)
    with pytest.raises(ValueError, match="a generator's"):
        generator.restore({**generator.state(), **wrong})
    with pytest.raises(ValueError, match="31 words"):
        CRandom().restore([1, 2])


def test_the_newest_whole_snapshot_is_gone_on_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for iteration in (3, 6):
        shutil.copy(FORMATS / "solver_iter_3.solverstate", tmp_path / f"net_iter_{iteration}.solverstate")
    shutil.copy(FORMATS / "solver_iter_3.caffemodel", tmp_path / "solver_iter_3.caffemodel")
    assert _newest_whole(tmp_path).name == "net_iter_6.solverstate"
    (tmp_path / "net_iter_6.solverstate").write_bytes(b"")
    assert _newest_whole(tmp_path).name == "net_iter_3.solverstate"
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / f"net_iter_3.solverstate{SIDECAR}").write_bytes(b"{}")
    assert _newest_whole(tmp_path) is None


# ---- the last resort


def ended(
    raised: BaseException | None,
    *arguments: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[int, str]:
    def app() -> None:
        if raised:
            raise raised

    monkeypatch.setattr(sys, "argv", ["seenet", "summary", *arguments])
    with pytest.raises(SystemExit) as stop:
        run_command(app)
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "status", "told"),
    [
        (None, 0, ""),
        (InputError("x.prototxt: y: z"), 2, "error: x.prototxt: y: z\n"),
        (MemoryError("Unable to allocate 9 GiB"), 2, "memory does not suffice (Unable to allocate 9 GiB)"),
        (OSError(28, "No space left on device"), 2, "the output cannot be written (No space left on device)"),
        (FileNotFoundError(2, "No such file or directory", "x"), 2, "error: x: cannot be used (No such file"),
        (OSError(36, "File name too long", "x" * 5000), 2, "xxx: cannot be used (File name too long)"),
        (
            UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"),
            2,
            "error: a\\udcff: its name",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            KeyError("x\ny"),
            3,
            "in: seenet summary net.prototxt: this is a fault of ours, the full report is ",
        ),
    ],
)
def test_every_end_is_one_line(
    raised: BaseException | None, status: int, told: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found, err = ended(raised, "net.prototxt", monkeypatch=monkeypatch, capsys=capsys)
    assert found == status and told in err and err.count("\n") == bool(raised)
    reports = list(tmp_path.iterdir())
    assert len(reports) == (status == 3)
    if reports:
        assert str(reports[0]) in err and "Traceback" in reports[0].read_text()


def test_faults_are_raised_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["seenet", "--traceback"])
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 // 0)
    assert sys.argv == ["seenet"] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_output_that_cannot_be_written() -> None:
    net = ROOT / "prototxt" / "shapes" / "deploy.prototxt"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "port.cli", "summary", str(net)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "cannot be written" in done.stderr


# ---- Python layers' settings


@pytest.mark.parametrize(
    "text",
    [
        "-" * 100_000 + "1",
        "(" * 5000,
        "{'list': 0}",
        "{'seed': 4294967296}",
        "{'mean': 'abc'}",
        "{'batch': 10**9}",
        "[]",
        "{'suffix': ['.jpg']}",
        "{'crop': True, 'list': None}",
    ],
)
def test_settings_that_are_none(text: str) -> None:
    line = refused(lambda: VocImages(settings_of(text, InputError), error=InputError), "param_str")
    assert len(line) < 600


def test_images_hold_what_they_claim(tmp_path: Path) -> None:
    path = jpeg(tmp_path / "lie.jpg", (9000, 9000))
    refused(lambda: READERS["photograph"](path), "81,000,000 pixels, which its", "cannot hold")
    assert READERS["photograph"](png_bomb(tmp_path / "black.png", 3000), True).shape == (3000, 3000, 3)


# ---- what other forms of the above came to


@pytest.mark.parametrize(
    "environment",
    [{"WORLD_SIZE": "0"}, {"WORLD_SIZE": "2", "RANK": "2"}, {"WORLD_SIZE": "x"}, {"RANK": "-1"}],
)
def test_a_torn_environment_is_one_line(environment: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    refused(lambda: parse_shard("1/1"), "torchrun sets")
    if "WORLD_SIZE" in environment:
        refused(lambda: joined_ranks("cpu").__enter__(), "torchrun")


@pytest.mark.parametrize("name", ["x" * 300, "é" * 150, "a/" * 1500 + "b"])
def test_lists_hold_no_name_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"good 1\n{name} 14\n")
    entries, failed = read_entries(tmp_path / "list")
    assert [entry.name for entry in entries] == ["good"] and "too long" in str(failed[0])


def test_a_page_shows_names_that_are_no_text(tmp_path: Path) -> None:
    text = table(["name"], [["caf\udce9 <b>"]])
    (tmp_path / "page").write_text(text, encoding="utf-8")
    assert "caf\\udce9 &lt;b&gt;" in text


def test_blobs_of_one_memory_are_listed_once() -> None:
    """20,000 tops of a Split took 3 GB and two minutes."""
    tops = " ".join(f'top: "t{i}"' for i in range(5000))
    net = parse_net(
        'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 } } }'
        f'layer {{ name: "s" type: "Split" bottom: "d" {tops} }}'
    )
    with within(20):
        mates = plan_net(net, 1).memory_mates
    assert len(mates) == 5001 and len({id(together) for together in mates.values()}) == 1


def test_a_chain_is_written_in_short_statements(tmp_path: Path, seenet) -> None:
    """Python reads no more than about a hundred brackets within each other."""
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "l0" type: "Input" top: "t0" input_param { shape { dim: 1 dim: 2 } } }'
        + "".join(
            f'layer {{ name: "l{i}" type: "TanH" bottom: "t{i - 1}" top: "t{i}" }}' for i in range(1, 300)
        )
    )
    status, _, err = seenet("translate", tmp_path / "net.prototxt", "--out", tmp_path / "out")
    assert status == 0, err


# ---- one writer of one place


def _photographs(folder: Path) -> None:
    for name in ("JPEGImages", "attention"):
        (folder / name).mkdir()
    for name in "ab":
        jpeg(folder / "JPEGImages" / f"{name}.jpg")
        cv2.imwrite(str(folder / "attention" / f"{name}_14.png"), np.zeros((40, 60), np.uint8))
    (folder / "list").write_text("a 14\nb 14\n")
    (folder / "images").write_text("JPEGImages/a.jpg 1\nJPEGImages/b.jpg 2\n")


ONE_WRITER = {
    "attention": (
        "out/.attention-1-of-1.lock",
        [
            "attention",
            "--voc",
            ".",
            "--list",
            "list",
            "--weights",
            SMALL,
            "--test-size",
            "32",
            "--out",
            "out",
        ],
    ),
    "proxy-labels": (
        "out/.proxy-labels.lock",
        ["proxy-labels", "--attention", "attention", "--list", "list", "--out", "out", "--workers", "1"],
    ),
    "shapes": (
        "out/.shapes.lock",
        ["shapes", "--out", "out", "--number", "2", "--size", "64", "--workers", "1"],
    ),
    "convert_imageset": (".out.lock", ["convert_imageset", "./", "images", "out"]),
}


@pytest.mark.parametrize("command", ONE_WRITER)
def test_a_second_process_is_refused(
    command: str, tmp_path: Path, seenet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _photographs(tmp_path)
    lock, arguments = ONE_WRITER[command]
    with only_writer(tmp_path / lock, "out"):
        status, _, err = seenet(*arguments)
        told = [line for line in err.splitlines() if line.startswith("error:")]
        assert status == 2 and len(told) == 1 and f"process {os.getpid()} on " in told[0], err
    assert seenet(*arguments)[0] == 0
    assert not [path for path in tmp_path.rglob(".*") if path.name.startswith(".")]


def test_a_second_saliency_or_segmentation_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _photographs(tmp_path)
    net = SimpleNamespace(paths=(SMALL, SMALL))
    images = [tmp_path / "JPEGImages" / "a.jpg"]
    with only_writer(tmp_path / "out" / ".saliency.lock", "out"):
        refused(lambda: make_saliency(images, net, tmp_path / "out", False, 1), f"process {os.getpid()} on ")
    monkeypatch.setattr("port.voc.segment._open", lambda settings, device: None)
    settings = Segmenting(SMALL, SMALL)
    with only_writer(tmp_path / "out" / ".segment.lock", "out"):
        arguments = (tmp_path, tmp_path / "list", tmp_path / "out", settings)
        refused(lambda: segment_dataset(*arguments), f"process {os.getpid()} on ")


def test_what_a_killed_writer_of_a_database_leaves(
    tmp_path: Path, seenet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _photographs(tmp_path)
    (tmp_path / ".out.partial-abcdefgh").mkdir()
    (tmp_path / ".out.partial-abcdefgh" / "data.mdb").write_bytes(bytes(100))
    (tmp_path / ".other.partial-abcdefgh").mkdir()
    assert seenet("convert_imageset", "./", "images", "out")[0] == 0
    assert {path.name for path in tmp_path.glob(".*")} == {".other.partial-abcdefgh"}


def test_a_lock_needs_no_room(tmp_path: Path) -> None:
    """On a full disk it was left behind, empty."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with only_writer(tmp_path / ".lock", "the folder"):
            assert (tmp_path / ".lock").is_file()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("start", [("-m", "port.cli"), ("-m", "port.tools")])
def test_a_stopped_tool_leaves_nothing(number: int, start: tuple[str, str], tmp_path: Path) -> None:
    _photographs(tmp_path)
    (tmp_path / "images").write_text("JPEGImages/a.jpg 1\n" * 200_000)
    process = subprocess.Popen(
        [sys.executable, *start, "convert_imageset", "./", "images", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 60
    while time.monotonic() < until and not list(tmp_path.glob(".out.partial-*/data.mdb")):
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(60) == (130 if "cli" in start[1] else -number)
    assert not list(tmp_path.glob(".*")) and not (tmp_path / "out").exists()


def test_the_log_shows_what_terminals_obey(capsys: pytest.CaptureFixture[str]) -> None:
    CaffeLog()("solver.cpp:1", "Snapshotting to a\x1b[2J\r\n\tsecond line")
    lines = capsys.readouterr().err.split("\n")
    assert lines[0].endswith("Snapshotting to a\\x1b[2J\\r") and lines[1:] == ["\tsecond line", ""]


# ---- what all commands over all kinds of files came to


@pytest.mark.parametrize(
    "arguments",
    [("summary", "--nope"), ("summry", "x"), ("shapes", "--out", "o", "--number", "x"), ("convert",)],
)
def test_a_wrong_option_is_one_line(arguments: tuple[str, ...], seenet) -> None:
    status, out, err = seenet(*arguments)
    assert status == 2 and not out and err.startswith("error: ") and err.count("\n") == 1, err


@pytest.mark.parametrize("kind", ["fifo", "device", "link", "socket"])
def test_only_files_are_replaced(kind: str, tmp_path: Path) -> None:
    """As root, `--out /dev/null` put a file in the place of the device."""
    path = tmp_path / "w.h5"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.fspath(path))
    elif kind == "link":
        path.symlink_to("/dev/null")
    else:
        try:
            os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root makes devices")
    refused(lambda: write_weights(path, [LayerWeights("l")]), "w.h5", "not an ordinary file")
    assert [left.name for left in tmp_path.iterdir()] == ["w.h5"] and not stat.S_ISREG(path.stat().st_mode)


def test_links_to_files_are_replaced_themselves(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    for target in ("victim", "nowhere", "w.h5"):  # the last to itself
        (tmp_path / "w.h5").unlink(missing_ok=True)
        (tmp_path / "w.h5").symlink_to(target)
        write_weights(tmp_path / "w.h5", [LayerWeights("l")])
        assert not (tmp_path / "w.h5").is_symlink()
    assert (tmp_path / "victim").read_text() == "precious" and not (tmp_path / "nowhere").exists()


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    with within(2), pytest.raises(OSError, match="larger than"):
        read_ordinary(tmp_path / "huge")
    voc = SimpleNamespace(settings={"list": str(tmp_path / "huge"), "classes": 20}, error=InputError)
    refused(lambda: VocImages._read_list(voc), "huge", "larger than")


LONG = {
    "a name": "x" * MEGABYTE,
    "spaces": " " * MEGABYTE,
    "signs": "%" * MEGABYTE,
    "a text": f'name: "{"x" * MEGABYTE}"',
    "braces": "layer { blobs { shape { " * (MEGABYTE // 24),
    "layers": "layer { }" * (MEGABYTE // 9),
    "unknown fields": "layer { type: 'ReLU' " + "".join(f"a{i}: 1 " for i in range(20_000)) + "}",
}


def test_long_texts_take_little_memory(tmp_path: Path) -> None:
    """Patterns of protobuf and of our own took 130 bytes for a space or a letter; unknown names, milliseconds each."""
    for number, text in enumerate(LONG.values()):
        (tmp_path / f"{number}.prototxt").write_text(text)
    code = (
        "import resource, time\nfrom prototxt import read_net\nfrom prototxt.plan import plan_net\n"
        f"for i in range({len(LONG)}):\n"
        " before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()\n"
        f" try: plan_net(read_net({str(tmp_path)!r} + f'/{{i}}.prototxt'), 1)\n"
        " except ValueError as error: assert len(str(error)) < 2100\n"
        " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before >> 10, time.process_time() - start)"
    )
    told = in_another_process(code)
    assert not told.stderr, told.stderr[-500:]
    for kind, line in zip(LONG, told.stdout.splitlines(), strict=True):
        megabytes, seconds = map(float, line.split())
        assert megabytes < 40 and seconds < 5, (kind, line)


def test_a_message_is_cut_in_its_middle() -> None:
    line = str(InputError(f"a{'x' * 100_000}: is missing"))
    assert len(line) < 2100 and line.startswith("axx") and line.endswith("xx: is missing")


@pytest.mark.parametrize("place", [-1, 3, True, 1.0, "1", None, 1 << 70])
def test_saved_places_lie_in_their_lists(place: object) -> None:
    with pytest.raises(ValueError, match="outside"):
        saved_place(place, 3)
    with pytest.raises(ValueError, match="once"):
        saved_order([0, place, 2], 3)
    assert saved_place(2, 3) == 2 and saved_order([2, 0, 1], 3) == [2, 0, 1]


@pytest.mark.parametrize("suffix", ["", ".h5"])
@pytest.mark.parametrize("field", ["iteration", "current_step"])
def test_states_count_no_less_than_nothing(field: str, suffix: str, tmp_path: Path) -> None:
    snapshot = read_solverstate(FORMATS / f"solver_iter_3.solverstate{suffix}")
    setattr(snapshot, field, -1)
    write_solverstate(tmp_path / f"s.solverstate{suffix}", snapshot)
    refused(lambda: read_solverstate(tmp_path / f"s.solverstate{suffix}"), "s.solverstate", "is -1")


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_a_full_disk_does_not_end_pytorch(kind: str, tmp_path: Path, seenet) -> None:
    """Its writer of archives called std::terminate, and left hidden files."""
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 2 } } }'
        'layer { name: "p" type: "PReLU" bottom: "d" top: "p" }'
    )
    write_weights(tmp_path / "w.caffemodel", [LayerWeights("p", "PReLU", [np.ones(2, np.float32)])])
    arguments = ("--prototxt", tmp_path / "net.prototxt", "--weights", tmp_path / "w.caffemodel")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        status, _, err = seenet("export", *arguments, f"--{kind}", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert status == 2 and f"{tmp_path}/out: writing failed (File too large)" in err, err
    assert {path.name for path in tmp_path.iterdir()} == {"net.prototxt", "w.caffemodel"}


def test_closed_streams_take_no_file(tmp_path: Path) -> None:
    """What is opened next takes a closed stream's number, and what is printed goes into it."""
    command = f"exec {sys.executable} -m port.cli convert {SMALL} {tmp_path}/w.h5 <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT)
    assert done.returncode == 0
    assert len(read_weights(tmp_path / "w.h5")) == len(read_weights(SMALL))


def test_figures_show_names_that_no_font_has() -> None:
    figure = Figure()
    figure.suptitle(figure_text("a\x1b[2J$\\frac$ \udcff caf\u202e"))
    figure.savefig(io.BytesIO(), format="png")


def test_files_that_only_some_commands_read(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    refused(lambda: read_design(tmp_path / "deep.json"), "deep.json", "not a design")
    (tmp_path / "loop.py").symlink_to("loop.py")
    refused(lambda: load_modules([str(tmp_path / "loop.py")], "port.pycaffe"), "no such file")
    refused(lambda: load_modules([f"{'x' * 5000}.py"], "port.pycaffe"), "no such file")
    (tmp_path / "list").write_bytes(b"a\0b.jpg\n")
    arguments = ["--input", str(tmp_path / "list"), "--output_folder", str(tmp_path / "out")]
    assert resize_images([*arguments, "--input_folder", str(tmp_path)]) == 0


def test_a_clock_that_sees_no_time() -> None:
    assert math.isnan(Timing([1.0, 2.0]).ratio(Timing([0.0, 0.0])))
    assert Timing([1.0, 2.0]).ratio(Timing([0.0, 4.0])) == 0.5
