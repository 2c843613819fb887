"""`seenet bench`: what it measures is the same computation in every engine; nothing here asks how long it took."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import port
from parity_tests.bench import engines, nets, parts
from parity_tests.bench.command import PARTS
from parity_tests.bench.engines import NotHere, make_files, open_engine
from parity_tests.bench.parts import notebook_maps
from parity_tests.bench.timing import Timing, side_by_side
from parity_tests.recordings import NETS
from parity_tests.test_translate import LENET
from port.cli import app
from prototxt.errors import InputError


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> engines.Files:
    return make_files(tmp_path_factory.mktemp("bench"), "cpu", torch.get_num_threads(), narrow=True)


@pytest.fixture(autouse=True)
def opencvs_threads():
    before = cv2.getNumThreads()
    yield
    cv2.setNumThreads(before)


@pytest.mark.parametrize("name", engines.OPENERS)
def test_every_engine_computes_the_same_scores(name: str, files: engines.Files) -> None:
    try:
        forward = open_engine(name, files)
    except NotHere as why:
        pytest.skip(str(why))
    draw = np.random.default_rng(0)
    label = np.zeros((1, 1, 1, 20), np.float32)
    label[..., 5] = 1
    model = files.model().double()
    for size in (64, 48):
        data = draw.normal(0, 60, (1, 3, size, size)).astype(np.float32)
        with torch.inference_mode():
            truth = model(torch.from_numpy(data).double(), torch.from_numpy(label))
        for score, true in zip(forward(data, label), truth, strict=True):
            assert np.abs(score - true.numpy()).max() <= 1e-5 * true.abs().max()


def test_the_notebooks_way_gives_the_ports_maps(files: engines.Files) -> None:
    model = files.model()
    image = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    theirs = notebook_maps(engines.port_forward(model), image, [3, 14, 0], 64)
    ours = port.attention_maps(model, image, [3, 14, 0], 64)
    assert np.abs(theirs - ours).max() <= 2e-5


def test_the_command_tells_table_json_and_chart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(files: engines.Files):
        raise ModuleNotFoundError("No module named 'caffe'", name="caffe")

    few = {name: engines.OPENERS[name] for name in ("port", "port, winograd", "opencv")}
    few["caffe"] = missing
    monkeypatch.setattr(parts, "OPENERS", few)
    monkeypatch.setattr(engines, "OPENERS", few)
    report, chart = tmp_path / "bench.json", tmp_path / "bench.png"
    threads = torch.get_num_threads()
    arguments = f"bench --quick --rounds 2 --threads {threads} --only forward,job,training,convert".split()
    told = CliRunner().invoke(app, [*arguments, "--json", str(report), "--chart", str(chart)])
    assert told.exit_code == 0, told.output
    assert "caffe is not measured: caffe is not installed" in told.output
    measured = json.loads(report.read_text())["parts"]
    forward = measured[0]["rows"]
    assert list(forward) == ["port", "port, winograd", "opencv", "limit"]
    assert forward["port"]["ratio_to_base"] == 1 and forward["port"]["error"] <= 1e-5
    assert len(measured) == 6 and all(
        len(row["rounds"]) == 2 for part in measured for row in part["rows"].values()
    )
    assert cv2.imread(str(chart)).shape[0] > 500


def test_memory_is_measured_in_a_process_of_its_own(files: engines.Files) -> None:
    folder = files.weights.parent
    settings = parts.Settings(folder, files, 1, size=64, crop=64, batch=1, narrow=True)
    few = {name: engines.OPENERS[name] for name in ("port",)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "OPENERS", few)
        patch.setattr(parts, "onnx_file", lambda files: None)
        (part,) = parts.bench_memory(settings)
    assert 0 < part.rows["port"].median < 2000


@pytest.fixture(scope="module")
def net_files(tmp_path_factory: pytest.TempPathFactory) -> nets.NetFiles:
    folder = tmp_path_factory.mktemp("net")
    (folder / "lenet.prototxt").write_text(LENET)
    return nets.make_net_files(
        folder / "lenet.prototxt", None, 2, folder / "own", "cpu", torch.get_num_threads()
    )


@pytest.mark.parametrize("name", nets.OPENERS)
def test_every_engine_computes_the_same_of_any_net(name: str, net_files: nets.NetFiles) -> None:
    try:
        run = engines.opened(nets.OPENERS[name], net_files, name)
    except NotHere as why:
        pytest.skip(str(why))
    assert set(run()) == {"ip2", "prob"} and len(run()["prob"]) == 2
    assert nets._errors(net_files, {name: run})[name] <= 1e-5


def test_any_net_in_a_table(
    net_files: nets.NetFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nets, "OPENERS", {name: nets.OPENERS[name] for name in ("port", "port, fused")})
    report, threads = tmp_path / "bench.json", torch.get_num_threads()
    arguments = [
        "bench",
        str(net_files.prototxt),
        "--weights",
        str(net_files.weights),
        "--layers",
        "--batch",
        "2",
    ]
    told = CliRunner().invoke(
        app, [*arguments, "--rounds", "2", "--threads", str(threads), "--json", str(report)]
    )
    assert told.exit_code == 0, told.output
    one_pass, memory, steps = json.loads(report.read_text())["parts"]
    assert list(one_pass["rows"]) == ["port", "port, fused", "limit"]
    assert one_pass["rows"]["port, fused"]["error"] <= 1e-5 and "port, fused" in one_pass["columns"]["CPU ms"]
    assert 0 < memory["rows"]["port, fused"]["median"] < 2000
    assert "µs a layer" in steps["notes"][1]
    assert "ip1 + ip1_relu" in steps["rows"] and set(steps["columns"]) == {"port", "limit"}


def test_an_ssd_in_onnx_runtime_has_the_ports_boxes(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    files = nets.make_net_files(NETS / "ssd" / "narrow_deploy.prototxt", None, 1, tmp_path / "ssd", "cpu", 1)
    assert set(engines.opened(nets.OPENERS["onnxruntime"], files, "onnxruntime")()) >= {"detection_out"}


def test_every_part_is_a_function() -> None:
    written = {name.removeprefix("bench_") for name in vars(parts) if name.startswith("bench_")}
    assert written == set(PARTS)


def test_ratios_are_of_the_same_round() -> None:
    assert Timing([1, 10, 100]).ratio(Timing([2, 20, 200])) == 0.5
    calls = []
    timings = side_by_side({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert all(len(timing.seconds) == 2 for timing in timings.values())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--only speed", "the parts are forward, job"),
        ("--device tpu", "use cpu"),
        ("--chart bench.pdf", "is a .png"),
        ("--json .", "is a folder"),
        ("--layers", "are for a PROTOTXT"),
        ("net.prototxt", "are for SeeNet"),
        ("net.prototxt --weights a --weights b", "2 --weights for 1 nets"),
    ],
)
def test_refusals(arguments: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        CliRunner().invoke(app, ["bench", "--quick", *arguments.split()], catch_exceptions=False)
