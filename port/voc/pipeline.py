"""From image labels to a judged segmentation net, stage by stage."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import typer
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from port.report import pages
from port.voc.evaluate import Numbers, evaluate_labels, percent
from port.voc.gallery import gather_gallery, write_gallery
from port.voc.lists import Entry, read_entries
from port.voc.needs import Needs
from port.voc.pipeline_check import check_pipeline, report
from port.voc.segment import Segmenting, segment_dataset
from port.voc.settings import (
    MULTI_SCALE,
    CrfSettings,
    Folders,
    Fusion,
    PipelineSettings,
    Views,
    first_folder,
)
from port.voc.stages import STAGE, file_key, last_weights, losses, run_stage, solver_key, train_in
from port.voc.weak_labels import (
    Images,
    Recipe,
    generated_images,
    make_weak_labels,
    none_failed,
)
from prototxt.errors import InputError
from weights.files import write_json, write_text
from weights.progress import plain_console

matplotlib.use("Agg")

SEENET, CAM, MASKS = "SeeNet's labels", "plain CAM's labels", "exact masks"


def run_pipeline(out: Path, asked: PipelineSettings) -> None:
    """Check what is needed; train, judge and show each source of labels.

    Prints what was found and the results; writes `pipeline.html` and `.json`.

    Raises:
        InputError: the first of what is missing or does not fit, or whatever a stage raises.
    """
    nets, voc = asked.nets, asked.voc
    _no_spaces(out, voc or out)
    if voc is None:
        voc = out / "shapes"
        key = generated_images(voc, asked.number, workers=0)
    else:
        key = str(voc.resolve())
    images = _dataset(voc, asked.train_list, asked.saliency)
    segmenter, deploy = nets.segmentation[asked.backbone]
    seenet = nets.shared if asked.share_background else nets.seenet
    needs = Needs(
        images=images,
        val=asked.val_list or voc / "ImageSets" / "Segmentation" / "val.txt",
        out=out,
        classifiers={SEENET: seenet} | ({CAM: nets.cam} if asked.compare else {}),
        weights=nets.weights,
        segmentation=segmenter,
        segmentation_weights=nets.segmentation_weights,
        deploy=deploy,
        views=Views(MULTI_SCALE, True, nets.tile) if asked.multi_scale else Views(tile=nets.tile),
        crf=CrfSettings() if asked.crf else None,
        exact=asked.compare,
        test_size=nets.test_size,
        classifier_iterations=asked.classifier_iterations,
        segmentation_iterations=asked.segmentation_iterations,
        workers=asked.workers,
        device=asked.device,
    )
    report(*check_pipeline(needs, measure=asked.check or not (out / "seenet").exists()), plain_console())
    if images.saliency is None:
        typer.echo(
            f"warning: {voc}: no saliency maps, which the paper's rule needs (seenet saliency makes them): "
            f"background is where attention is below {Fusion.background} of its maximum instead",
            err=True,
        )
    if asked.check:
        return
    recipe = Recipe(
        seenet,
        nets.weights,
        nets.test_size,
        seed=asked.seed,
        iterations=asked.classifier_iterations,
        device=asked.device,
    )
    how = Segmentation(
        segmenter,
        deploy,
        nets.segmentation_weights,
        needs.val,
        needs.views,
        needs.crf,
        asked.seed,
        asked.segmentation_iterations,
        asked.workers,
        asked.device,
    )
    sources = [_weak_source(SEENET, out / "seenet", images, recipe, key, asked.workers)]
    if asked.compare:
        plain = replace(recipe, solver=nets.cam)
        sources.append(_weak_source(CAM, out / "cam", images, plain, key, asked.workers))
        unknown, names = _without_truth(images, read_entries(images.attend)[0])
        if unknown:
            typer.echo(f"{MASKS}: left out, {len(unknown)} of {len(names)} training images have none")
        else:
            sources.append(Source(MASKS, out / "masks", images.truth, key))
    outcomes = [train_and_judge(source, images, how) for source in sources]
    head, rows = outcome_rows(outcomes)
    table = Table(*head, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    plain_console().print(table)
    write_page(out / "pipeline.html", outcomes, images, how)
    numbers = {o.source.name: {"labels": o.labels, "segmentation": o.segmentation} for o in outcomes}
    write_json(out / "pipeline.json", numbers)


@dataclass(frozen=True)
class Source:
    """Labels that a segmentation net is trained on.

    Attributes:
        folder: where all that comes of them lies.
        labels: folder of `NAME.png`.
        key: changes whenever they do.
    """

    name: str
    folder: Path
    labels: Path
    key: str


@dataclass(frozen=True)
class Outcome:
    """What came of one source: how good its labels were, where the truth is known, and the segmentation by it."""

    source: Source
    labels: Numbers | None
    segmentation: Numbers
    losses: dict[str, list[tuple[int, float]]]


@dataclass(frozen=True)
class Segmentation:
    """How segmentation nets are trained, from which weights, run by which net, and judged on the images of `val`."""

    solver: Path
    deploy: Path
    weights: Path
    val: Path
    views: Views
    crf: CrfSettings | None
    seed: int | None
    iterations: int | None
    workers: int
    device: str


def train_and_judge(source: Source, images: Images, how: Segmentation) -> Outcome:
    """Judge a source's labels, train on them, segment the images of `val`, and judge that.

    Raises:
        InputError: whatever a stage raises.
    """
    trained, segmented = source.folder / "segmentation_net", source.folder / "segmentation"
    list_ = source.folder / "train_seg.txt"
    names = [entry.name for entry in read_entries(images.attend)[0]]
    _write_pairs(list_, images.voc / "JPEGImages", source.labels, names)
    of_labels = _judge_labels(source, images, how.workers)
    settings = {
        "labels": source.key,
        "list": file_key(images.attend),
        "solver": solver_key(how.solver),
        "weights": file_key(how.weights),
        "seed": how.seed,
        "iterations": how.iterations,
    }

    def train() -> None:
        train_in(
            trained,
            how.solver,
            how.weights,
            {"source": str(list_.resolve())},
            how.seed,
            how.iterations,
            how.device,
        )

    key = run_stage(f"{source.name}: segmentation net", trained, settings, train)
    by = Segmenting(how.deploy, last_weights(trained), how.views, how.crf)

    def segment() -> None:
        none_failed(segment_dataset(images.voc, how.val, segmented, by, how.workers, how.device).failed)

    settings = {"net": key, "list": file_key(how.val), "by": by.record()}
    run_stage(f"{source.name}: segmentation", segmented, settings, segment)
    judged, failed = evaluate_labels(segmented, images.truth, how.val, how.workers)
    none_failed(failed)
    classifier = source.folder / "classifier"
    curves = {"segmentation net": losses(trained)} | (
        {"classifier": losses(classifier)} if classifier.is_dir() else {}
    )
    return Outcome(source, of_labels, judged, curves)


def _judge_labels(source: Source, images: Images, workers: int) -> Numbers | None:
    """By the images whose truth is known. Before training: it finds what is no label image, too."""
    unknown, names = _without_truth(images, read_entries(images.attend)[0])
    if len(unknown) == len(names):
        return None
    list_ = source.folder / "judged.txt"
    known = sorted(set(names) - set(unknown))
    write_text(list_, "".join(f"{name}\n" for name in known))
    numbers, failed = evaluate_labels(source.labels, images.truth, list_, workers)
    none_failed(failed)
    return numbers


def _without_truth(images: Images, entries: Sequence[Entry]) -> tuple[list[str], list[str]]:
    """The names whose true label image is not there, and all names."""
    names = [entry.name for entry in entries]
    return [name for name in names if not (images.truth / f"{name}.png").is_file()], names


def outcome_rows(outcomes: Sequence[Outcome]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table's head, and a row for each source."""
    head = ("trained on", "labels: mIoU %", "ignored %", "segmentation: mIoU %", "accuracy %")
    rows = [
        (
            outcome.source.name,
            *(percent(outcome.labels and outcome.labels[what]) for what in ("miou", "ignored")),
            percent(outcome.segmentation["miou"]),
            percent(outcome.segmentation["accuracy"]),
        )
        for outcome in outcomes
    ]
    return head, rows


def curves(outcomes: Sequence[Outcome]) -> Figure:
    """The trainings' smoothed losses; the axis fits what comes after the first twentieth."""
    kinds = ("classifier", "segmentation net")
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    shown: dict[str, Artist] = {}
    for axis, kind in zip(figure.subplots(1, 2), kinds, strict=True):
        highest = 0.0
        for number, outcome in enumerate(outcomes):
            if kind in outcome.losses:
                points = outcome.losses[kind]
                marker = "." if len(points) == 1 else ""
                (line,) = axis.plot(*zip(*points, strict=True), color=f"C{number}", lw=1.2, marker=marker)
                shown.setdefault(outcome.source.name, line)
                highest = max(highest, *(loss for _, loss in points[len(points) // 20 :]))
        axis.set(title=kind, xlabel="iteration", ylabel="loss", ylim=(0, 1.05 * highest or 1))
        axis.grid(color="0.92")
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def write_page(path: Path, outcomes: Sequence[Outcome], images: Images, how: Segmentation) -> None:
    """The table, the losses, and every image of `val` with each segmentation of it, sortable by IoU."""
    segmented = {
        outcome.source.name.removesuffix(" labels"): outcome.source.folder / "segmentation"
        for outcome in outcomes
    }
    folders = Folders(images.voc, {}, segmented, images.truth)
    head = [pages.table(*outcome_rows(outcomes)), pages.figure(curves(outcomes))]
    write_gallery(
        path, gather_gallery(folders, how.val, how.workers), f"{images.voc.name}: segmentation", head
    )


def _weak_source(name: str, out: Path, images: Images, recipe: Recipe, key: str, workers: int) -> Source:
    return Source(name, out, out / "labels", make_weak_labels(name, out, images, recipe, key, workers))


def _dataset(voc: Path, train: Path | None, saliency: Path | None) -> Images:
    if saliency and not saliency.is_dir():
        raise InputError(f"--saliency {saliency}: there is no such folder")
    train = train or voc / "train_cls.txt"
    saliency = saliency or (voc / "Saliency" if (voc / "Saliency").is_dir() else None)
    return Images(voc, train, train, saliency, first_folder(voc))


def _no_spaces(*folders: Path) -> None:
    for folder in folders:
        if len(str(folder.resolve()).split()) > 1:
            raise InputError(
                f'"{folder.resolve()}": a list of images cannot hold spaces: use a folder without'
            )


def _write_pairs(path: Path, images: Path, labels: Path, names: Sequence[str]) -> None:
    """The list that ImageSegData reads: image and label image of each name, whole paths."""
    missing = [name for name in names if not (labels / f"{name}.png").is_file()]
    if missing:
        again = "delete the folder to have them made again" if (labels / STAGE).is_file() else "add them"
        raise InputError(
            f"{labels}: {len(missing)} of {len(names)} label images are missing, {missing[0]}.png first: {again}"
        )
    pairs = [(images.resolve() / f"{name}.jpg", labels.resolve() / f"{name}.png") for name in names]
    write_text(path, "".join(f"{image} {label}\n" for image, label in pairs))
