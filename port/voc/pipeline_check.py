"""What the pipeline needs, opened and held against each other before its first hour, and what it will take."""

import io
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from port.net import CaffeNet
from port.training.caffe_log import CaffeLog
from port.training.loop import check_solver
from port.training.net import TrainingNet
from port.voc.crf import load_crf
from port.voc.each import IMAGES_PER_PROCESS, for_each
from port.voc.label_images import read_label_image, read_map
from port.voc.lists import Entry, read_entries, read_names
from port.voc.needs import Needs
from port.voc.pipeline_cost import SEGMENTATION, Stage, Training, duration_text, size_text, stage_costs
from port.voc.stages import training_text
from port.voc.weak_labels import Images
from prototxt.caffe_pb2 import LayerParameter, NetParameter, SolverParameter
from prototxt.errors import InputError
from prototxt.files import MAX_IMAGE, read_ordinary
from prototxt.read import read_net
from runtime.data.decoding import check_pixels
from runtime.data.reading import naming
from weights import LayerWeights, check_finite, read_weights
from weights.opening import README

WHERE_FROM = {
    "weights": f"{README} says where VGG-16 comes from",
    "segmentation weights": "the README of PengtaoJiang/OAA links vgg16_20M and ResNet-101",
    "list": "make it with seenet voc-labels, or name one with --train-list",
    "val list": "comes with VOC 2012; name one with --val-list",
    "images": "come with VOC 2012",
    "truth": "come with VOC 2012, and with the augmented set",
    "saliency": "make them with seenet saliency, or take those of PengtaoJiang/OAA",
    "crf": "pip install pydensecrf2, or --no-crf",
    "nets": "comes with this project: install it again",
}
"""Where a user gets what is missing."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        told: what was found, or where it comes from.
        problem: one line; empty where all is well.
    """

    stage: str
    what: str
    told: str
    problem: str = ""


def check_pipeline(needs: Needs, measure: bool) -> tuple[list[Finding], list[Stage]]:
    """Open everything that `needs` names.

    Args:
        measure: run a pass of each net, too, and estimate what each stage takes.

    Returns:
        What was found, in the order of the stages; and where `measure`, and nothing is wrong, what each will take.
    """
    found: list[Finding] = []
    images = needs.images

    def look(stage: str, what: str, source: str, work: Callable, *arguments: object) -> Any:
        """The answer of `work(*arguments)`, or None where it raised InputError."""
        try:
            answer = work(*arguments)
        except InputError as error:
            found.append(Finding(stage, what, WHERE_FROM[source], str(error)))
            return None
        found.append(Finding(stage, what, answer if isinstance(answer, str) else answer.told))
        return answer

    entries: list[Entry] = []
    judged: list[Entry] = []
    look("images", "list", "list", _listed, images.train, read_entries, entries)
    look("images", "list to judge by", "val list", _listed, needs.val, read_names, judged)
    look("images", "photographs", "images", _photographs, needs, entries, judged)
    usable = not any(finding.problem for finding in found)
    trainings: dict[str, Training] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = _sample(Path(folder), needs, entries[0]) if usable else {}
        for name, start in _starts(needs).items():
            text = look(name, "solver and net", "nets", _solver_and_net, start, data)
            layers = look(name, "weights", start.source, _weights, start)
            if text and layers and usable:
                trained = look(
                    name, "weights in the net", start.source, _training, text, layers, needs.device
                )
                trainings |= {name: trained} if trained else {}
        if SEGMENTATION in trainings:
            look("segmentation", "net as it is run", "nets", _deploy, needs, trainings[SEGMENTATION].net)
        if needs.crf:
            look("segmentation", "dense CRF", "crf", _crf)
        if images.saliency is None:
            found.append(Finding("labels", "saliency", f"none: {WHERE_FROM['saliency']}"))
        elif usable:
            look("labels", "saliency", "saliency", _saliency, needs, entries)
        if usable:
            look("judging", "label images", "truth", _truth, needs, judged, True)
            if needs.exact:
                look("exact masks", "label images", "truth", _truth, needs, entries, False)
        if not measure or any(finding.problem for finding in found):
            return found, []
        stages = stage_costs(needs, trainings, entries, judged)
    free = shutil.disk_usage(_existing(needs.out)).free
    needed = sum(stage.bytes for stage in stages)
    problem = (
        f"{size_text(needed)} needed, {size_text(free)} free: choose another --out" if needed > free else ""
    )
    told = f"{size_text(needed)} needed, {size_text(free)} free"
    return [*found, Finding("all", "disk", told, problem)], stages


@dataclass(frozen=True)
class _Start:
    """A training before it is read: its solver, its iterations (None: the solver's), what it starts from."""

    solver: Path
    iterations: int | None
    weights: Path | None
    source: str


def _starts(needs: Needs) -> dict[str, _Start]:
    found = {
        name: _Start(solver, needs.classifier_iterations, needs.weights, "weights")
        for name, solver in needs.classifiers.items()
    }
    found[SEGMENTATION] = _Start(
        needs.segmentation,
        needs.segmentation_iterations,
        needs.segmentation_weights,
        "segmentation weights",
    )
    return found


def report(found: Sequence[Finding], stages: Sequence[Stage], console: Console) -> None:
    """Print what was found as one table, and under it what the stages take.

    Raises:
        InputError: the first problem, and how many more there are.
    """
    table = Table("stage", "what", "", "told", box=box.SIMPLE_HEAD, title="What the pipeline needs")
    for finding in found:
        mark = "wrong" if finding.problem else "found"
        told = f"{finding.problem}\n→ {finding.told}" if finding.problem else finding.told
        table.add_row(finding.stage, finding.what, mark, Text(told, overflow="fold"))
    console.print(table)
    if stages:
        table = Table(
            "stage", "time", "disk", "from", box=box.SIMPLE_HEAD, title="What it takes, from a measured pass"
        )
        for stage in stages:
            table.add_row(stage.name, duration_text(stage.seconds), size_text(stage.bytes), stage.told)
        total = sum(stage.seconds for stage in stages), sum(stage.bytes for stage in stages)
        table.add_section()
        table.add_row("all", duration_text(total[0]), size_text(total[1]), "")
        console.print(table)
    problems = [finding.problem for finding in found if finding.problem]
    if problems:
        more = f" ({len(problems) - 1} more: see the table)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}")


# ---- the images


def _listed(path: Path, read: Callable, into: list[Entry]) -> str:
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such list: {WHERE_FROM['list' if read is read_entries else 'val list']}"
        )
    entries, failed = read(path)
    _raise_first(failed, len(entries) + len(failed), "lines")
    into += entries
    classes = {label for entry in entries for label in entry.labels}
    return f"{len(entries)} images" + (f" of {len(classes)} classes" if classes else "")


def _photographs(needs: Needs, *lists: Sequence[Entry]) -> str:
    folder = needs.images.voc / "JPEGImages"
    if not folder.is_dir():
        raise InputError(f"{needs.images.voc}: has no folder JPEGImages: is it VOC2012's own folder?")
    names = sorted({entry.name for entries in lists for entry in entries})
    _each(needs, names, partial(_photograph, folder), "photographs")
    return f"{len(names)} images, all of them decode"


def _photograph(folder: Path, name: str) -> None:
    file = folder / f"{name}.jpg"
    try:
        data = read_ordinary(file, MAX_IMAGE)
        with naming(f"{file}"):
            check_pixels(data)
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (1, 1))  # JPEG at an eighth of its size: the whole file is read
            image.load()
            if image.mode != "RGB":
                raise InputError(f"{file}: a colour JPEG is needed, not mode {image.mode}: convert it")
    except FileNotFoundError as error:
        raise InputError(f"{file}: a list names it, and there is no such file") from error
    except InputError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{file}: does not decode ({error}): get it again") from error


def _truth(needs: Needs, entries: Sequence[Entry], needed: bool) -> str:
    truth = needs.images.truth
    if truth is None or not truth.is_dir():
        raise InputError(f"{needs.images.voc}: has no folder SegmentationClass of label images")
    there = [entry.name for entry in entries if (truth / f"{entry.name}.png").is_file()]
    if needed and len(there) < len(entries):
        missing = next(entry.name for entry in entries if entry.name not in set(there))
        raise InputError(
            f"{truth}: {len(entries) - len(there)} of {len(entries)} images of {needs.val} have no label image to be "
            f"judged by, {missing} first: name others with --val-list"
        )
    _each(needs, there, partial(_mask, needs.images.voc, truth), "label images")
    if len(there) < len(entries):
        return f"left out: {len(entries) - len(there)} of {len(entries)} training images have none"
    return f"{len(there)} label images, each of its image's size"


def _mask(voc: Path, truth: Path, name: str) -> None:
    file = truth / f"{name}.png"
    _as_large(file, read_label_image(file), voc / "JPEGImages" / f"{name}.jpg")


def _saliency(needs: Needs, entries: Sequence[Entry]) -> str:
    _each(needs, [entry.name for entry in entries], partial(_saliency_map, needs.images), "saliency maps")
    return f"{len(entries)} maps, each of its image's size"


def _saliency_map(images: Images, name: str) -> None:
    file = images.saliency / f"{name}.png"
    values = read_map(file, "the saliency map", "make it, or leave the image out")
    _as_large(file, values, images.voc / "JPEGImages" / f"{name}.jpg")


def _as_large(file: Path, values: np.ndarray, image: Path) -> None:
    with Image.open(image) as photograph:
        width, height = photograph.size
    if values.shape != (height, width):
        raise InputError(f"{file}: is {values.shape[1]}×{values.shape[0]} pixels, its image {width}×{height}")


def _each(needs: Needs, names: Sequence[str], work: Callable[[str], None], what: str) -> None:
    workers = min(needs.workers, 1 + len(names) // IMAGES_PER_PROCESS)
    results = for_each(work, names, workers, f"checking {what}")
    failed = [result for _, result in results if isinstance(result, InputError)]
    _raise_first(failed, len(names), what)


def _raise_first(failed: Sequence[InputError], total: int, what: str) -> None:
    if failed:
        more = f" (and {len(failed) - 1} more of {total} {what})" if len(failed) > 1 else ""
        raise InputError(f"{failed[0]}{more}")


# ---- the nets


@dataclass(frozen=True)
class _Text:
    solver: SolverParameter
    net: NetParameter
    told: str


@dataclass(frozen=True)
class _Weights:
    path: Path
    layers: list[LayerWeights]
    told: str


def _solver_and_net(start: _Start, data: dict[str, str]) -> _Text:
    if not start.solver.is_file():
        raise InputError(f"{start.solver}: there is no such solver")
    param, net = training_text(start.solver, data, None, start.iterations)
    check_solver(param, str(start.solver))
    told = f"{param.max_iter} iterations" + (f" of {param.iter_size} passes" if param.iter_size > 1 else "")
    return _Text(param, net, f"{start.solver}: {told}")


def _weights(start: _Start) -> _Weights:
    path = start.weights
    if path is None:
        option = "--weights" if start.source == "weights" else "--segmentation-weights"
        raise InputError(f"{option} is missing: {WHERE_FROM[start.source]}")
    layers = read_weights(path, with_empty=True)
    check_finite(layers, path)
    return _Weights(path, layers, f"{path}: {sum(bool(layer.present) for layer in layers)} layers")


def _training(text: _Text, weights: _Weights, device: str) -> Training:
    """The net with its weights in it.

    Raises:
        InputError: a shape that differs; weights that the net needs and the file lacks.
    """
    state = text.solver.train_state
    net = TrainingNet(text.net, 0, state.level, list(state.stage), log=CaffeLog(silent=True), device=device)
    net.net.copy_weights(weights.layers, str(weights.path))
    own = [layer for layer in net.layer_weights() if layer.blobs]
    given = {layer.name for layer in weights.layers if layer.present}
    lacking = [layer for layer in own if layer.name not in given]
    empty = [layer.name for layer in lacking if not _has_filler(layer.param)]
    if empty:
        some = ", ".join(empty[:3]) + (" …" if len(empty) > 3 else "")
        raise InputError(
            f"{weights.path}: lacks {len(empty)} of the net's {len(own)} layers that nothing else fills: {some}: "
            "it is another net's file"
        )
    drawn = f"; drawn anew: {', '.join(layer.name for layer in lacking)}" if lacking else ""
    told = f"{len(own) - len(lacking)} of {len(own)} layers{drawn}"
    return Training(text.solver, net, told)


def _has_filler(param: LayerParameter) -> bool:
    for field, value in param.ListFields():
        if field.name.endswith("_param") and field.message_type and not field.is_repeated:
            names = {own.name for own, _ in value.ListFields()}
            if names & {"weight_filler", "filler"}:
                return True
    return False


def _deploy(needs: Needs, net: TrainingNet) -> str:
    """Whether the net as it is run takes what the training will write."""
    deploy = CaffeNet(read_net(needs.deploy), where=str(needs.deploy))
    written = net.layer_weights()
    deploy.copy_weights(written, "the trained net")
    names = {layer.name for layer in written if layer.blobs}
    lacking = [layer.name for layer in deploy.layer_weights() if layer.blobs and layer.name not in names]
    if lacking:
        raise InputError(
            f"{needs.deploy}: layer {lacking[0]} is not in the net that is trained: name its own"
        )
    return "has the trained net's layers"


def _crf() -> str:
    load_crf()
    return "pydensecrf2 is installed"


def _sample(folder: Path, needs: Needs, entry: Entry) -> dict[str, str]:
    """What the data layers read when a pass is tried: for a segmentation net one image, with an empty label image."""
    images = (needs.images.voc / "JPEGImages").resolve()
    with Image.open(images / f"{entry.name}.jpg") as photograph:
        Image.new("L", photograph.size).save(folder / "labels.png")
    list_ = folder / "list.txt"
    list_.write_text(f"{images / entry.name}.jpg {folder / 'labels.png'}\n", encoding="utf-8")
    return {"list": str(needs.images.train.resolve()), "images": str(images), "source": str(list_)}


def _existing(path: Path) -> Path:
    path = path.resolve()
    return path if path.exists() else _existing(path.parent)
