"""The GPU's script on the CPU, and what is told where a device's memory does not suffice."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from parity_tests.bench import gpu
from parity_tests.test_bench import files  # noqa: F401  (a fixture)
from port.attention import files as attention
from port.attention.settings import AttentionSettings
from port.devices import batch_that_fits
from prototxt.errors import InputError

APP = typer.Typer()
APP.command()(gpu.main)


def run(*arguments: object) -> str:
    done = CliRunner().invoke(APP, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_all_parts_in_small(tmp_path: Path) -> None:
    told = run("--device", "cpu", "--small", "--json", tmp_path / "gpu.json")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert set(found) == {"where", *gpu.PARTS} and not any("failed" in found[name] for name in gpu.PARTS), (
        told
    )
    assert found["recordings"]["passed"] >= 15 and not found["recordings"]["failures"]
    assert found["recordings"]["crelu"]["flipped"] == 0 < found["recordings"]["crelu"]["positions"]
    assert found["attention"]["images"] == 6 and 0 < found["attention"]["idle"] < 1
    assert found["training"]["float32"]["distance_of_what_two_iterations_move"] == 0
    assert found["memory"]["largest_batch"] == 4 and "images of 65² a second" in told


def test_what_goes_wrong_is_told_and_the_rest_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal address")

    monkeypatch.setitem(gpu.MEASURE, "deeplab", fail)
    arguments = ("--device", "cpu", "--small", "--skip", "recordings,attention,training")
    told = run(*arguments, "--json", tmp_path / "gpu.json")
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["deeplab"]["failed"] == "RuntimeError: CUDA error: an illegal address"
    assert (
        "recordings" not in found and found["memory"]["largest_batch"] == 4 and "failed: RuntimeError" in told
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--only", "speed"], "the parts are recordings"), (["--device", "tpu"], "use cpu")],
)
def test_refusals(arguments: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        run(*arguments)


@pytest.mark.parametrize(("count", "room", "fits"), [(64, 64, 64), (64, 20, 16), (5, 1, 1), (8, 0, 0)])
def test_the_batch_that_fits(count: int, room: int, fits: int) -> None:
    def take(images: int) -> None:
        if images > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert batch_that_fits(count, take) == fits


@pytest.mark.parametrize(
    ("room", "told"),
    [(1, "4 images do not fit the device's memory: give --batch 1"), (0, "give a smaller --test-size")],
)
def test_a_device_without_memory(
    room: int,
    told: str,
    files,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "voc/JPEGImages").mkdir(parents=True)
    for name in range(4):
        cv2.imwrite(str(tmp_path / f"voc/JPEGImages/{name}.jpg"), np.zeros((40, 50, 3), np.uint8))
    (tmp_path / "list.txt").write_text("".join(f"{name} 0\n" for name in range(4)))
    scores = attention.label_scores

    def limited(model, views, *rest):
        if len(views) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return scores(model, views, *rest)

    monkeypatch.setattr(attention, "label_scores", limited)
    settings = AttentionSettings(weights=files.weights, test_size=32)
    with pytest.raises(InputError, match=told):
        attention.attend_to_dataset(
            tmp_path / "voc", tmp_path / "list.txt", tmp_path / "maps", settings, batch=4
        )
