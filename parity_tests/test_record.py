"""What `python -m parity_tests.record` writes is a recording as others are: of one engine, held against the other."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parity_tests import test_layers, test_solvers
from parity_tests.record.__main__ import main
from parity_tests.recordings import recorded

Record = Callable[..., tuple[str, dict]]


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """Runs the command on texts; gives the recording's name and its case."""

    def run(kind: str, name: str, *texts: str, options: str) -> tuple[str, dict]:
        files = []
        for i, text in enumerate(texts):
            files.append(tmp_path / f"{i}.prototxt")
            files[-1].write_text(text)
        out = tmp_path / "out"
        words = [kind, *map(str, files), "--name", name, "--out", str(out), *options.split()]
        monkeypatch.setattr(sys, "argv", ["record", *words])
        main()
        suite = str(out / name)
        return suite, recorded(suite)[0][0]

    return run


def net(shape: str, layers: str) -> str:
    dims = " ".join(f"dim: {size}" for size in shape.split())
    return f"""force_backward: true
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}
{layers}"""


FILLERS = 'weight_filler { type: "xavier" } bias_filler { type: "uniform" min: -1 }'
CONVOLUTION = f"""layer {{ name: "c" type: "Convolution" bottom: "x" top: "y"
  convolution_param {{ num_output: 4 kernel_size: 3 {FILLERS} }} }}
layer {{ name: "r" type: "ReLU" bottom: "y" top: "y" }}"""
DROPOUT = 'layer { name: "d" type: "Dropout" bottom: "x" top: "y" }'
NORM = 'layer { name: "b" type: "BatchNorm" bottom: "x" top: "y" }'
LOSS = """layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 6 } } }
layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "label" top: "loss" loss_weight: 2 }"""
PLACES = 'layer { name: "p" type: "ArgMax" bottom: "x" top: "y" }'


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("convolution", net("2 3 6 5", CONVOLUTION), ""),
        ("dropout", net("3 4", DROPOUT), "--random-seed 7"),
        ("batch_norm", net("4 3 2 2", NORM), "--steps 3"),
        ("softmax_loss", net("6 5", LOSS), "--below label=5"),
        ("argmax", net("6 5", PLACES), "--no-backward --phase TEST"),
    ],
)
def test_a_layer_of_the_reference_is_the_port_s(name: str, text: str, options: str, record: Record) -> None:
    suite, case = record("layer", name, text, options=f"--caffe reference.pycaffe {options}")
    test_layers.test_layer_equals_recording("port", suite, case)
    arrays = recorded(suite)[1]
    assert (f"{name}/indiff/x" in arrays) == case["backward"]
    assert case["recorded_by"]["module"] == "reference.pycaffe"
    arrays[f"{name}/out/{case['outputs'][0]}"] += 1
    with pytest.raises(AssertionError):
        test_layers.test_layer_equals_recording("port", suite, case)


def test_a_training_is_that_of_seenet_train(record: Record, tmp_path: Path) -> None:
    """Recorded through pycaffe's solver, trained again by both of the port's nets."""
    data = net("4 3", "").replace("force_backward: true", "").replace('"x"', '"data"')
    text = f"""{data}
layer {{ name: "to" type: "Input" top: "to" input_param {{ shape {{ dim: 4 dim: 2 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param {{ num_output: 2 {FILLERS} }} }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "to" top: "loss" }}"""
    solver = 'type: "Adam" base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 momentum2: 0.999 iter_size: 2'
    options = "--caffe port.pycaffe --iterations 4 --keep 1,2"
    suite, case = record("training", "adam", text, solver, options=options)
    assert case["kept_iterations"] == [1, 2, 4] and case["batches"] == 8
    test_solvers.test_every_kept_iteration(suite, case)
    test_solvers.test_pycaffe_update_by_update(suite, case, tmp_path)
    recorded(suite)[1]["adam/after/2/ip/0"][0] += 1e-3
    with pytest.raises(AssertionError):
        test_solvers.test_every_kept_iteration(suite, case)


def test_given_inputs(record: Record, tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float64).reshape(3, 4)
    np.savez(tmp_path / "inputs.npz", x=values)
    suite, _ = record(
        "layer",
        "given",
        net("3 4", 'layer { name: "l" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }'),
        options=f"--caffe reference.pycaffe --inputs {tmp_path / 'inputs.npz'}",
    )
    assert np.array_equal(recorded(suite)[1]["given/out/y"], 2 * values)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--caffe reference.pycaffe --below z=3", 'no input "z": this net has x'),
        ("--caffe reference.pycaffe --below x=none", "--below x=none: must be BLOB=N"),
        ("--caffe no_such_caffe", "No module named 'no_such_caffe'"),
        ("--caffe reference.pycaffe --name a/b", '--name "a/b" must be a file name'),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    options: str, told: str, record: Record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        record("layer", "wrong", net("3 4", DROPOUT), options=options)
    printed = capsys.readouterr().err
    assert stop.value.code == 2 and told in printed and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_written_is_plain(record: Record, tmp_path: Path) -> None:
    suite, _ = record("layer", "plain", net("3 4", DROPOUT), options="--caffe reference.pycaffe")
    assert json.loads(Path(f"{suite}.json").read_text())[0]["prototxt"].startswith("force_backward")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["plain.json", "plain.npz"]
