"""The stages of a long run, the pipeline from image labels to mIoU, and the studies."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parity_tests.recordings import NETS
from port.voc import stages
from port.voc.settings import TRUNK
from port.voc.shapes import make_shapes
from port.voc.stages import last_weights, losses, run_stage, train_in
from port.voc.studies import STUDIES
from prototxt.errors import InputError
from weights import read_weights

Run = Callable[..., tuple[int, str, str]]

SHAPES = NETS / "shapes"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    make_shapes(folder, 10, size=96)
    return folder


# ---- stages


def test_a_current_stage_is_passed_over_and_other_settings_make_it_anew(tmp_path: Path) -> None:
    folder, done = tmp_path / "stage", []

    def work() -> None:
        done.append(sorted(path.name for path in folder.iterdir()))
        (folder / "result").write_text("made")

    first = run_stage("it", folder, {"a": 1, "b": (2, 3)}, work)
    assert run_stage("it", folder, {"a": 1, "b": (2, 3)}, work) == first and len(done) == 1
    assert run_stage("it", folder, {"a": 2, "b": (2, 3)}, work) != first
    assert done == [["stage.json"], ["stage.json"]], "what other settings made is thrown away"


def test_a_stage_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "stage"

    def cut_off() -> None:
        (folder / "half").write_text("so far")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage("it", folder, {}, cut_off)
    seen = []
    run_stage("it", folder, {}, lambda: seen.append((folder / "half").read_text()))
    assert seen == ["so far"]


def test_a_stage_leaves_a_folder_of_somebody_else_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"holds files, but no stage\.json"):
        run_stage("it", tmp_path, {}, lambda: None)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("text", ["[1]", "{}", '{"settings"', "3"])
def test_a_stage_leaves_a_folder_with_another_stage_json_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "stage.json").write_text(text)
    with pytest.raises(InputError, match=r"holds files, but no stage\.json that says what made them"):
        run_stage("it", tmp_path, {}, lambda: None)
    assert (tmp_path / "stage.json").read_text() == text


def test_training_goes_on_from_its_newest_snapshot(shapes: Path, tmp_path: Path) -> None:
    """Cut off after 1 of 2 iterations, then resumed: the weights of a run in one piece."""
    data = {"list": str(shapes / "train_cls.txt"), "images": str(shapes / "JPEGImages")}
    solver = tmp_path / "solver.prototxt"
    text = (SHAPES / "solver_cam.prototxt").read_text()
    solver.write_text(text.replace("snapshot: 400", "snapshot: 1").replace("display: 20", "display: 1"))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        final = train_in(folder, solver, TRUNK, data, seed=4, iterations=2)
        assert final.name == "net_iter_2.caffemodel"
    assert [at for at, _ in losses(whole)] == [0, 1]
    for left in cut.glob("net_iter_2.*"):
        left.unlink()
    train_in(cut, solver, TRUNK, data, seed=4, iterations=2)
    assert "Resuming from net_iter_1.solverstate" in (cut / "train.log").read_text()
    for one, other in zip(*(read_weights(f / "net_iter_2.caffemodel") for f in (whole, cut)), strict=True):
        for a, b in zip(one.blobs, other.blobs, strict=True):
            np.testing.assert_array_equal(a, b)


def test_training_that_is_interrupted_writes_a_snapshot(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt comes with a line of the log, as Ctrl-C may at any time."""

    class Interrupt:
        def search(self, line: str) -> None:
            if "Iteration 0 " in line:
                raise KeyboardInterrupt

    monkeypatch.setattr(stages, "_ITERATION", Interrupt())
    data = {"list": str(shapes / "train_cls.txt"), "images": str(shapes / "JPEGImages")}
    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path, SHAPES / "solver_cam.prototxt", TRUNK, data, seed=4, iterations=100)
    assert list(tmp_path.glob("net_iter_*.solverstate"))
    assert "Snapshotting solver state" in (tmp_path / "train.log").read_text()


def test_what_training_left_incomplete_is_named(tmp_path: Path) -> None:
    for read, name in ((losses, "train.log"), (last_weights, r"net_iter_\*\.caffemodel")):
        with pytest.raises(InputError, match=rf"{name} is missing: delete the folder"):
            read(tmp_path)


def test_training_that_fails_says_why_in_one_line(shapes: Path, tmp_path: Path) -> None:
    data = {"list": str(shapes / "nothing.txt"), "images": str(shapes / "JPEGImages")}
    with pytest.raises(InputError, match=r"nothing\.txt: cannot be read") as error:
        train_in(tmp_path, SHAPES / "solver_cam.prototxt", None, data, iterations=1)
    assert "\n" not in str(error.value)


# ---- the pipeline


def test_the_pipeline_ends_in_a_page_is_current_when_called_again_and_names_holes(
    seenet: Run, shapes: Path, tmp_path: Path
) -> None:
    arguments = (
        "pipeline", "--voc", shapes, "--nets", "shapes", "--out", tmp_path / "run", "--no-crf",
        "--no-compare", "--classifier-iterations", 2, "--segmentation-iterations", 2, "--workers", 1,
    )  # fmt: skip
    status, out, err = seenet(*arguments)
    assert status == 0, err
    page = (tmp_path / "run" / "pipeline.html").read_text()
    assert "trained on" in page and "<svg" in page and "shapes_000004" in page
    assert "labels labels" not in page
    numbers = json.loads((tmp_path / "run" / "pipeline.json").read_text())
    assert 0 <= numbers["SeeNet's labels"]["segmentation"]["miou"] <= 1
    assert len(list((tmp_path / "run" / "seenet" / "segmentation").glob("*.png"))) == 2
    status, out, err = seenet(*arguments)
    assert status == 0 and out.count("current") == 5, out
    labels = tmp_path / "run" / "seenet" / "labels"
    (labels / "shapes_000002.png").unlink()
    status, _, err = seenet(*arguments)
    assert status == 2 and "1 of 8 label images are missing, shapes_000002.png first" in err, err


@pytest.mark.slow
def test_without_all_true_labels_the_pipeline_judges_by_those_there_are(
    seenet: Run, shapes: Path, tmp_path: Path
) -> None:
    """As VOC2012 itself comes: a label image for one in seven of the training images. About 20 s."""
    voc = tmp_path / "voc"
    shutil.copytree(shapes, voc)
    for name in ("shapes_000001", "shapes_000002"):
        (voc / "SegmentationClass" / f"{name}.png").unlink()
    arguments = (
        "pipeline", "--voc", voc, "--nets", "shapes", "--out", tmp_path / "run", "--no-crf",
        "--classifier-iterations", 1, "--segmentation-iterations", 1, "--workers", 1,
    )  # fmt: skip
    status, out, err = seenet(*arguments)
    assert status == 0, err
    assert "exact masks: left out, 2 of 8 training images have none" in out
    numbers = json.loads((tmp_path / "run" / "pipeline.json").read_text())
    assert {name: own["labels"]["images"] for name, own in numbers.items()} == {
        "SeeNet's labels": 6,
        "plain CAM's labels": 6,
    }
    other = tmp_path / "saliency"
    shutil.copytree(voc / "Saliency", other)
    status, out, err = seenet(*arguments, "--saliency", other)
    assert status == 0 and out.count("attention: current") == 2 and "labels: labels: current" not in out, out


def test_every_image_to_be_judged_needs_a_true_label_image(seenet: Run, shapes: Path, tmp_path: Path) -> None:
    voc = tmp_path / "voc"
    shutil.copytree(shapes, voc)
    (voc / "SegmentationClass" / "shapes_000004.png").unlink()
    status, _, err = seenet(
        "pipeline", "--voc", voc, "--nets", "shapes", "--out", tmp_path / "run", "--no-crf"
    )
    assert status == 2 and "1 of 2 images of" in err and "shapes_000004 first" in err, err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--nets", "shapes"), "train_cls.txt: there is no such list: make it with seenet voc-labels"),
        (("--nets", "vgg"), 'error: --nets "vgg": one of published, shapes is due'),
        ((), "--weights is due: VGG-16's caffemodel"),
        (("--nets", "shapes", "--weights", "x.caffemodel"), "x.caffemodel: "),
        (("--nets", "shapes", "--device", "tpu"), '--device "tpu" is not available here: use cpu'),
        (
            ("--nets", "shapes", "--saliency", "x.caffemodel"),
            "--saliency x.caffemodel: there is no such folder",
        ),
        (("--nets", "shapes", "--out", "a b"), "a list of images cannot hold spaces: use a folder without"),
    ],
    ids=["no list", "unknown nets", "no weights", "missing weights", "device", "saliency", "spaces"],
)
def test_what_the_pipeline_refuses(
    seenet: Run, shapes: Path, tmp_path: Path, given: tuple[str, ...], told: str
) -> None:
    voc = shapes if "x.caffemodel" in given else tmp_path
    status, _, err = seenet("pipeline", "--voc", voc, "--out", tmp_path / "run", "--no-crf", *given)
    assert status == 2 and told in err and err.count("\n") == 1, err


# ---- the studies


@pytest.mark.slow
def test_the_studies_make_a_table_and_a_figure(seenet: Run, tmp_path: Path) -> None:
    """About a minute: four trainings of two iterations."""
    status, out, err = seenet("studies", "--out", tmp_path, "--seeds", 1, "-n", 30, "--iterations", 2)
    assert status == 0, err
    results = json.loads((tmp_path / "studies.json").read_text())
    assert set(results) == set(STUDIES) and all(len(runs) == 1 for runs in results.values())
    assert (tmp_path / "studies.png").stat().st_size > 10_000
    assert all(name in out for name in STUDIES)
