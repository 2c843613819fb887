"""From a generated dataset to attention, proxy labels and their evaluation, and what each says to bad input."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image

import port
from parity_tests.recordings import WHOLE_NET, seenet_weights
from port.attention.maps import fused_maps, label_scores, prepared_views
from port.images import read_image, write_png
from port.voc.classes import CLASSES, IGNORE, PALETTE
from port.voc.evaluate import evaluate_attention, evaluate_labels
from port.voc.label_images import read_label_image, write_label_image
from port.voc.lists import read_entries
from port.voc.proxy_labels import fuse
from port.voc.settings import FUSIONS, Fusion
from port.voc.shapes import make_shapes
from port.voc.voc_labels import paper_note
from weights import progress, write_weights

Run = Callable[..., tuple[int, str, str]]

IMAGES = 10


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    facts, failed = make_shapes(folder, IMAGES, seed=3, size=96)
    assert not failed and abs(facts["saliency_iou"] - 0.85) < 0.02
    return folder


@pytest.fixture
def voc(shapes: Path, tmp_path: Path) -> Path:
    """A copy of the dataset, to be spoiled."""
    return Path(shutil.copytree(shapes, tmp_path / "voc"))


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SeeNet's weights, narrow, from a seed."""
    model = port.SeeNet(background=False, channels=(4, 8, 16, 32, 32))
    path = tmp_path_factory.mktemp("weights") / "narrow.caffemodel"
    write_weights(path, seenet_weights(model, 1))
    return path


@pytest.fixture(scope="module")
def maps(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Attention files for the training list: noise, more on the class than elsewhere."""
    folder, random = tmp_path_factory.mktemp("maps"), np.random.default_rng(0)
    for entry in read_entries(shapes / "train_cls.txt")[0]:
        true = read_label_image(shapes / "SegmentationClass" / f"{entry.name}.png")
        for label in entry.labels:
            values = random.integers(0, 160, true.shape) + 95 * (true == label + 1)
            cv2.imwrite(str(folder / f"{entry.name}_{label}.png"), values.astype(np.uint8))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def train_names(folder: Path) -> list[str]:
    return (folder / "ImageSets/Segmentation/train.txt").read_text().split()


# --- shapes


def test_the_same_seed_gives_the_same_bytes(seenet: Run, shapes: Path, tmp_path: Path) -> None:
    """In one process or two; and a larger dataset begins alike."""
    status, out, err = seenet(
        "shapes", "--out", tmp_path / "a", "-n", 12, "--seed", 3, "--size", 96, "--workers", 2
    )
    assert (status, err) == (0, "") and "saliency iou" in out
    first, larger = contents(shapes), contents(tmp_path / "a")
    images = [name for name in first if "/shapes_" in name]
    assert len(images) == 5 * IMAGES
    assert all(first[name] == larger[name] for name in images)
    make_shapes(tmp_path / "b", 2, seed=4, size=96)
    assert all(value != larger[name] for name, value in contents(tmp_path / "b").items() if "JPEG" in name)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    make_shapes(folder, IMAGES, seed=3, size=96, kind="objects")
    return folder


def test_objects_have_vocs_geometry(shapes: Path, objects: Path) -> None:
    """One or two objects, a third of the image or so; in `shapes` up to four small ones."""
    small, large = (json.loads((folder / "shapes.json").read_text()) for folder in (shapes, objects))
    assert (small["kind"], large["kind"]) == ("shapes", "objects")
    assert 0.22 < large["foreground"] < 0.45 and small["foreground"] < 0.25
    assert large["objects_per_image"] <= 2 and large["images_with_a_large_object"] > 0.6


@pytest.mark.parametrize("kind", ["shapes", "objects"])
def test_shapes_agree_with_themselves(request: pytest.FixtureRequest, kind: str) -> None:
    """Boxes, lists, emblems and saliency are of the objects in the masks."""
    shapes = request.getfixturevalue(kind)
    entries = {
        e.name: e.labels for split in ("train", "val") for e in read_entries(shapes / f"{split}_cls.txt")[0]
    }
    assert len(entries) == IMAGES and len(train_names(shapes)) == 8
    for name, labels in entries.items():
        mask = read_label_image(shapes / "SegmentationClass" / f"{name}.png")
        parts = read_label_image(shapes / "Parts" / f"{name}.png")
        image = read_image(shapes / "JPEGImages" / f"{name}.jpg")
        assert image.shape[:2] == mask.shape and max(mask.shape) == 96
        assert [int(v) - 1 for v in np.unique(mask) if v] == list(labels)
        assert np.array_equal(parts[parts > 0], mask[parts > 0])
        assert 0.03 < (parts > 0).sum() / (mask > 0).sum() < 0.3
        root = ElementTree.parse(shapes / "Annotations" / f"{name}.xml").getroot()
        covered = np.zeros(mask.shape, bool)
        for box in root.iter("bndbox"):
            x0, y0, x1, y1 = (int(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
            covered[y0 - 1 : y1, x0 - 1 : x1] = True
        assert not (mask[~covered] > 0).any() and covered.mean() < 1
        salient = cv2.imread(str(shapes / "Saliency" / f"{name}.png"), cv2.IMREAD_UNCHANGED) >= 128
        iou = (salient & (mask > 0)).sum() / (salient | (mask > 0)).sum()
        assert abs(iou - 0.85) < 0.05


@pytest.mark.parametrize(
    "options",
    [("-n", 0), ("--seed", -1), ("--size", 8), ("--saliency-iou", 2), ("--workers", -1), ("--kind", "cars")],
)
def test_bad_shapes(seenet: Run, tmp_path: Path, options: tuple) -> None:
    status, _, err = seenet("shapes", "--out", tmp_path / "out", "-n", 1, *options)
    assert status == 2 and options[0] in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# --- voc-labels


@pytest.mark.parametrize("source", ["xml", "masks"])
def test_voc_labels(seenet: Run, shapes: Path, tmp_path: Path, source: str) -> None:
    names = shapes / "ImageSets/Segmentation/train.txt"
    status, out, err = seenet(
        "voc-labels", "--voc", shapes, "--list", names, "--out", tmp_path / "list.txt", "--from", source
    )
    assert (status, err) == (0, "") and "8 images differ from the paper's 10,582 (train)" in out
    assert (tmp_path / "list.txt").read_text() == (shapes / "train_cls.txt").read_text()


def test_paper_counts() -> None:
    assert paper_note(Path("train_aug.txt"), 10582) == "10,582 images, as in the paper (train)"
    assert "differ from the paper's 1,449 (val)" in paper_note(Path("val.txt"), 1448)
    assert "test 1,456" in paper_note(Path("trainval.txt"), 3)


def test_voc_labels_names_each_bad_image(seenet: Run, voc: Path, tmp_path: Path) -> None:
    a, b, c, d, e, *good = train_names(voc)
    names = tmp_path / "names.txt"
    names.write_text("\n".join([f"/JPEGImages/{a}.jpg x", b, c, d, e, *good, good[0], "nothing"]))
    xml = voc / "Annotations"
    (xml / f"{a}.xml").write_text("<annotation></annotation>")
    (xml / f"{b}.xml").write_text("<annotation><object>")
    (xml / f"{c}.xml").write_text("<annotation><object><name>unicorn</name></object></annotation>")
    (xml / f"{d}.xml").unlink()
    (voc / "JPEGImages" / f"{e}.jpg").unlink()
    status, _, err = seenet("voc-labels", "--voc", voc, "--list", names, "--out", tmp_path / "list.txt")
    for message in (
        f"{a}.xml: has no object", f"{b}.xml: is not XML", 'object "unicorn" is none of', f"{d}.xml: cannot be read",
        f"{e}: no image", f"{good[0]} is listed again", "nothing: no image", "7 of 10 failed",
    ):  # fmt: skip
        assert message in err, message
    assert status == 2 and err.count("\n") == 8
    assert len((tmp_path / "list.txt").read_text().splitlines()) == len(good)


def test_voc_labels_from_bad_masks(seenet: Run, voc: Path, tmp_path: Path) -> None:
    a, b, c, d, e, f, *good = train_names(voc)
    folder = voc / "SegmentationClass"
    mask = read_label_image(folder / f"{a}.png")
    write_label_image(folder / f"{a}.png", mask * 0)
    Image.fromarray(PALETTE[mask]).save(folder / f"{b}.png")
    Image.fromarray(mask.astype(np.uint16) * 256).save(folder / f"{c}.png")
    Image.fromarray(np.full_like(mask, 37)).save(folder / f"{d}.png")
    (folder / f"{e}.png").write_bytes((folder / f"{e}.png").read_bytes()[:100])
    other = Image.fromarray(mask)
    other.putpalette(PALETTE[::-1].ravel().tolist())
    other.save(folder / f"{f}.png")
    Image.fromarray(read_label_image(folder / f"{good[0]}.png")).save(folder / f"{good[0]}.png")  # grey: fine
    status, _, err = seenet(
        "voc-labels", "--voc", voc, "--list", voc / "ImageSets/Segmentation/train.txt", "--from", "masks",
        "--out", tmp_path / "list.txt",
    )  # fmt: skip
    for message in (
        f"{a}.png: has no pixel", f"{b}.png: not a palette image", f"{c}.png: not a palette image",
        f"{d}.png: value 37", f"{e}.png: cannot be read", f"{f}.png: its palette is not VOC's", "6 of 8 failed",
    ):  # fmt: skip
        assert message in err, message
    assert status == 2 and err.count("\n") == 7
    assert [line.split()[0] for line in (tmp_path / "list.txt").read_text().splitlines()] == good


def test_palette_is_vocs() -> None:
    """The colours that VOC's development kit lists."""
    assert PALETTE[[1, 5, 15, 20, 255]].tolist() == [
        [128, 0, 0], [128, 0, 128], [192, 128, 128], [0, 64, 128], [224, 224, 192],
    ]  # fmt: skip


# --- proxy-labels


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusion_is_the_papers(fusion: str) -> None:
    """Pixel by pixel, by the formulas."""
    random, labels = np.random.default_rng(1), (4, 0, 11)
    attention, saliency = random.random((3, 9, 8)), random.random((9, 8))
    attention[:, 0, 0], saliency[0, 1] = 0, 0
    fused = fuse(attention, labels, saliency, Fusion(fusion, ambiguous=0.8, low_saliency=32))
    for y, x in np.ndindex(9, 8):
        own, d = attention[:, y, x], saliency[y, x]
        scores = {
            "harmonic": [2 / (1 / a + 1 / d) if a and d else 0 for a in own],
            "max": [max(a, d) for a in own],
            "mean": [(a + d) / 2 for a in own],
            "saliency": [d + 1e-9 * a for a in own],
        }[fusion]
        expected = (
            {labels[i] + 1 for i in range(3) if scores[i] == max(scores)} if max(scores) > 1 - d else {0}
        )
        if sum(own >= 0.8) >= 2 or d * 255 < 31.5:
            expected = {IGNORE}
        assert fused[y, x] in expected
    assert len(np.unique(fused)) == 5


def test_fusion_without_saliency() -> None:
    attention = np.array([[[0.2, 0.4, 0.8, 0.1]], [[0.1, 0.5, 0.9, 0.3]]])
    assert fuse(attention, (3, 7), None, Fusion()).tolist() == [[0, 8, IGNORE, 0]]
    assert fuse(attention, (3, 7), None, Fusion(ambiguous=0, background=0.15)).tolist() == [[4, 8, 8, 8]]


def test_proxy_labels(seenet: Run, shapes: Path, maps: Path, tmp_path: Path) -> None:
    given = (
        "proxy-labels",
        "--attention",
        maps,
        "--list",
        shapes / "train_cls.txt",
        "--saliency",
        shapes / "Saliency",
    )
    for workers in (1, 2):
        status, out, err = seenet(*given, "--out", tmp_path / str(workers), "--workers", workers)
        assert (status, err) == (0, "") and "8 label images" in out
    written = contents(tmp_path / "1")
    assert written == contents(tmp_path / "2") and len(written) == 8
    name = train_names(shapes)[0]
    with Image.open(tmp_path / "1" / f"{name}.png") as image:
        assert image.mode == "P" and image.getpalette() == PALETTE.ravel().tolist()
    assert (
        evaluate_labels(tmp_path / "1", shapes / "SegmentationClass", shapes / "train_cls.txt")[0]["miou"]
        > 0.5
    )


def test_proxy_labels_names_each_bad_image(seenet: Run, voc: Path, maps: Path, tmp_path: Path) -> None:
    holes = Path(shutil.copytree(maps, tmp_path / "holes"))
    a, b, c, d, e, *good = train_names(voc)
    salient = cv2.imread(str(voc / f"Saliency/{b}.png"), cv2.IMREAD_UNCHANGED)
    next(holes.glob(f"{a}_*.png")).unlink()
    cv2.imwrite(str(voc / f"Saliency/{b}.png"), salient[:-1])
    cv2.imwrite(str(voc / f"Saliency/{c}.png"), salient.astype(np.uint16) * 256)
    cv2.imwrite(str(voc / f"Saliency/{d}.png"), np.dstack([salient] * 3))
    (voc / f"Saliency/{e}.png").write_bytes(b"")
    with open(voc / "train_cls.txt", "a") as file:
        file.write("nameless\nstrange 3 20\n")
    status, out, err = seenet(
        "proxy-labels", "--attention", holes, "--saliency", voc / "Saliency", "--list", voc / "train_cls.txt",
        "--out", tmp_path / "out",
    )  # fmt: skip
    for message in (
        f"{a}_", "run seenet attention again", f"{b}.png: is ", "its attention is", f"{c}.png: the saliency map has 16",
        f"{d}.png: the saliency map has 3 channels", f"{e}.png: the saliency map does not decode",
        "nameless: names no class", "strange: class 20", "7 of 10 failed",
    ):  # fmt: skip
        assert message in err, message
    assert status == 2 and err.count("\n") == 8 and f"{len(good)} label images" in out
    assert sorted(p.stem for p in (tmp_path / "out").iterdir()) == good


# --- evaluate


def test_evaluation_of_labels(seenet: Run, tmp_path: Path) -> None:
    """Counted by hand: two images of 4 pixels and 8."""
    true = {"a": [[0, 0, 1, 1]], "b": [[1, 1, 2, 2, 255, 0, 0, 0]]}
    pred = {"a": [[0, 1, 1, 255]], "b": [[1, 0, 2, 2, 3, 0, 255, 0]]}
    for folder, images in (("gt", true), ("pred", pred)):
        for name, rows in images.items():
            write_label_image(tmp_path / folder / f"{name}.png", np.array(rows))
    (tmp_path / "list.txt").write_text("a\nb\n")
    status, out, err = seenet(
        "evaluate", "--pred", tmp_path / "pred", "--gt", tmp_path / "gt", "--list", tmp_path / "list.txt",
        "--json", tmp_path / "n.json", "--chart", tmp_path / "n.png",
    )  # fmt: skip
    assert (status, err) == (0, "") and "aeroplane" in out
    numbers = json.loads((tmp_path / "n.json").read_text())
    iou = {name: own["iou"] for name, own in numbers["classes"].items() if own["iou"] is not None}
    assert iou == pytest.approx({"background": 3 / 5, "aeroplane": 2 / 4, "bicycle": 1})
    assert numbers["miou"] == pytest.approx((0.6 + 0.5 + 1) / 3)
    assert numbers["strict_miou"] == pytest.approx((3 / 6 + 2 / 5 + 1) / 3)
    assert numbers["accuracy"] == pytest.approx(7 / 9) and numbers["ignored"] == pytest.approx(2 / 11)
    assert cv2.imread(str(tmp_path / "n.png")).shape[1] > 500


def test_evaluation_of_attention(seenet: Run, shapes: Path, maps: Path, tmp_path: Path) -> None:
    """Against every threshold tried one by one."""
    status, out, err = seenet(
        "evaluate", "--attention", maps, "--gt", shapes / "SegmentationClass", "--list", shapes / "train_cls.txt",
        "--json", tmp_path / "n.json", "--chart", tmp_path / "n.png",
    )  # fmt: skip
    assert (status, err) == (0, "") and "backgr." in out and (tmp_path / "n.png").exists()
    numbers = json.loads((tmp_path / "n.json").read_text())
    entries = read_entries(shapes / "train_cls.txt")[0]
    label = entries[0].labels[0]
    names = [entry.name for entry in entries if label in entry.labels]
    true = np.concatenate([read_label_image(shapes / f"SegmentationClass/{n}.png").ravel() for n in names])
    values = np.concatenate([cv2.imread(str(maps / f"{n}_{label}.png"), -1).ravel() for n in names])
    own = true == label + 1
    ious = [(own & (values >= t)).sum() / (own | (values >= t)).sum() for t in range(1, 256)]
    found = numbers["classes"][CLASSES[label]]
    assert found["best_iou"] == pytest.approx(max(ious)) and found["threshold"] == 1 + int(np.argmax(ious))
    assert found["maps"] == len(names)
    assert found["recall"] == pytest.approx((values[own] >= found["threshold"]).mean())
    assert found["curve"]["precision"][99] == pytest.approx(own[values >= 100].mean(), abs=1e-5)
    assert found["on_background"] == pytest.approx(values[true == 0].sum() / values.sum(dtype=float))


def test_evaluation_names_each_bad_image(seenet: Run, voc: Path, maps: Path, tmp_path: Path) -> None:
    truth = voc / "SegmentationClass"
    pred = Path(shutil.copytree(truth, tmp_path / "pred"))
    a, b, c, *good = train_names(voc)
    (pred / f"{a}.png").unlink()
    write_label_image(pred / f"{b}.png", read_label_image(truth / f"{b}.png")[1:])
    (truth / f"{c}.png").write_bytes(b"no image")
    status, out, err = seenet("evaluate", "--pred", pred, "--gt", truth, "--list", voc / "train_cls.txt")
    for message in (f"{a}.png: cannot be read", f"{b}.png: is ", "the truth is", f"{c}.png", "3 of 8 failed"):
        assert message in err, message
    assert status == 2 and err.count("\n") == 4 and f"{len(good)} images: mIoU 100.0 %" in out
    numbers, failed = evaluate_attention(tmp_path, truth, voc / "train_cls.txt")
    assert numbers["images"] == 0 and len(failed) == 8
    status, _, err = seenet("evaluate", "--gt", truth, "--list", voc / "train_cls.txt")
    assert status == 2 and "--pred" in err


# --- attention over a dataset


def attend(seenet: Run, voc: Path, narrow: Path, out: Path, *options: object) -> tuple[int, str, str]:
    return seenet(
        "attention", "--voc", voc, "--list", voc / "train_cls.txt", "--weights", narrow, "--out", out,
        "--test-size", 64, "--batch", 3, "--workers", 2, *options,
    )  # fmt: skip


def expected_files(voc: Path) -> set[str]:
    return {f"{e.name}_{label}.png" for e in read_entries(voc / "train_cls.txt")[0] for label in e.labels}


@pytest.mark.parametrize("state", ["accumulate", "single", "all"])
@pytest.mark.parametrize("flip", [True, False])
def test_a_batch_equals_its_images(shapes: Path, narrow: Path, state: str, flip: bool) -> None:
    model = port.SeeNet.from_caffemodel(narrow, maxt=0.5, mint=0.1)
    images = [read_image(path) for path in sorted((shapes / "JPEGImages").iterdir())[:4]]
    labels = [[3], [7, 2, 15], [0, 19], [11]]
    views = [prepared_views(image, 64, flip) for image in images]
    for branches_together, most in ((False, 1e-6), (True, WHOLE_NET)):
        scores = label_scores(model, views, labels, state, branches_together)
        for image, own, score in zip(images, labels, scores, strict=True):
            alone = port.attention_maps(model, image, own, 64, flip, state)
            together = fused_maps(score, *image.shape[:2])
            assert together.shape == alone.shape and np.abs(together - alone).max() <= most


def test_dataset_attention(seenet: Run, shapes: Path, narrow: Path, tmp_path: Path) -> None:
    status, out, err = attend(seenet, shapes, narrow, tmp_path)
    assert (status, err) == (0, "") and "8 images attended to, 0 done before" in out
    assert set(os.listdir(tmp_path)) == {*expected_files(shapes), "attention.json"}
    model = port.SeeNet.from_caffemodel(narrow)
    for entry in read_entries(shapes / "train_cls.txt")[0]:
        maps = port.attention_maps(
            model, read_image(shapes / f"JPEGImages/{entry.name}.jpg"), entry.labels, 64
        )
        for label, alone in zip(entry.labels, maps, strict=True):
            written = cv2.imread(str(tmp_path / f"{entry.name}_{label}.png"), cv2.IMREAD_UNCHANGED)
            assert np.abs(written - alone * 255.0).max() <= 0.5 + 255e-6


def test_dataset_attention_goes_on(seenet: Run, shapes: Path, narrow: Path, tmp_path: Path) -> None:
    """What is there is not made again, what was lost is, and a killed run's half file goes."""
    attend(seenet, shapes, narrow, tmp_path)
    whole = contents(tmp_path)
    lost = sorted(expected_files(shapes))[2]
    (tmp_path / lost).unlink()
    (tmp_path / f".{Path(lost).stem}.partial-abcd_123.png").write_bytes(b"half")
    kept = {name: (tmp_path / name).stat().st_mtime_ns for name in whole if name != lost}
    status, out, _ = attend(seenet, shapes, narrow, tmp_path)
    assert status == 0 and "1 images attended to, 7 done before; 1 files written" in out
    assert contents(tmp_path) == whole
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in kept} == kept
    status, _, err = attend(seenet, shapes, narrow, tmp_path, "--maxt", 0.7)
    assert status == 2 and "made with another maxt" in err
    (tmp_path / "attention.json").unlink()
    status, _, err = attend(seenet, shapes, narrow, tmp_path)
    assert status == 2 and "no attention.json tells" in err


def test_shards_share_the_dataset(
    seenet: Run, shapes: Path, narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attend(seenet, shapes, narrow, tmp_path / "whole")
    for rank in "01":  # two shards, the first of them under torchrun
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", rank)
        assert (
            "2 images attended to, 0 done"
            in attend(seenet, shapes, narrow, tmp_path / "parts", "--shard", "1/2")[1]
        )
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    assert (
        "4 images attended to, 0 done"
        in attend(seenet, shapes, narrow, tmp_path / "parts", "--shard", "2/2")[1]
    )
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    for shard in ("0/2", "3/2", "x"):
        status, _, err = attend(seenet, shapes, narrow, tmp_path / "parts", "--shard", shard)
        assert status == 2 and f'--shard "{shard}"' in err


def test_dataset_attention_names_each_bad_image(
    seenet: Run, voc: Path, narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c, d, *good = train_names(voc)
    (voc / f"JPEGImages/{a}.jpg").unlink()
    (voc / f"JPEGImages/{b}.jpg").write_bytes(b"torn")
    cv2.imwrite(str(voc / f"JPEGImages/{c}.jpg"), np.zeros((30, 40), np.uint8))
    with open(voc / "train_cls.txt", "a") as file:
        file.write(f"nameless\nstrange 20\n{good[0]} 1\n")
    replace = os.replace

    def full(source: str, target: str) -> None:
        if Path(target).name.startswith(d):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    status, out, err = attend(seenet, voc, narrow, tmp_path / "out")
    for message in (
        f"{a}.jpg: cannot be read", f"{b}.jpg: does not decode", f"{c}.jpg: a grey image", "No space left",
        "nameless: names no class", "strange: class 20", f"{good[0]} is listed again", "7 of 11 failed",
    ):  # fmt: skip
        assert message in err, message
    assert status == 2 and err.count("\n") == 8 and f"{len(good)} images attended to" in out
    due = {name for name in expected_files(voc) if name.rpartition("_")[0] in good}
    assert set(os.listdir(tmp_path / "out")) == {*due, "attention.json"}, "nothing half-written stays"


def test_dataset_and_photographs_are_apart(seenet: Run, shapes: Path, narrow: Path, tmp_path: Path) -> None:
    for options in (("--labels", "dog"), ("--npz",), ("photo.jpg",)):
        status, _, err = attend(seenet, shapes, narrow, tmp_path, *options)
        assert status == 2 and "--voc with --list" in err
    status, _, err = seenet("attention", "--weights", narrow, "--out", tmp_path, "--labels", "dog")
    assert status == 2 and "give photographs" in err


def test_progress_without_a_terminal(
    seenet: Run, shapes: Path, narrow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0)
    status, _, err = attend(seenet, shapes, narrow, tmp_path)
    assert status == 0 and "attention: 8/8, " in err and "images/s, 0 min left" in err


# --- attention against other attention


def test_attention_against_other_maps(seenet: Run, tmp_path: Path) -> None:
    """The same maps, maps that differ by known levels, a missing one, and one of another size."""
    random = np.random.default_rng(4)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    base = random.integers(20, 200, (30, 40)).astype(np.uint8)
    for folder, name, values in (
        (ours, "a_0", base), (theirs, "a_0", base),
        (ours, "a_3", base), (theirs, "a_3", base + 4),
        (ours, "b_1", base), (theirs, "b_1", base[:20]),
        (ours, "c_2", base),
    ):  # fmt: skip
        write_png(folder / f"{name}.png", values)
    (tmp_path / "list.txt").write_text("a 0 3\nb 1\nc 2\n")
    status, _, err = seenet(
        "evaluate", "--attention", ours, "--against", theirs, "--list", tmp_path / "list.txt",
        "--json", tmp_path / "told.json",
    )  # fmt: skip
    assert status == 2 and "2 of 4 failed" in err, err
    assert "b_1.png: is 40×30 pixels" in err and "c_2.png: the attention of bird cannot be read" in err
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["maps"] == 2 and told["mean_difference"] == 2 and told["largest_difference"] == 4
    assert told["within_1"] == 0.5 and told["within_4"] == 1 and told["correlation"] == pytest.approx(1)
    cut, other = base >= 77, base + 4 >= 77
    assert told["iou_of_cuts"] == pytest.approx((1 + (cut & other).sum() / (cut | other).sum()) / 2)
    assert [own["name"] for own in told["worst"]] == ["a_3.png", "a_0.png"]


def test_against_needs_attention_alone(seenet: Run, tmp_path: Path) -> None:
    for given in (
        ("--attention", "a"),
        ("--pred", "a", "--against", "b"),
        ("--attention", "a", "--gt", "g", "--against", "b"),
    ):
        status, _, err = seenet("evaluate", "--list", "list.txt", *given)
        assert status == 2 and "give --gt, the true label images, or" in err and err.count("\n") == 1, err
