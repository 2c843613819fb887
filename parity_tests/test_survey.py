"""`seenet survey`: each file in a process of its own, what stops it told, the limits kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from port.report.survey import OUTCOMES, prototxts, survey
from prototxt import InputError

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 9 dim: 3 dim: %s dim: 8 } } }\n'
RELU = 'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }\n'

FILES = {
    "runs/a.prototxt": (INPUT % 8 + RELU, "runs", ""),
    "runs/data.prototxt": (
        'layer { name: "d" type: "Data" top: "x" top: "label" data_param { source: "none" batch_size: 4 } '
        "transform_param { crop_size: 12 } include { phase: TRAIN } }\n"
        'layer { name: "r" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 3 } }\n'
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "loss" }',
        "runs",
        "",
    ),
    "runs/labels.prototxt": (  # the labels' own Input is shortened with the images'
        INPUT % 8 + 'layer { name: "t" type: "Input" top: "t" input_param { shape { dim: 9 } } }\n'
        'layer { name: "r" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 3 } }\n'
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "y" bottom: "t" top: "loss" }',
        "runs",
        "",
    ),
    "field.pt": (INPUT % 8 + RELU.replace("bottom", "shine: 3 bottom"), "read", 'no field named "shine"'),
    "type.prototxt": (INPUT % 8 + RELU.replace("ReLU", "HyperLU"), "read", "unknown layer type"),
    "refused.prototxt": (INPUT % 8 + RELU.replace("ReLU", "Pooling"), "refused", "kernel_size"),
    "script.prototxt": (
        'layer { name: "d" type: "Python" top: "x" python_param { module: "my" layer: "Data" } }\n' + RELU,
        "needs Python",
        "--allow-module",
    ),
    "text.prototxt": ("layer {", "not read", "Expected"),
    "solver.prototxt": ('net: "a.prototxt" base_lr: 1', "no net", "this is a solver"),
    "large.prototxt": (INPUT % (8 * 10**7) + RELU, "too large", "GiB"),
}


def test_survey(tmp_path: Path, seenet: Callable[..., tuple[int, str, str]]) -> None:
    folder, results, page = tmp_path / "nets", tmp_path / "s.json", tmp_path / "s.html"
    for name, (text, _, _) in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "weights.pt").write_bytes(b"PK\0\0")
    status, out, err = seenet("survey", folder, "--json", results, "--html", page)
    assert (status, err) == (0, "")
    found = {row["path"]: row for row in json.loads(results.read_text())}
    assert set(found) == {str(folder / name) for name in FILES}
    for name, (_, outcome, why) in FILES.items():
        row = found[str(folder / name)]
        assert (name, row["outcome"]) == (name, outcome), row
        assert why in row["why"]
        assert "\n" not in row["why"]
    assert found[str(folder / "runs/data.prototxt")]["phase"] == "TRAIN"
    assert found[str(folder / "type.prototxt")]["types"] == ["HyperLU"]
    assert found[str(folder / "field.pt")]["fields"] == ["ReLU: shine"]
    for text in (out, page.read_text()):
        assert "HyperLU" in text
        assert OUTCOMES["runs"] in text
        assert "4 of 9 nets can be planned (44 %)" in text


def test_the_time_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.prototxt"
    path.write_text(INPUT % 8 + RELU)
    (found,) = survey([path], seconds=0.001)
    assert found.outcome == "too slow"
    assert found.why.startswith("0.001 s were over while ")


def test_nothing_to_survey(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        prototxts([tmp_path / "gone"])
    with pytest.raises(InputError, match=r"no \.prototxt file is below"):
        prototxts([tmp_path])
