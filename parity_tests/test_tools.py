"""Caffe's command-line tools: the recorded commands replayed through the launchers, and bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import lmdb
import numpy as np
import pytest

from parity_tests.recordings import GOLDEN
from port.tools.gflags import Flag, Program
from port.tools.launchers import write_launchers
from port.tools.plot_training_log import curve
from port.tools.process import run_tool
from prototxt.caffe_pb2 import Datum
from prototxt.errors import InputError
from prototxt.read import parse_net, read_net_as_it_is, read_solver_as_it_is
from prototxt.text import message_text
from runtime.rng import CaffeRNG, set_random_seed
from weights import read_binaryproto, read_weights

TOOLS = GOLDEN / "tools"
COMMANDS = json.loads((TOOLS / "about.json").read_text())["commands"]
OUTPUTS = ("*.log", "databases.npz", "mean_*.binaryproto", "upgraded*.prototxt", "about.json")
GREY_LEVELS = 4
"""Between JPEGs of one image that two builds of libjpeg made."""


@dataclass
class Replay:
    """The recorded commands, run in one folder by the launchers."""

    folder: Path
    statuses: dict[str, int]
    logs: dict[str, str]


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bin")
    write_launchers(folder)
    return folder


@pytest.fixture(scope="module")
def replay(bin_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Replay:
    folder = tmp_path_factory.mktemp("tools") / "run"
    shutil.copytree(TOOLS, folder, ignore=shutil.ignore_patterns(*OUTPUTS))
    statuses, logs = {}, {}
    for name, recorded in COMMANDS.items():
        done = run(bin_folder, recorded["command"], folder, merged=True)
        statuses[name], logs[name] = done.returncode, done.stdout
    return Replay(folder, statuses, logs)


def run(
    bin_folder: Path, command: list[str], folder: Path, merged: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command as a script would, with the launchers on the PATH."""
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    stderr = subprocess.STDOUT if merged else subprocess.PIPE
    return subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=300
    )


# ---- The recorded commands


@pytest.mark.parametrize("name", COMMANDS)
def test_recorded_command(name: str, replay: Replay) -> None:
    """Exit status and every line as genuine Caffe's; only times, and what random weights give, may differ."""
    assert replay.statuses[name] == COMMANDS[name]["status"]
    ours, golden = told(replay.logs[name]), told((TOOLS / f"{name}.log").read_text())
    assert [text for text, _ in ours] == [text for text, _ in golden]
    loose = GREY_LEVELS if name == "mean_encoded_resized" else 1e-6
    for (text, numbers), (_, theirs) in zip(ours, golden, strict=True):
        np.testing.assert_allclose(numbers, theirs, rtol=2e-5, atol=loose, err_msg=text)


def told(log: str) -> list[tuple[str, list[float]]]:
    """The lines of a log, numbers apart; without what depends on time, threads, versions and addresses.

    A database's reader runs in a thread of its own: where its lines stand, and how many, is a matter of luck.
    """
    lines = []
    for line in log.splitlines():
        text = re.sub(r"^([IWEF])\d{4} [\d:.]+ +\d+ ", r"\1 ", line)
        if text.startswith(("    @ ", "[ WARN:")) or "Restarting data prefetching" in text:
            continue
        if re.search(r"caffe\.cpp:(356|394|40\d|41\d)\]|\(\S+ iter/s", text):
            text = re.sub(r"(: |\(|, )-?[\d.]+(?:e[-+]\d+)?( ms|s/| iter/s|$)", r"\1TIME\2", text)
        place, bracket, message = text.partition("] ")
        numbers = [float(found) for found in re.findall(r"-?\d+\.\d+(?:e[-+]\d+)?", message)]
        lines.append((place + bracket + re.sub(r"-?\d+\.\d+(?:e[-+]\d+)?", "#", message), numbers))
    return lines


@pytest.fixture(scope="module")
def databases() -> dict[str, np.ndarray]:
    with np.load(TOOLS / "databases.npz") as arrays:
        return dict(arrays)


def read_database(path: Path) -> dict[str, bytes]:
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as reading:
        return {key.decode(): value for key, value in reading.cursor()}


with np.load(TOOLS / "databases.npz") as _arrays:
    DATABASES = [name.removesuffix("/keys") for name in _arrays.files if name.endswith("/keys")]


@pytest.mark.parametrize("name", DATABASES)
def test_database_is_genuine_caffes(name: str, replay: Replay, databases: dict[str, np.ndarray]) -> None:
    ours = read_database(replay.folder / name)
    assert list(ours) == databases[f"{name}/keys"].tolist()
    for key, value in ours.items():
        golden = databases[f"{name}/{key}"].tobytes()
        if value != golden:
            same_datum(Datum.FromString(value), Datum.FromString(golden))


def same_datum(ours: Datum, golden: Datum) -> None:
    """Equal but for how another build encodes, and for the last digits of features."""
    assert ours.encoded or ours.float_data
    assert [field.name for field, _ in ours.ListFields()] == [field.name for field, _ in golden.ListFields()]
    assert (ours.label, ours.encoded) == (golden.label, golden.encoded)
    assert (ours.channels, ours.height, ours.width) == (golden.channels, golden.height, golden.width)
    largest = np.abs(golden.float_data).max(initial=0)
    np.testing.assert_allclose(ours.float_data, golden.float_data, rtol=0, atol=2e-6 * largest)
    if ours.encoded:
        levels = GREY_LEVELS if golden.data.startswith(b"\xff\xd8") else 0
        np.testing.assert_allclose(decoded(ours), decoded(golden), rtol=0, atol=levels)


def decoded(datum: Datum) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(datum.data, np.uint8), cv2.IMREAD_UNCHANGED).astype(int)


@pytest.mark.parametrize("path", sorted(TOOLS.glob("mean_*.binaryproto")), ids=lambda path: path.stem)
def test_mean_is_genuine_caffes(path: Path, replay: Replay) -> None:
    ours = replay.folder / path.name
    if "encoded" in path.name:
        np.testing.assert_allclose(read_binaryproto(ours), read_binaryproto(path), rtol=0, atol=GREY_LEVELS)
    else:
        assert ours.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", sorted(TOOLS.glob("upgraded*.prototxt")), ids=lambda path: path.stem)
def test_upgraded_text_is_genuine_caffes(path: Path, replay: Replay) -> None:
    ours = replay.folder / path.name
    read = read_solver_as_it_is if "solver" in path.name else read_net_as_it_is
    assert read(ours) == read(path)
    assert ours.read_text() == path.read_text()


def test_trained_weights_are_genuine_caffes(replay: Replay) -> None:
    solver = read_solver_as_it_is(TOOLS / "solver.prototxt")
    ours = read_weights(replay.folder / f"{solver.snapshot_prefix}_iter_{solver.max_iter}.caffemodel")
    golden = read_weights(TOOLS / "trained.caffemodel")
    for layer, theirs in zip(ours, golden, strict=True):
        assert layer.name == theirs.name
        for blob, other in zip(layer.blobs, theirs.blobs, strict=True):
            np.testing.assert_allclose(blob, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_streams(bin_folder: Path, tmp_path: Path) -> None:
    """The log and errors go to stderr, the usage to stdout; the status of a failed CHECK is SIGABRT's."""
    done = run(bin_folder, ["caffe"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = run(bin_folder, ["convert_imageset", "a", "b"], tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "convert_imageset [FLAGS] ROOTFOLDER/ LISTFILE DB_NAME" in done.stdout
    done = run(bin_folder, ["caffe", "dance"], tmp_path)
    assert (done.returncode, done.stdout) == (-6, "")
    lines = [text for text, _ in told(done.stderr)]
    actions = [f"E caffe.cpp:81] \t{action}" for action in ("device_query", "test", "time", "train")]
    assert lines == [
        "E caffe.cpp:78] Available caffe actions:",
        *actions,
        "F caffe.cpp:83] Unknown action: dance",
        "*** Check failure stack trace: ***",
    ]


# ---- Scripts

SCRIPT = """#!/usr/bin/env sh
# Makes a data set, trains on it and scores the result; TOOLS is where Caffe was built.
set -e
TOOLS=${TOOLS:-./build/tools}
if [ -d digits_lmdb ]; then rm -r digits_lmdb; fi
GLOG_logtostderr=1 $TOOLS/convert_imageset --resize_height=8 --resize_width=8 --shuffle ./ digits.txt digits_lmdb
$TOOLS/compute_image_mean.bin digits_lmdb digits_mean.binaryproto
$TOOLS/caffe train --solver=digits_solver.prototxt $@ 2>&1 | tee digits.log
$TOOLS/caffe test -model digits.prototxt -weights digits_iter_20.caffemodel -iterations 2 2> score.log
$TOOLS/extract_features digits_iter_20.caffemodel digits.prototxt ip features_lmdb 2 lmdb
python3 $TOOLS/parse_log.py digits.log . --verbose
"""

NET = """
layer { name: "data" type: "Data" top: "data" top: "label"
  transform_param { mean_file: "digits_mean.binaryproto" scale: 0.01 }
  data_param { source: "digits_lmdb" batch_size: 5 backend: LMDB } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""

SOLVER = """net: "digits.prototxt" test_iter: 2 test_interval: 10 base_lr: 0.05 momentum: 0.9 lr_policy: "fixed"
display: 5 max_iter: 20 snapshot: 20 snapshot_prefix: "digits" random_seed: 3 solver_mode: CPU
"""


def test_a_training_script_runs_with_only_the_path_changed(tmp_path: Path) -> None:
    """Dark and bright images, told apart; the folder's own `weights` and `port` are not ours."""
    for name in ("weights", "port", "runtime"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            "raise RuntimeError('the user has a folder of this name')"
        )
    draw = np.random.RandomState(0)
    for i in range(10):
        cv2.imwrite(
            str(tmp_path / f"{i}.png"), draw.randint(i % 2 * 128, i % 2 * 128 + 128, (10, 9, 3), np.uint8)
        )
    (tmp_path / "digits.txt").write_text("".join(f"{i}.png {i % 2}\n" for i in range(10)))
    (tmp_path / "digits.prototxt").write_text(NET)
    (tmp_path / "digits_solver.prototxt").write_text(SOLVER)
    (tmp_path / "train.sh").write_text(SCRIPT)
    write_launchers(tmp_path / "build" / "tools")
    done = run(tmp_path, ["sh", "train.sh"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Optimization Done." in (tmp_path / "digits.log").read_text()
    assert "caffe.cpp:321] accuracy = 1\n" in (tmp_path / "score.log").read_text()
    assert (tmp_path / "digits.log.train").read_text().startswith("NumIters,Seconds,LearningRate,loss\n0.0,")
    assert len((tmp_path / "digits.log.test").read_text().splitlines()) == 4
    assert len(read_database(tmp_path / "features_lmdb")) == 10


def test_launchers_overwrite_their_own_only(tmp_path: Path) -> None:
    names = {path.name for path in write_launchers(tmp_path)}
    assert {"caffe", "caffe.bin", "convert_imageset", "parse_log.py"} <= names
    write_launchers(tmp_path)
    (tmp_path / "caffe").write_text("somebody's")
    with pytest.raises(InputError, match="caffe: exists and is no launcher"):
        write_launchers(tmp_path)
    assert (tmp_path / "caffe").read_text() == "somebody's"


# ---- Flags

PROGRAM = Program(
    "tool", "tools/tool.cpp", "Do it", (Flag("name", ""), Flag("count", 3, "How many"), Flag("fast", False))
)


@pytest.mark.parametrize(
    ("arguments", "values", "rest"),
    [
        ("-name x --count=5 a -fast b", ("x", 5, True), ["a", "b"]),
        ("a --name=x=y -count 0x10 --nofast", ("x=y", 16, False), ["a"]),
        ("--fast=false --fast=T -name= -count -2", ("", -2, True), []),
        ("-fast 0 -- -name x", ("", 3, True), ["0", "-name", "x"]),
        ("--logtostderr=1 -minloglevel 0 -", ("", 3, False), ["-"]),
    ],
)
def test_flags(arguments: str, values: tuple, rest: list[str]) -> None:
    found, others = PROGRAM.parse(arguments.split())
    assert (found["name"], found["count"], found["fast"]) == values
    assert others == rest


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("--nosuch", "unknown command line flag 'nosuch'"),
        ("x -count", "flag '-count' is missing its argument; flag description: How many"),
        ("-count many", "illegal value 'many' specified for int32 flag 'count'"),
        ("-count 3000000000", "illegal value '3000000000' specified for int32 flag 'count'"),
        ("--fast=perhaps", "illegal value 'perhaps' specified for bool flag 'fast'"),
        ("--noname", "boolean value (name) specified for string command line flag"),
    ],
)
def test_wrong_flags(arguments: str, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        PROGRAM.parse(arguments.split())
    assert stop.value.code == 1
    assert capsys.readouterr() == ("", f"ERROR: {error}\n")


def test_floats_are_printed_as_by_cpp() -> None:
    net = parse_net(
        'name: "n: 1.50" layer { loss_weight: [1, 0.1, 1000000, 0.1234567, 1e-7] lrn_param { local_size: 10 } }'
    )
    shown = re.findall(r"loss_weight: (\S+)", message_text(net))
    assert shown == ["1", "0.1", "1e+06", "0.123456702", "1e-07"]
    assert 'name: "n: 1.50"' in message_text(net)
    assert "local_size: 10\n" in message_text(net)


# ---- convert_imageset, compute_image_mean


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with two images and a list of them."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.RandomState(1)
    cv2.imwrite("a.png", draw.randint(0, 256, (120, 100, 3), np.uint8))
    cv2.imwrite("b c.jpeg", draw.randint(0, 256, (5, 6, 3), np.uint8))
    Path("list.txt").write_text("a.png 1\nb c.jpeg 2\n")
    return tmp_path


def test_shuffled_as_caffe_shuffles(images: Path) -> None:
    names = [f"{i}.png" for i in range(50)]
    for name in names:
        shutil.copy("a.png", name)
    Path("many.txt").write_text("".join(f"{name} 0\n" for name in names))
    set_random_seed(7)
    run_tool("convert_imageset", ["-shuffle", "./", "many.txt", "db"])
    CaffeRNG(7).shuffle(names)
    assert list(read_database(images / "db")) == [f"{i:08d}_{name}" for i, name in enumerate(names)]


def test_large_databases_grow(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More than LMDB's first ten megabytes, and more than one transaction."""
    Path("many.txt").write_text("a.png 3\n" * 1001)
    assert run_tool("convert_imageset", ["./", "many.txt", "db"]) == 0
    log = capsys.readouterr().err
    assert "convert_imageset.cpp:147] Processed 1000 files." in log
    assert "convert_imageset.cpp:153] Processed 1001 files." in log
    assert len(read_database(images / "db")) == 1001
    assert run_tool("compute_image_mean", ["db", "mean"]) == 0
    pixels = cv2.imread("a.png").transpose(2, 0, 1)
    np.testing.assert_allclose(read_binaryproto("mean")[0], pixels, atol=1e-4)


def test_unreadable_images_are_skipped_by_name(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("text.png").write_text("no image")
    os.mkfifo("pipe.png")
    Path("list.txt").write_text("a.png 1\ntext.png 1\nno.png 1\npipe.png 1\n\nx\0.png 1\nb c.jpeg 2\n")
    assert run_tool("convert_imageset", ["./", "list.txt", "db"]) == 0
    skipped = re.findall(r"E.*io\.cpp:80\] Could not open or find file (.*)", capsys.readouterr().err)
    assert skipped == ["./text.png", "./no.png", "./pipe.png", "./", "./x\\x00.png"]
    assert list(read_database(images / "db")) == ["00000000_a.png", "00000006_b c.jpeg"]


def test_files_are_kept_where_the_encoding_is_theirs(images: Path) -> None:
    run_tool("convert_imageset", ["-encode_type", "jpg", "-gray", "./", "list.txt", "db"])
    png, jpeg = (Datum.FromString(value) for value in read_database(images / "db").values())
    assert decoded(png).shape == (120, 100)
    assert jpeg.data == Path("b c.jpeg").read_bytes()  # in colour: Caffe's own slip


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("convert_imageset", "./ none.txt db", r"none\.txt: cannot be read .*: check the path"),
        ("convert_imageset", "./ list.txt old", r"Check failed: mkdir.* == 0 \(-1 vs. 0\) mkdir old failed"),
        ("convert_imageset", "./ long.txt db", r"db: key 00000000_\./\./.* has 514 bytes, .* 511: shorten"),
        ("convert_imageset", "./ list.txt no/db", "mkdir no/db failed"),
        ("convert_imageset", "-backend leveldb ./ list.txt db", "LevelDB is not supported: make an LMDB"),
        ("convert_imageset", "-encode_type qqq ./ list.txt db", r"a\.png: cannot be encoded as 'qqq'"),
        ("compute_image_mean", "none mean", "none: no such folder"),
        ("compute_image_mean", "leveldb mean", "leveldb: LevelDB is not supported: make an LMDB"),
        ("compute_image_mean", "old mean", "old: holds no items"),
        ("caffe", "train", "Need a solver definition to train"),
        ("caffe", "train -solver s -snapshot x -weights y", "Give a snapshot to resume training or weights"),
        ("caffe", "test -model m", "Need model weights to score"),
        ("caffe", "time", "Need a model definition to time"),
        ("caffe", "time -model none.prototxt", r"none\.prototxt: cannot be read"),
        ("caffe", "train -solver none.prototxt", r"none\.prototxt: cannot be read"),
        ("extract_features", "w net.prototxt ip,x db 1 lmdb", "w: there is no such file"),
        ("upgrade_net_proto_text", "none out", "File not found: none"),
        ("parse_log", "list.txt .", 'list.txt: has no line with "Solving"'),
        ("plot_training_log", "9 out.png list.txt", "chart type 9: must be one of 0: test:accuracy over"),
    ],
)
def test_one_line_says_what_is_wrong(tool: str, arguments: str, message: str, images: Path) -> None:
    Path("net.prototxt").write_text(
        'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 } } }'
    )
    Path("long.txt").write_text(f"{'./' * 250}a.png\n")
    lmdb.open("old").close()
    Path("leveldb").mkdir()
    Path("leveldb/CURRENT").write_text("MANIFEST-000002\n")
    before = sorted(images.rglob("*"))
    with pytest.raises(InputError, match=message) as error:
        run_tool(tool, arguments.split())
    assert "\n" not in str(error.value)
    assert sorted(images.rglob("*")) == before


def test_a_full_disk_leaves_nothing(bin_folder: Path, images: Path) -> None:
    """A limit on the size of files stands for it."""
    Path("many.txt").write_text("a.png 3\n" * 200)
    done = run(bin_folder, ["sh", "-c", "ulimit -f 900; convert_imageset ./ many.txt db"], images)
    assert done.returncode in (-6, 134)
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("F"))
    assert re.search(r"db: writing failed \(.*; is the disk full\?\): no database was made$", line)
    assert not list(images.glob("*db*")) + list(images.glob(".*"))


# ---- extract_features, time


def test_features_in_hdf5_and_all_of_a_list(replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers as in the LMDB; `all` ends with the database, in the middle of a batch."""
    monkeypatch.chdir(replay.folder)
    common = ["trained.caffemodel", "features.prototxt", "conv,fc"]
    assert run_tool("extract_features", [*common, "conv.h5,fc.h5", "all", "hdf5"]) == 0
    listed = len((TOOLS / "list.txt").read_text().splitlines())
    for name in ("conv", "fc"):
        with h5py.File(f"{name}.h5") as file:
            rows = file[name][()]
        assert len(rows) == listed
        golden = [
            Datum.FromString(value).float_data
            for value in read_database(replay.folder / f"db_{name}").values()
        ]
        flat = rows.reshape(listed, -1)[: len(golden)]
        np.testing.assert_allclose(flat, golden, atol=2e-6 * np.abs(golden).max())
    with pytest.raises(InputError, match="backend leveldb: LevelDB is not supported"):
        run_tool("extract_features", [*common, "a,b", "1", "leveldb"])
    with pytest.raises(InputError, match="Unknown feature blob name x in the network features"):
        run_tool("extract_features", [*common[:2], "x", "a", "1", "lmdb"])


def test_glog_minloglevel(bin_folder: Path, images: Path) -> None:
    command = ["env", "GLOG_minloglevel=2", "convert_imageset", "./", "list.txt", "db"]
    assert run(bin_folder, command, images).stderr == ""


# ---- Logs

LOG = """I1231 23:59:58.500000  7 solver.cpp:45] Initializing solver from parameters:
I1231 23:59:59.000000  7 solver.cpp:289] Solving net
I1231 23:59:59.250000  7 solver.cpp:347] Iteration 0, Testing net (#0)
I1231 23:59:59.500000  7 solver.cpp:414]     Test net output #0: acc = 0.25
I1231 23:59:59.500000  7 solver.cpp:414]     Test net output #1: err = 1.5 (* 1 = 1.5 loss)
I1231 23:59:59.750000  7 solver.cpp:239] Iteration 0 (0 iter/s, 0.1s/5 iters), loss = 2.5
I1231 23:59:59.750000  7 solver.cpp:258]     Train net output #0: err = 2.25 (* 1 = 2.25 loss)
I1231 23:59:59.750000  7 sgd_solver.cpp:112] Iteration 0, lr = 0.01
I0101 00:00:00.000000  7 solver.cpp:239] Iteration 5 (9 iter/s, 0.1s/5 iters), loss = 1.5e-05
I0101 00:00:00.000000  7 solver.cpp:258]     Train net output #0: err = 1.25 (* 1 = 1.25 loss)
I0101 00:00:00.000000  7 sgd_solver.cpp:112] Iteration 5, lr = 0.001
I0101 00:00:01.000000  7 solver.cpp:347] Iteration 10, Testing net (#0)
a line without a time
I0101 00:00:01.500000  7 solver.cpp:414]     Test net output #0: acc = 0.5
I0101 00:00:01.500000  7 solver.cpp:414]     Test net output #1: err = nan (* 1 = nan loss)
I0101 00:00:02.500000  7 solver.cpp:239] Iteration 10 (9 iter/s, 0.1s/5 iters), loss = 1
"""


def test_parse_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The columns and the quirks of Caffe's parse_log.py, over New Year."""
    monkeypatch.chdir(tmp_path)
    Path("a.log").write_text(LOG)
    assert run_tool("parse_log", ["a.log", ".", "--delimiter", ";"]) == 0
    assert Path("a.log.train").read_bytes().decode().split("\r\n") == [
        "NumIters;Seconds;LearningRate;err",
        "0.0;0.75;0.01;2.25",
        "5.0;1.0;0.01;1.25",
        "",
    ]
    assert Path("a.log.test").read_bytes().decode().split("\r\n") == [
        "NumIters;Seconds;LearningRate;acc;err",
        "0.0;0.5;0.001;0.25;1.5",
        "10.0;2.5;0.001;0.5;nan",
        "",
    ]


def test_plot_training_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.log").write_text(LOG)
    Path("b.log").write_text(LOG.replace("acc = 0.5", "acc = 0.75"))
    assert curve("a.log", "test:accuracy", "NumIters") == [(0, 0.25), (10, 0.5)]
    assert curve("a.log", "solver:loss", "Seconds") == [(0.75, 2.5), (1.0, 1.5e-5), (3.5, 1)]
    assert curve("a.log", "train:err", "LearningRate") == [(0.01, 2.25), (0.01, 1.25)]
    assert run_tool("plot_training_log", ["0", "out.csv", "a.log", "b.log"]) == 0
    lines = Path("out.csv").read_text().splitlines()
    assert lines == [
        "log,NumIters,test:accuracy",
        "a.log,0.0,0.25",
        "a.log,10.0,0.5",
        "b.log,0.0,0.25",
        "b.log,10.0,0.75",
    ]
    assert run_tool("plot_training_log", ["-y", "test:err", "-x", "acc", "out.png", "a.log", "b.log"]) == 0
    assert cv2.imread("out.png") is not None
    with pytest.raises(InputError, match=r"test has no column 'err2': it has NumIters, Seconds, .* acc, err"):
        curve("a.log", "test:err2", "NumIters")
    with pytest.raises(InputError, match=r"no numbers of 'best'.*: train, test, solver"):
        curve("a.log", "best:err", "NumIters")


def test_summarize(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tool("summarize", [str(TOOLS / "v1.prototxt")]) == 0
    printed = capsys.readouterr().out
    assert "\033[1;4ml" in printed  # read by no layer
    rows = [line.split() for line in re.sub(r"\033\[[\d;]+m", "", printed).splitlines()]
    assert rows == [
        ["input", "Input", "->", "data"],
        ["c", "Convolution", "(,", "x2.0", "Dx0.0)", "data", "->", "c", "3", "4"],
        ["r", "ReLU", "c", "->", "c"],
        ["p", "Pooling", "c", "->", "p", "2/2"],
        ["i", "InnerProduct", "p", "->", "i"],
        ["l", "Softmax", "i", "->", "l"],
    ]


@pytest.mark.parametrize("library", ["opencv", "PIL"])
def test_resize_and_crop_images(library: str, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.txt").write_text("a.png\nno.png\n../a.png\n")
    flags = ["--input=list.txt", "--input_folder=./", "--output_folder=out", f"--image_lib={library}"]
    assert run_tool("resize_and_crop_images", [*flags, "--output_side_length=16", "--num_clients=2"]) == 0
    assert cv2.imread("out/a.png").shape == (16, 16, 3)
    assert [path.name for path in Path("out").rglob("*")] == ["a.png"]
    log = capsys.readouterr().err
    assert "no.png" in log
    assert "../a.png: lies outside of --output_folder: skipped" in log
    if library == "opencv":
        whole = cv2.resize(cv2.imread("a.png"), (16, 16 * 120 // 100))
        np.testing.assert_array_equal(cv2.imread("out/a.png"), whole[1:17])


def test_tools_are_commands(seenet, images: Path) -> None:
    """`seenet NAME`: what is wrong is one line, and status 2."""
    assert seenet("convert_imageset", "./", "none.txt", "db") == (
        2,
        "",
        "error: none.txt: cannot be read (No such file or directory): check the path\n",
    )
    assert seenet("convert_imageset", "./", "list.txt", "db")[0] == 0
    status, out, _ = seenet("launchers", "--out", "bin")
    assert (status, "bin/caffe\n" in out) == (0, True)
    done = subprocess.run(
        [sys.executable, "-m", "port.tools"], capture_output=True, text=True, cwd=GOLDEN.parents[1]
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: python -m port.tools NAME")
