"""`train_caffe_equiv.py` against whole runs of genuine Caffe, its own resumption, and what goes wrong."""

import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import port.pycaffe as caffe
from parity_tests.recordings import GOLDEN, error
from port.training.command import main, train_command
from port.training.net import TrainingNet
from port.training.snapshots import _sealed
from prototxt.caffe_pb2 import LayerParameter, NetParameter
from weights import progress, read_solverstate, read_weights

RUNS = ("train_run", "seg_train_run")
WEIGHTS, LOSS, NOISE = 2e-4, 1e-4, 6

_PREFIX = re.compile(r"^([IWEF])\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ (\S+)\] (.*)$")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf)")
_TIMING = re.compile(r" \(\S+ iter/s, \S+s/\d+ iters\)")


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes a fresh copy of a recorded run's inputs the current folder; the recording stays where it is."""

    def prepare(name: str, **fields: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(GOLDEN / name, folder, ignore=shutil.ignore_patterns("snap_*", "resumed_*", "*.log"))
        folder.chmod(0o755)
        solver = folder / "solver.prototxt"
        solver.chmod(0o644)
        text = solver.read_text()
        for field, value in fields.items():
            text = re.sub(rf"^{field}:.*\n", "", text, flags=re.M) + f"{field}: {value}\n"
        solver.write_text(text)
        monkeypatch.chdir(folder)
        return folder

    return prepare


def log_lines(text: str, files: tuple[str, ...] = ("solver.cpp", "sgd_solver.cpp")) -> list[tuple[str, str]]:
    """(place, message) of the log's lines from `files`, timing cut; recordings lack the time columns."""
    found = []
    for line in text.splitlines():
        match = _PREFIX.match(line) or re.match(r"^([IWEF]) (\S+)\] (.*)$", line)
        if match and match[2].split(":")[0] in files:
            found.append((match[2], _TIMING.sub("", match[3])))
    return found


def worded(lines: list[tuple[str, str]], places: bool) -> list[str]:
    """The lines without their numbers, apart from the iterations'."""
    shown = []
    for place, message in lines:
        kept = re.match(r"Iteration \d+", message)
        shown.append((place if places else "") + (kept[0] if kept else "") + _NUMBER.sub("#", message))
    return shown


def numbers(message: str) -> list[float]:
    return [float(number) for number in _NUMBER.findall(message)]


def noise(name: str) -> dict[int, float]:
    """By iteration: how far another BLAS kernel had moved genuine Caffe's printed numbers, so far."""
    texts = [(GOLDEN / name / log).read_text() for log in ("train.log", "train.other_blas.log")]
    floor, largest, iteration = {}, 0.0, 0
    for (_, one), (_, other) in zip(*map(log_lines, texts), strict=True):
        if found := re.match(r"Iteration (\d+)", one):
            iteration = int(found[1])
        differences = np.abs(np.subtract(numbers(one), numbers(other)))
        largest = max([largest, *differences])
        floor[iteration] = largest
    return floor


def compare_logs(ours: str, golden: str, floor: dict[int, float], places: bool = True) -> None:
    """Word for word; rates and accuracies as printed; losses within the judged distance.

    A test net's loss may differ by one in the last printed digit, or by the judged multiple of what the other
    BLAS kernel did: genuine Caffe itself does not print the same digit twice.
    """
    ours, golden = log_lines(ours), log_lines(golden)
    assert worded(ours, places) == worded(golden, places)
    iteration = 0
    for (_, mine), (_, theirs) in zip(ours, golden, strict=True):
        if found := re.match(r"Iteration (\d+)", theirs):
            iteration = int(found[1])
        if "lr = " in theirs or ("Test net output" in theirs and " loss)" not in theirs):
            assert mine == theirs
            continue
        allowed = max(LOSS, NOISE * floor.get(iteration, 0))
        if "Test net output" in theirs:
            last_digit = max(10.0 ** (np.floor(np.log10(abs(n))) - 5) for n in numbers(theirs) if n)
            allowed = max(1.01 * last_digit, NOISE * floor.get(iteration, 0))
        np.testing.assert_allclose(numbers(mine), numbers(theirs), rtol=0, atol=allowed, err_msg=theirs)


def compare_weights(ours: Path | str, golden: Path, within: float = WEIGHTS) -> None:
    mine, theirs = read_weights(ours, with_empty=True), read_weights(golden, with_empty=True)
    assert [layer.name for layer in mine] == [layer.name for layer in theirs]
    for layer, recorded in zip(mine, theirs, strict=True):
        for i, (blob, target) in enumerate(zip(layer.blobs, recorded.blobs, strict=True)):
            assert error(blob, target) <= within, f"{layer.name}/{i}"


def compare_states(ours: str, golden: Path) -> None:
    """A history is what is subtracted from the weights next, so it is held against their size."""
    mine, theirs = read_solverstate(ours), read_solverstate(golden)
    for field in ("iteration", "learned_net", "current_step"):
        assert getattr(mine, field) == getattr(theirs, field)
    weights = [blob for layer in read_weights(golden.with_suffix(".caffemodel")) for blob in layer.blobs]
    for blob, target, weight in zip(mine.history, theirs.history, weights, strict=True):
        assert error(blob, target, np.abs(weight).max()) <= WEIGHTS


def layer_messages(path: Path | str) -> list[str | LayerParameter]:
    """What a .caffemodel says of its layers, but for the numbers."""
    net = NetParameter.FromString(Path(path).read_bytes())
    for layer in net.layer:
        for blob in layer.blobs:
            blob.ClearField("data")
    return [net.name, *net.layer]


@pytest.mark.parametrize("name", RUNS)
def test_whole_run(name: str, run_folder, capfd: pytest.CaptureFixture) -> None:
    run_folder(name)
    train_command("solver.prototxt")
    genuine = name == "train_run"  # the fork's source has other line numbers
    compare_logs(
        capfd.readouterr().err, (GOLDEN / name / "train.log").read_text(), noise(name), places=genuine
    )
    for path in (GOLDEN / name).glob("snap_*.caffemodel"):
        compare_weights(path.name, path)
        assert layer_messages(path.name) == layer_messages(path)
        compare_states(path.with_suffix(".solverstate").name, path.with_suffix(".solverstate"))


def test_resume_from_genuine_caffe(run_folder, capfd: pytest.CaptureFixture) -> None:
    """Without our sidecar the seeds begin afresh, as Caffe's do."""
    folder, golden = run_folder("train_run"), GOLDEN / "train_run"
    for path in golden.glob("snap_iter_50.*"):
        shutil.copy(path, folder)
    train_command("solver.prototxt", snapshot="snap_iter_50.solverstate")
    log = capfd.readouterr().err
    compare_logs(log, (golden / "resume_from_50.log").read_text(), noise("train_run"))
    assert ("caffe.cpp:235", "Resuming from snap_iter_50.solverstate") in log_lines(log, ("caffe.cpp",))
    compare_weights("snap_iter_100.caffemodel", golden / "resumed_iter_100.caffemodel")


def test_pycaffe_trains_alike(run_folder, capfd: pytest.CaptureFixture) -> None:
    run_folder("train_run", max_iter="20", snapshot="10")
    solver = caffe.SGDSolver("solver.prototxt")
    assert solver.lr == pytest.approx(0.05) and len(solver.test_nets) == 1
    solver.solve()
    assert solver.iter == 20
    ours = capfd.readouterr().err
    golden = (GOLDEN / "train_run" / "train.log").read_text()
    lines = [line for line in log_lines(golden) if "Train net output" in line[1]][:20]
    mine = [line for line in log_lines(ours) if "Train net output" in line[1]]
    for (_, one), (_, other) in zip(mine, lines, strict=True):
        np.testing.assert_allclose(numbers(one), numbers(other), rtol=0, atol=LOSS)
    after = {name: blobs[0].data.copy() for name, blobs in solver.net.params.items()}
    assert solver.test_nets[0].params["conv1"][0].data is not None
    resumed = caffe.get_solver("solver.prototxt")
    resumed.solve("snap_iter_10.solverstate")
    for name, blobs in resumed.net.params.items():
        assert np.array_equal(blobs[0].data, after[name]), name


def test_log_is_for_caffes_parser(run_folder, capfd: pytest.CaptureFixture) -> None:
    """What tools/extra/parse_log.py looks for, in the columns where it looks."""
    run_folder("train_run", max_iter="3", test_interval="2")
    train_command("solver.prototxt")
    lines = capfd.readouterr().err.splitlines()
    start = next(line for line in lines if "Solving" in line)
    month_day, clock = start.split()[:2]
    assert (
        month_day[0] == "I"
        and 1 <= int(month_day[1:3]) <= 12
        and re.fullmatch(r"\d\d:\d\d:\d\d\.\d{6}", clock)
    )
    text = "\n".join(lines)
    assert re.findall(r"Iteration (\d+), Testing", text) == ["0", "2"]
    assert len(re.findall(r"Train net output #(\d+): (\S+) = ([\.\deE+-]+)", text)) == 3
    assert len(re.findall(r"Test net output #(\d+): (\S+) = ([\.\deE+-]+)", text)) == 4
    assert len(re.findall(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)", text)) == 3
    for wanted in (
        "Creating Layer conv1",
        "conv1 <- data",
        "relu1 -> conv1 (in-place)",
        "Top shape: 6 8 20 20 (19200)",
    ):
        assert any(line.endswith(f"] {wanted}") for line in lines), wanted


def test_off_a_terminal_rate_and_time_left_are_on_stdout(
    run_folder, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On stderr there is Caffe's log alone, word for word as without them."""
    run_folder("train_run", max_iter="3", display="1")
    logs = []
    for seconds in (600, 0):
        monkeypatch.setattr(progress, "QUIET_SECONDS", seconds)
        train_command("solver.prototxt")
        out, err = capfd.readouterr()
        logs.append(worded(log_lines(err), places=True))
    assert re.search(r"^training: 3/3, \S+ iterations/s, 0 min left$", out, re.M), out
    assert "iterations/s" not in err and logs[0] == logs[1]


@pytest.mark.parametrize("snapshot_format", ["BINARYPROTO", "HDF5"])
def test_own_resumption_is_exact(snapshot_format: str, run_folder) -> None:
    """Data order, crops, mirrors and dropout go on where they stood."""
    run_folder("train_run", max_iter="24", snapshot="12", test_interval="8", snapshot_format=snapshot_format)
    end = ".h5" if snapshot_format == "HDF5" else ""
    train_command("solver.prototxt")
    straight = Path(f"snap_iter_24.caffemodel{end}").rename(f"straight.caffemodel{end}")
    train_command("solver.prototxt", snapshot=f"snap_iter_12.solverstate{end}")
    compare_weights(f"snap_iter_24.caffemodel{end}", straight, within=0)


def test_iterations_leave_the_schedule_alone(run_folder, capfd: pytest.CaptureFixture) -> None:
    run_folder("train_run", lr_policy='"poly"', power="1", test_interval="0", display="2")
    Path("solver.prototxt").write_text(Path("solver.prototxt").read_text().replace("test_iter: 2\n", ""))
    train_command("solver.prototxt", iterations=3)
    assert Path("snap_iter_3.caffemodel").exists()
    rates = [numbers(message)[1] for _, message in log_lines(capfd.readouterr().err) if "lr = " in message]
    assert rates == [0.05, 0.049]


def test_weights_fields_and_stages(run_folder, capfd: pytest.CaptureFixture) -> None:
    """`weights:` in the solver, --weights in its place; a layer that only a stage includes."""
    run_folder("train_run", max_iter="0", snapshot="0", test_interval="100")
    golden = GOLDEN / "train_run" / "snap_iter_50.caffemodel"
    Path("net.prototxt").chmod(0o644)
    with open("net.prototxt", "a") as net:
        net.write('layer { name: "spare" type: "Silence" bottom: "spare" include { stage: "extra" } }\n')
        net.write('layer { name: "add" type: "DummyData" top: "spare" include { stage: "extra" } }\n')
    text = Path("net.prototxt").read_text().splitlines()
    Path("net.prototxt").write_text(
        "\n".join([*text[:-2], text[-1], text[-2]]).replace(
            'type: "DummyData"', 'type: "DummyData" dummy_data_param { shape { dim: 1 } }'
        )
    )
    with open("solver.prototxt", "a") as solver:
        solver.write('weights: "missing.caffemodel"\n')
    train_command("solver.prototxt", weights=str(golden), stage="extra")
    log = capfd.readouterr().err
    compare_weights_of = {layer.name: layer.blobs for layer in read_weights("snap_iter_0.caffemodel")}
    for layer in read_weights(golden):
        for blob, target in zip(compare_weights_of[layer.name], layer.blobs, strict=True):
            assert np.array_equal(blob, target)
    assert ("solver.cpp:72", f"Finetuning from {golden}") in log_lines(log)
    assert "Creating Layer spare" in log


def test_several_test_nets(run_folder, capfd: pytest.CaptureFixture) -> None:
    """One from a file of its own, the rest from the training net's; states, compute_loss, no first test."""
    folder = run_folder(
        "train_run",
        max_iter="4",
        test_interval="2",
        test_iter="1 test_iter: 2",
        test_net='"other.prototxt"',
        test_state='{ stage: "deploy" } test_state { }',
        test_compute_loss="true",
        test_initialization="false",
    )
    net = Path("net.prototxt").read_text()
    rule = 'include { phase: TEST stage: "deploy" }'
    (folder / "other.prototxt").write_text(
        net.replace('top: "accuracy" include { phase: TEST }', f'top: "accuracy" {rule}').replace(
            'name: "accuracy"', 'name: "right"'
        )
    )
    train_command("solver.prototxt")
    log = log_lines(capfd.readouterr().err, ("solver.cpp", "net.cpp"))
    said = [message for _, message in log]
    assert ("solver.cpp:190", "Creating test net (#0) specified by test_net file: other.prototxt") in log
    assert ("solver.cpp:190", "Creating test net (#1) specified by net file: net.prototxt") in log
    tested = [message for message in said if "Testing net" in message]
    assert tested == [f"Iteration {i}, Testing net (#{k})" for i in (2, 4) for k in (0, 1)]
    assert sum(message.startswith("Test loss: ") for message in said) == 4
    phase = "The NetState phase (0) differed from the phase (1) specified by a rule in layer data"
    assert ("net.cpp:296", phase) in log


def test_nets_inside_the_solver(run_folder, capfd: pytest.CaptureFixture) -> None:
    """train_net_param and test_net_param train as the files do."""
    run_folder("train_run", max_iter="3", test_interval="2")
    train_command("solver.prototxt")
    from_files = capfd.readouterr().err
    net = Path("net.prototxt").read_text()
    solver = Path("solver.prototxt").read_text().replace('net: "net.prototxt"', "")
    Path("solver.prototxt").write_text(f"{solver} train_net_param {{ {net} }} test_net_param {{ {net} }}")
    train_command("solver.prototxt")
    inside = capfd.readouterr().err
    pick = [
        [line for line in log_lines(text) if "#" in line[1] and "net output" in line[1]]
        for text in (from_files, inside)
    ]
    assert pick[0] == pick[1] and len(pick[0]) == 7
    assert ("solver.cpp:88", "Creating training net specified in train_net_param.") in log_lines(inside)


def test_debug_info_is_that_of_both_engines(run_folder, capfd: pytest.CaptureFixture) -> None:
    """The two engines of the port, one layer by layer on blobs, the other by autograd, say the same."""
    run_folder("train_run", max_iter="1", test_interval="0", debug_info="true", iter_size="2")
    Path("solver.prototxt").write_text(Path("solver.prototxt").read_text().replace("test_iter: 2\n", ""))
    train_command("solver.prototxt")
    ours = log_lines(capfd.readouterr().err, ("net.cpp",))
    caffe.SGDSolver("solver.prototxt").solve()
    theirs = log_lines(capfd.readouterr().err, ("net.cpp",))
    assert worded(ours, True) == worded(theirs, True)
    said = [
        message
        for place, message in ours
        if place in ("net.cpp:593", "net.cpp:621", "net.cpp:632", "net.cpp:721")
    ]
    assert len(said) > 40
    for (_, one), (_, other) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(numbers(one), numbers(other), rtol=2e-5)


@pytest.mark.parametrize(
    ("number", "effect"),
    [(signal.SIGINT, "stop"), (signal.SIGHUP, "snapshot"), (signal.SIGINT, "none"), (signal.SIGTERM, "stop")],
)
def test_signals(
    number: int, effect: str, run_folder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    run_folder("train_run", max_iter="6", snapshot="0")
    run, passes = TrainingNet.forward_backward, []

    def interrupted(self: TrainingNet) -> np.float32:
        passes.append(1)
        if len(passes) == 3:
            signal.raise_signal(number)
        return run(self)

    monkeypatch.setattr(TrainingNet, "forward_backward", interrupted)
    train_command("solver.prototxt", sigint_effect=effect if number != signal.SIGHUP else "stop")
    log = capfd.readouterr().err
    written = sorted(path.name for path in Path().glob("*.caffemodel"))
    expected = {"stop": ["snap_iter_3.caffemodel"], "none": ["snap_iter_6.caffemodel"]}
    assert written == expected.get(effect, ["snap_iter_3.caffemodel", "snap_iter_6.caffemodel"])
    assert ("Optimization stopped early." in log) == (effect == "stop")


COUNTING = """
import caffe

class Counting(caffe.Layer):
    def setup(self, bottom, top):
        self.count = 0
    def reshape(self, bottom, top):
        top[0].reshape(2, 3)
    def forward(self, bottom, top):
        self.count += 1
        top[0].data[...] = [[self.count, 1, 0], [2, 0, self.count]]
    def backward(self, top, propagate_down, bottom):
        pass
    def state(self):
        return self.count
    def restore(self, state):
        self.count = state
"""
COUNTING_NET = """
layer { name: "count" type: "Python" top: "data" python_param { module: "counting" layer: "Counting" } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 1 weight_filler { type: "xavier" } } }
layer { name: "zero" type: "DummyData" top: "zero" dummy_data_param { shape { dim: 2 dim: 1 } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "zero" top: "loss" }
"""


def test_python_layers_are_allowed_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """Not imported unasked; once allowed, a layer that tells its state resumes exactly, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("counting.py").write_text(COUNTING)
    Path("net.prototxt").write_text(COUNTING_NET)
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.001 lr_policy: "fixed" max_iter: 4 snapshot: 2 snapshot_prefix: "snap"'
    )
    told = fails(capfd, "--solver", "solver.prototxt")
    assert 'Python module "counting" is not loaded unasked' in told and "counting" not in sys.modules
    train_command("solver.prototxt", allow_module=["counting"])
    straight = Path("snap_iter_4.caffemodel").rename("straight.caffemodel")
    train_command("solver.prototxt", allow_module=["counting"], snapshot="snap_iter_2.solverstate")
    compare_weights("snap_iter_4.caffemodel", straight, within=0)


# ---- killed at any instant

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["parity_tests.test_training", "torch._dynamo"])  # optimizers import it


def _train(folder: Path, snapshot: str) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    train_command("solver.prototxt", snapshot=snapshot)


def _newest_state(folder: Path) -> str:
    states = sorted(
        folder.glob("snap_iter_*.solverstate"), key=lambda path: int(re.findall(r"\d+", path.name)[-1])
    )
    return states[-1].name if states else ""


def _killed_runs(folder: Path, instants: int) -> None:
    """Start, kill at a random instant, go on from the newest .solverstate; the last run is let through."""
    draw = np.random.default_rng()
    first = _FORKS.Process(target=time.sleep, args=(0,))
    first.start()  # and with it the server, which takes seconds
    first.join()
    began = time.monotonic()
    process = _FORKS.Process(target=_train, args=(folder, ""))
    process.start()
    process.join()
    assert process.exitcode == 0
    whole = time.monotonic() - began
    straight = (folder / "snap_iter_12.caffemodel").rename(folder / "straight.caffemodel")
    for path in folder.glob("snap_*"):
        path.unlink()
    for _ in range(instants):
        process = _FORKS.Process(target=_train, args=(folder, _newest_state(folder)))
        process.start()
        process.join(draw.uniform(0.1, 1.0) * whole)
        process.kill()
        process.join()
        for path in folder.glob("snap_iter_*.caffemodel"):
            read_weights(path)  # whole, whichever instant it was
    if not (folder / "snap_iter_12.solverstate").exists():
        process = _FORKS.Process(target=_train, args=(folder, _newest_state(folder)))
        process.start()
        process.join()
        assert process.exitcode == 0
    compare_weights(folder / "snap_iter_12.caffemodel", straight, within=0)


def test_leftovers_of_a_killed_run_go(run_folder) -> None:
    folder = run_folder("train_run", max_iter="1", test_interval="100")
    (folder / ".snap_iter_7.partial-abcdefgh.caffemodel").touch()
    (folder / ".other_iter_7.partial-abcdefgh.caffemodel").touch()
    train_command("solver.prototxt")
    assert [path.name for path in folder.glob(".*")] == [".other_iter_7.partial-abcdefgh.caffemodel"]


def test_killed_and_resumed(run_folder) -> None:
    _killed_runs(run_folder("train_run", max_iter="12", snapshot="1", test_interval="5"), 3)


@pytest.mark.slow
def test_killed_at_20_instants(run_folder) -> None:
    folder = run_folder("train_run", max_iter="12", snapshot="1", test_interval="5")
    for _ in range(5):
        _killed_runs(folder, 4)
        for path in folder.glob("snap_*"):
            path.unlink()


# ---- several ranks

SHARED_NET = """
layer {{ name: "rows" type: "HDF5Data" top: "data" top: "label"
        hdf5_data_param {{ source: "list.txt" batch_size: {batch} }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
        inner_product_param {{ num_output: 6 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }}
"""
SHARED_SOLVER = """net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.001 max_iter: 6
  display: 1 snapshot: 3 snapshot_prefix: "snap" random_seed: 5 solver_mode: CPU """


def _rank(folder: Path, rank: int, port: int, arguments: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    os.chdir(folder)
    os.dup2(os.open(f"log{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    main(["--solver", "solver.prototxt", *arguments])


def _two_ranks(folder: Path, *arguments: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [_FORKS.Process(target=_rank, args=(folder, rank, port, arguments)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0


def test_two_ranks_are_iter_size_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank its share of the rows, the gradients averaged; the first logs and writes; it resumes exactly."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(1)
    with h5py.File("rows.h5", "w") as file:
        file["data"] = draw.normal(size=(24, 5)).astype(np.float32)
        file["label"] = draw.integers(0, 3, size=(24, 1)).astype(np.float32)
    Path("list.txt").write_text("rows.h5\n")
    Path("net.prototxt").write_text(SHARED_NET.format(batch=4))
    Path("solver.prototxt").write_text(SHARED_SOLVER + "iter_size: 2\n")
    train_command("solver.prototxt")
    alone = Path("snap_iter_6.caffemodel").rename("alone.caffemodel")
    Path("solver.prototxt").write_text(SHARED_SOLVER)
    _two_ranks(tmp_path)
    compare_weights("snap_iter_6.caffemodel", alone, within=2e-6)
    together = Path("snap_iter_6.caffemodel").rename("together.caffemodel")
    assert "Iteration 5, lr = 0.1" in Path("log0").read_text() and Path("log1").read_text() == ""
    _two_ranks(tmp_path, "--snapshot", "snap_iter_3.solverstate")
    compare_weights("snap_iter_6.caffemodel", together, within=0)


# ---- what goes wrong


def fails(capfd: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line with which the command ends, with status 2."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    last = capfd.readouterr().err.splitlines()
    told = [line for line in last if line.startswith("error: ")]
    assert caught.value.code == 2 and told == last[-1:]
    return told[0]


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        (
            "base_rate",
            "1",
            'solver.prototxt:18: Message type "SolverParameter" has no field named "base_rate"',
        ),
        ("net", '"no.prototxt"', "no.prototxt: cannot be read"),
        ("train_net", '"net.prototxt"', "names 2 training nets: train_net, net"),
        ("net_param", '{ name: "x" }', "names 2 training nets: net_param, net"),
        ("iter_size", "0", "solver.prototxt: iter_size: 0 must be at least 1"),
        ("lr_policy", '"stepp"', 'solver.prototxt: lr_policy: "stepp" is unknown'),
        ("test_interval", "0", "solver.prototxt: test_interval: must be above 0"),
        ("snapshot_prefix", '"no/such/folder/snap"', '"no/such/folder/snap" cannot be written to'),
        ("snapshot_prefix", '"train.txt/snap"', '"train.txt/snap" cannot be written to'),
        ("test_net", '"net.prototxt" test_net: "net.prototxt"', "1 test_iter for 2 test nets"),
        ("test_state", "{ } test_state { }", "2 test_state for 1 test nets"),
        ("weights", '"no.caffemodel"', "no.caffemodel: there is no such file"),
    ],
)
def test_bad_solver_is_one_line(
    field: str, value: str, told: str, run_folder, capfd: pytest.CaptureFixture
) -> None:
    run_folder("train_run", **{field: value})
    assert told in fails(capfd, "--solver", "solver.prototxt")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--solver", "none.prototxt"], "none.prototxt: cannot be read"),
        (["--solver", "solver.prototxt", "--snapshot", "a", "--weights", "b"], "give one of the two"),
        (
            ["--solver", "solver.prototxt", "--snapshot", "no.solverstate"],
            "no.solverstate: there is no such file",
        ),
        (["--solver", "solver.prototxt", "--device", "tpu"], '--device "tpu": must be one of cpu, cuda'),
        (
            ["--solver", "solver.prototxt", "--sigint_effect", "quit"],
            '"quit": must be one of stop, snapshot, none',
        ),
    ],
)
def test_bad_options_are_one_line(
    arguments: list[str], told: str, run_folder, capfd: pytest.CaptureFixture
) -> None:
    run_folder("train_run")
    assert told in fails(capfd, *arguments)


def test_bad_solverstates_are_one_line(run_folder, capfd: pytest.CaptureFixture) -> None:
    folder = run_folder("train_run", max_iter="4", snapshot="2", test_interval="100")
    train_command("solver.prototxt")
    resume = ("--solver", "solver.prototxt", "--snapshot", "snap_iter_2.solverstate")
    solver, net = Path("solver.prototxt").read_text(), Path("net.prototxt").read_text()
    Path("net.prototxt").chmod(0o644)

    Path("solver.prototxt").write_text(solver + 'type: "Nesterov"\n')
    assert "was written by type SGD, this solver is Nesterov" in fails(capfd, *resume)
    Path("solver.prototxt").write_text(solver + 'type: "Adam"\n')
    sidecar = folder / "snap_iter_2.solverstate.sidecar.json"
    kept = sidecar.rename(folder / "kept.json")
    assert "another net or another type of solver" in fails(capfd, *resume)
    Path("solver.prototxt").write_text(solver)
    Path("net.prototxt").write_text(net.replace("num_output: 8", "num_output: 7"))
    assert 'layer "conv1": blob 0 is 8×3×3×3 in the file but 7×3×3×3 in the net' in fails(capfd, *resume)
    Path("net.prototxt").write_text(net)

    sidecar.write_text("{")
    assert "sidecar.json: cannot be read" in fails(capfd, *resume)
    forged = json.loads((folder / "kept.json").read_text())
    forged.pop("crc32")
    forged["ranks"][0]["random"]["pos"] = 10**9  # beyond the generator's table: NumPy would read there
    sidecar.write_bytes(_sealed(forged))
    assert "its sidecar does not hold what a sidecar holds" in fails(capfd, *resume)
    shutil.copy(folder / "snap_iter_4.solverstate.sidecar.json", sidecar)
    assert "belongs to another snapshot" in fails(capfd, *resume)
    kept.rename(sidecar)
    Path("net.prototxt").write_text(net.replace('name: "data"', 'name: "images"'))
    assert "its sidecar is of other data layers" in fails(capfd, *resume)
    Path("net.prototxt").write_text(net)
    state = folder / "snap_iter_2.solverstate"
    state.write_bytes(state.read_bytes()[:-40])
    assert "snap_iter_2.solverstate" in fails(capfd, *resume)
    (folder / "snap_iter_4.caffemodel").unlink()
    assert "its weights snap_iter_4.caffemodel are missing" in fails(
        capfd, *resume[:-1], "snap_iter_4.solverstate"
    )


def test_full_disk_keeps_the_last_snapshot(run_folder, capsys: pytest.CaptureFixture) -> None:
    folder = run_folder("train_run", max_iter="4", snapshot="2", test_interval="100")
    train_command("solver.prototxt", iterations=2)
    before = {path: path.read_bytes() for path in folder.glob("snap_*")}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, hard))
    try:
        with pytest.raises(SystemExit) as caught:
            main(["--solver", "solver.prototxt", "--snapshot", "snap_iter_2.solverstate"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: snap_iter_4.")
    assert {path: path.read_bytes() for path in folder.glob("snap_*")} == before
    assert not list(folder.glob(".snap_*"))


def test_only_the_last_snapshot_is_tried_before_training(run_folder, capfd: pytest.CaptureFixture) -> None:
    run_folder("train_run", snapshot="0", snapshot_prefix='"no/folder/snap"')
    assert '"no/folder/snap" cannot be written to' in fails(capfd, "--solver", "solver.prototxt")
    with open("solver.prototxt", "a") as solver:
        solver.write("snapshot_after_train: false")
    train_command("solver.prototxt", iterations=1)


def test_nan_stops_at_once(run_folder, capfd: pytest.CaptureFixture) -> None:
    folder = run_folder("train_run", base_lr="1e19", snapshot="1", test_interval="100")
    told = fails(capfd, "--solver", "solver.prototxt")
    assert re.search(r"iteration \d+: the loss is -?(nan|inf); not finite first: the \w+ of layer", told), (
        told
    )
    assert "net.prototxt:" in told
    for path in folder.glob("*.caffemodel"):
        assert all(np.isfinite(blob).all() for layer in read_weights(path) for blob in layer.blobs)


def test_nan_in_the_data_names_its_layer(run_folder, capfd: pytest.CaptureFixture) -> None:
    run_folder("train_run", test_interval="100")
    Path("net.prototxt").chmod(0o644)
    text = Path("net.prototxt").read_text()
    layer = 'layer { name: "root" type: "Power" bottom: "gap" top: "gap" power_param { power: 0.5 } }\n'
    Path("net.prototxt").write_text(text.replace('layer { name: "loss"', layer + 'layer { name: "loss"'))
    told = fails(capfd, "--solver", "solver.prototxt")
    assert 'iteration 0: the loss is nan; not finite first: the output of layer "root" (net.prototxt:' in told


def test_tensorboard_is_there_or_one_line(run_folder, capfd: pytest.CaptureFixture) -> None:
    run_folder("train_run", max_iter="2", test_interval="1")
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        told = fails(capfd, "--solver", "solver.prototxt", "--tensorboard", "curves")
        assert "tensorboard must be installed for --tensorboard: pip install tensorboard" in told
    else:
        train_command("solver.prototxt", tensorboard=Path("curves"))
        assert list(Path("curves").glob("events.*"))


def test_a_label_out_of_range_names_its_line(run_folder, capfd: pytest.CaptureFixture) -> None:
    folder = run_folder("train_run", test_interval="100", test_initialization="false")
    lines = (folder / "train.txt").read_text().splitlines()
    (folder / "train.txt").unlink()
    (folder / "train.txt").write_text("\n".join([*lines[:2], "images/02.png 9", *lines[3:]]) + "\n")
    told = fails(capfd, "--solver", "solver.prototxt")
    assert "train.txt:3: images/02.png: label 9 is not from 0 to 4" in told and 'layer "loss"' in told


SCALE_NET = """
layer {{ name: "d" type: "HDF5Data" top: "x" top: "t" hdf5_data_param {{ source: "list.txt" batch_size: {batch} }} }}
layer {{ name: "scale" type: "Scale" bottom: "x" top: "y" scale_param {{ axis: 1 }} }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }}
"""


@pytest.mark.parametrize(("batch", "passes_that_count"), [(1, 1), (2, 2)])
def test_scale_forgets_passes_of_batch_1(
    batch: int, passes_that_count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Caffe's Scale replaces its gradient where all axes before its own are 1: iter_size sees the last pass."""
    monkeypatch.chdir(tmp_path)
    with h5py.File("rows.h5", "w") as file:
        file["x"] = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
        file["t"] = np.zeros((4, 3), np.float32)
    Path("list.txt").write_text("rows.h5\n")
    Path("net.prototxt").write_text(SCALE_NET.format(batch=batch))
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" iter_size: 2 max_iter: 1 snapshot_prefix: "s"'
    )
    train_command("solver.prototxt")
    rows = np.arange(1, 13).reshape(4, 3)[: 2 * batch]
    counted = rows[-batch * passes_that_count :]
    gradient = (counted**2).sum(axis=0) / batch / 2  # factor 1; the mean over iter_size passes
    (layer,) = [x for x in read_weights("s_iter_1.caffemodel") if x.name == "scale"]
    np.testing.assert_allclose(layer.blobs[0], 1 - 0.01 * gradient, rtol=1e-5)
