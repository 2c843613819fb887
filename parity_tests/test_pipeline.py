"""The stages of a long run, the pipeline from image labels to mIoU, and the studies."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import port
import port.pycaffe as caffe
from parity_tests.compare.inputs import rebuilt_weights
from parity_tests.recordings import NETS
from port.voc import pipeline_check, pipeline_cost, stages
from port.voc.settings import SETS, TRUNK
from port.voc.shapes import make_shapes
from port.voc.stages import last_weights, losses, run_stage, train_in
from port.voc.study_design import DESIGN, read_design
from prototxt.errors import InputError
from weights import LayerWeights, progress, read_weights, write_weights
from weights.third_branch import SHARED, third_branch

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


def test_training_goes_on_from_its_newest_snapshot(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off after 1 of 2 iterations, then resumed: the weights of a run in one piece; and rate and time left."""
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
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
    told = capsys.readouterr().err
    for folder in (whole, cut):
        where = f"training {tmp_path.name}/{folder.name}"
        assert re.search(rf"^{where}: 1/2, \S+ iterations/s, \d+ min left$", told, re.M), told
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
        "--share-background",
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
    assert third_branch(last_weights(tmp_path / "run" / "seenet" / "classifier")).form == SHARED
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
        (("--nets", "vgg"), 'error: --nets "vgg": must be one of published, shapes'),
        (("--nets", "shapes", "--backbone", "resnet101"), '--backbone "resnet101": --nets shapes has vgg16'),
        (("--nets", "shapes", "--weights", "x.caffemodel"), "x.caffemodel: "),
        (("--nets", "shapes", "--device", "tpu"), '--device "tpu" is not available here: use cpu'),
        (
            ("--nets", "shapes", "--saliency", "x.caffemodel"),
            "--saliency x.caffemodel: there is no such folder",
        ),
        (("--nets", "shapes", "--out", "a b"), "a list of images cannot hold spaces: use a folder without"),
    ],
    ids=["no list", "unknown nets", "backbone", "missing weights", "device", "saliency", "spaces"],
)
def test_what_the_pipeline_refuses(
    seenet: Run, shapes: Path, tmp_path: Path, given: tuple[str, ...], told: str
) -> None:
    voc = shapes if "x.caffemodel" in given else tmp_path
    status, _, err = seenet("pipeline", "--voc", voc, "--out", tmp_path / "run", "--no-crf", *given)
    assert status == 2 and told in err and err.count("\n") == 1, err


# ---- what is looked at before the first hour


def _net_weights(path: Path, shapes: dict[str, list[tuple[int, ...]]], value: float = 0.1) -> Path:
    layers = [
        LayerWeights(name, "Convolution", [np.full(shape, value, np.float32) for shape in blobs])
        for name, blobs in shapes.items()
    ]
    write_weights(path, layers)
    return path


def _damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def _mask(voc: Path, name: str, mode: str, size: tuple[int, int] | None = None) -> None:
    file = voc / "SegmentationClass" / f"{name}.png"
    with Image.open(file) as image:
        size = size or image.size
    mask = Image.new(mode, size)
    if mode == "P":
        mask.putpalette([7, 9, 11] * 256)
    mask.save(file)


def _replace_solver(voc: Path, patch: pytest.MonkeyPatch, **files: Path) -> None:
    patch.setitem(SETS, "shapes", replace(SETS["shapes"], **files))


def _solver_of_no_net(voc: Path, patch: pytest.MonkeyPatch) -> None:
    text = (SHAPES / "solver.prototxt").read_text().replace("shapes/train.prototxt", "shapes/tran.prototxt")
    (voc / "solver.prototxt").write_text(text)
    _replace_solver(voc, patch, seenet=voc / "solver.prototxt")


def _other_deploy(voc: Path, patch: pytest.MonkeyPatch) -> None:
    text = (SHAPES / "deeplab_deploy.prototxt").read_text().replace("num_output: 21", "num_output: 22")
    (voc / "deploy.prototxt").write_text(text)
    pair = (SHAPES / "deeplab_solver.prototxt", voc / "deploy.prototxt")
    _replace_solver(voc, patch, segmentation={"vgg16": pair})


PLANTED = {
    "missing solver": (
        lambda voc, patch: _replace_solver(voc, patch, seenet=voc / "solver.prototxt"),
        (),
        "solver.prototxt: there is no such solver",
    ),
    "solver of a missing net": (_solver_of_no_net, (), "its net, prototxt/shapes/tran.prototxt, is not there"),
    "VGG-16 for segmentation, where vgg16_20M is meant": (
        lambda voc, patch: _net_weights(voc / "vgg.caffemodel", {"fc6": [(512, 3136), (512,)]}),
        ("--segmentation-weights", "VOC/vgg.caffemodel"),
        'vgg.caffemodel: layer "fc6": blob 0 is 512×3136 in the file but',
    ),
    "another net's weights": (
        lambda voc, patch: _net_weights(voc / "net.caffemodel", {"conv1": [(8, 3, 3, 3), (8,)]}),
        ("--weights", "VOC/net.caffemodel"),
        "lacks 13 of the net's 22 layers that nothing else fills: conv1_1, conv1_2, conv2_1 …",
    ),
    "a web page for weights": (
        lambda voc, patch: (voc / "vgg.caffemodel").write_text("<!DOCTYPE html><html>sign in</html>"),
        ("--weights", "VOC/vgg.caffemodel"),
        "vgg.caffemodel: not a caffemodel",
    ),
    "weights that are not numbers": (
        lambda voc, patch: _net_weights(voc / "v.caffemodel", {"conv1_1": [(8, 3, 3, 3), (8,)]}, np.nan),
        ("--weights", "VOC/v.caffemodel"),
        'layer "conv1_1": 224 of 224 values are NaN or infinite',
    ),
    "a list of absent images": (
        lambda voc, patch: (voc / "train_cls.txt").open("a").write("2007_000032 0\n2007_000039 19\n"),
        (),
        "2007_000032.jpg: a list names it, and there is no such file (and 1 more of 12 photographs)",
    ),
    "a list of unknown classes": (
        lambda voc, patch: (voc / "train_cls.txt").open("a").write("2007_000032 20\n"),
        (),
        "train_cls.txt:9: 2007_000032: class 20 is not from 0 to 19",
    ),
    "a damaged photograph": (
        lambda voc, patch: _damage(voc / "JPEGImages" / "shapes_000003.jpg"),
        (),
        "shapes_000003.jpg: does not decode",
    ),
    "a mask with another palette": (
        lambda voc, patch: _mask(voc, "shapes_000004", "P"),
        (),
        "shapes_000004.png: its palette is not VOC's",
    ),
    "a mask of colours": (
        lambda voc, patch: _mask(voc, "shapes_000004", "RGB"),
        (),
        "shapes_000004.png: not a palette image",
    ),
    "a mask of another size": (
        lambda voc, patch: _mask(voc, "shapes_000009", "L", (30, 40)),
        (),
        "shapes_000009.png: is 30×40 pixels, its image",
    ),
    "a training mask of another size": (
        lambda voc, patch: _mask(voc, "shapes_000001", "L", (30, 40)),
        (),
        "shapes_000001.png: is 30×40 pixels, its image",
    ),
    "a saliency map missing": (
        lambda voc, patch: (voc / "Saliency" / "shapes_000002.png").unlink(),
        (),
        "shapes_000002.png: the saliency map cannot be read",
    ),
    "no list to judge by": (
        lambda voc, patch: (voc / "ImageSets" / "Segmentation" / "val.txt").unlink(),
        (),
        "val.txt: there is no such list: comes with VOC 2012; name one with --val-list",
    ),
    "a net that does not fit the trained one": (
        _other_deploy,
        (),
        'the trained net: layer "score": blob 0 is 21×128×1×1 in the file but 22×128×1×1 in the net',
    ),
    "too little disk": (
        lambda voc, patch: patch.setattr(
            pipeline_check.shutil, "disk_usage", lambda path: SimpleNamespace(free=5e6)
        ),
        (),
        "needed, 5.0 MB free: choose another --out",
    ),
}  # fmt: skip
"""What is done to the dataset, what more is given, and what the check says."""


@pytest.mark.parametrize("mistake", PLANTED)
def test_the_check_finds_a_planted_mistake(
    seenet: Run, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    plant, given, told = PLANTED[mistake]
    voc = tmp_path / "voc"
    shutil.copytree(shapes, voc)
    plant(voc, monkeypatch)
    given = [str(argument).replace("VOC", str(voc)) for argument in given]
    monkeypatch.setattr(pipeline_cost, "pass_seconds", lambda net: 0.1)
    status, out, err = seenet(
        "pipeline", "--voc", voc, "--nets", "shapes", "--out", tmp_path / "run", "--no-crf", "--check",
        "--workers", 1, *given,
    )  # fmt: skip
    assert status == 2 and told in err and err.count("\n") == 1, err + out
    assert out.count("wrong") == (2 if "weights" in mistake and "--weights" in given else 1), out
    assert not (tmp_path / "run").exists(), "nothing is made before all is well"


def test_the_check_tells_time_and_disk_and_warns_of_no_saliency(
    seenet: Run, shapes: Path, tmp_path: Path
) -> None:
    voc = tmp_path / "voc"
    shutil.copytree(shapes, voc)
    shutil.rmtree(voc / "Saliency")
    status, out, err = seenet(
        "pipeline", "--voc", voc, "--nets", "shapes", "--out", tmp_path / "run", "--no-crf", "--check",
        "--workers", 1, "--no-compare",
    )  # fmt: skip
    told = " ".join(out.split())
    assert status == 0 and "wrong" not in told, err + out
    assert "1200 passes" in told and "drawn anew" in told and "MB needed" in told
    assert "warning: " in err and "no saliency maps, which the paper's rule needs" in err
    assert not (tmp_path / "run").exists()


def test_missing_weights_are_both_named(seenet: Run, shapes: Path, tmp_path: Path) -> None:
    """With the published nets, without either file: one line, and in the table where each comes from."""
    status, out, err = seenet(
        "pipeline", "--voc", shapes, "--out", tmp_path / "run", "--no-crf", "--check", "--no-compare"
    )
    assert status == 2 and "--weights is missing" in err and "(1 more: see the table)" in err, err
    assert "--segmentation-weights is missing" in " ".join(out.split()) and "vgg16_20M" in out


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["vgg16", "resnet101"])
def test_the_published_nets_go_through_a_tiny_dataset(seenet: Run, tmp_path: Path, backbone: str) -> None:
    """Full width, one iteration a stage, on weights drawn by He's rule. Minutes, 4 GB."""
    voc, run = tmp_path / "voc", tmp_path / "run"
    make_shapes(voc, 10, size=240)
    weights, start = tmp_path / "vgg.caffemodel", tmp_path / "start.caffemodel"
    _rebuilt(weights, NETS / "seenet" / "deploy.prototxt", ("_b1", "_b2"))
    new = ("score", "pyram_conv1", "pyram_conv2")
    _rebuilt(start, SETS["published"].segmentation[backbone][1], new)
    arguments = (
        "pipeline", "--voc", voc, "--weights", weights, "--segmentation-weights", start,
        "--backbone", backbone, "--out", run, "--no-crf", "--no-compare", "--classifier-iterations", 1,
        "--segmentation-iterations", 1, "--workers", 1,
    )  # fmt: skip
    status, _, err = seenet(*arguments)
    assert status == 0, err
    numbers = json.loads((run / "pipeline.json").read_text())
    assert 0 <= numbers["SeeNet's labels"]["segmentation"]["miou"] <= 1
    model = port.SeeNet.from_caffemodel(last_weights(run / "seenet" / "classifier"))
    assert model.conv5_3.weight.shape == (512, 512, 3, 3)
    assert len(list((run / "seenet" / "segmentation").glob("*.png"))) == 2


def _rebuilt(path: Path, deploy: Path, new: tuple[str, ...]) -> None:
    """Weights by He's rule for a net, without the layers whose names end so; small scales, so that none overflows."""
    layers = rebuilt_weights(caffe.Net(str(deploy), caffe.TEST), 0)
    for layer in layers:
        if layer.type == "Scale":
            layer.blobs[0] *= 0.1
    write_weights(path, [layer for layer in layers if not layer.name.endswith(new)])


# ---- the studies


@pytest.mark.slow
def test_the_studies_make_tables_and_figures(seenet: Run, tmp_path: Path) -> None:
    """About a minute: ten trainings of two iterations."""
    status, _, err = seenet("studies", "--out", tmp_path, "--seeds", 1, "-n", 30, "--iterations", 2)
    assert status == 0, err
    design = read_design(DESIGN)
    runs = json.loads((tmp_path / "studies.json").read_text())
    told = {(run["set"], run["variant"]) for run in runs}
    assert told == {(name, variant) for name in design.sets for variant in design.variants}
    assert len(runs) == len(design.sets) * (1 + 2 * (len(design.variants) - 1))
    for name in design.sets:
        assert (tmp_path / f"{name}_maps.png").stat().st_size > 10_000
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"variants": {"x": {"colour": 1}}}', '{"variants": 3}'])
def test_what_is_no_design_is_refused(seenet: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "design.json").write_text(text)
    status, _, err = seenet("studies", "--out", tmp_path / "out", "--design", tmp_path / "design.json")
    assert status == 2 and "not a design of studies" in err and err.count("\n") == 1, err


def test_the_published_design_is_one() -> None:
    """Every solver is there, and a variant that does not negate in training does not in testing."""
    design = read_design(DESIGN)
    assert all((SHAPES / variant.solver).is_file() for variant in design.variants.values())
    assert design.variants["ACoL"].thresholds(design.thresholds) == [(0.8, 0.0), (0.7, 0.0)]
    assert design.variants["CAM"].thresholds(design.thresholds) == [(0.8, 0.0)]
    assert design.variants["SeeNet, own S_C"].thresholds(design.thresholds) == [(0.8, 0.0), (0.7, 0.05)]
