"""`seenet pipeline`: from image labels to a judged segmentation net, stage by stage."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import matplotlib
import typer
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

import prototxt
from port.devices import check_device
from port.progress import plain_console
from port.report import pages
from port.voc.crf import CrfSettings, load_crf
from port.voc.evaluate import Numbers, evaluate_labels, percent
from port.voc.gallery import Folders, gather_gallery, write_gallery
from port.voc.lists import Entry, read_entries, read_names
from port.voc.segment import Segmenting, segment_dataset
from port.voc.segmentation import MULTI_SCALE, Views
from port.voc.stages import STAGE, file_key, last_weights, losses, run_stage, solver_key, train_in
from port.voc.voc_labels import first_folder
from port.voc.weak_labels import (
    TEST_SIZE,
    TRUNK,
    Images,
    Recipe,
    generated_images,
    make_weak_labels,
    none_failed,
)
from prototxt.errors import InputError
from weights.files import atomic_path

matplotlib.use("Agg")

NETS = Path(prototxt.__file__).parent


@dataclass(frozen=True)
class Nets:
    """What is trained.

    Attributes:
        seenet, cam: the classifiers' solvers, with erasing and without.
        segmentation: the segmentation net's; deploy: the net as it is run.
        weights: what all start from, by layer name; none: it must be given.
        test_size: of the attention; tile: of the segmentation.
    """

    seenet: Path
    cam: Path
    segmentation: Path
    deploy: Path
    weights: Path | None
    test_size: int
    tile: int


SETS = {
    "published": Nets(
        NETS / "seenet" / "solver.prototxt",
        NETS / "seenet" / "solver_cam.prototxt",
        NETS / "deeplab_largefov" / "solver.prototxt",
        NETS / "deeplab_largefov" / "deploy.prototxt",
        None,
        256,
        513,
    ),
    "shapes": Nets(
        NETS / "shapes" / "solver.prototxt",
        NETS / "shapes" / "solver_cam.prototxt",
        NETS / "shapes" / "deeplab_solver.prototxt",
        NETS / "shapes" / "deeplab_deploy.prototxt",
        TRUNK,
        TEST_SIZE,
        0,
    ),
}

SEENET, CAM, MASKS = "SeeNet's labels", "plain CAM's labels", "exact masks"


def pipeline_command(
    out: Annotated[Path, typer.Option(help="Folder for everything.")],
    voc: Annotated[
        Path | None, typer.Option(help="Dataset in VOC's layout. Without: `shapes`, made in the folder.")
    ] = None,
    nets: Annotated[
        str, typer.Option(help=f"Which nets: {', '.join(SETS)}.", show_default="shapes without --voc")
    ] = "",
    weights: Annotated[
        Path | None, typer.Option(help="What the nets start from: VGG-16.", show_default="the set's own")
    ] = None,
    train_list: Annotated[
        Path | None, typer.Option(help="NAME CLASS [CLASS …].", show_default="VOC/train_cls.txt")
    ] = None,
    val_list: Annotated[
        Path | None, typer.Option(help="Names to judge by.", show_default="ImageSets/Segmentation/val.txt")
    ] = None,
    saliency: Annotated[
        Path | None, typer.Option(help="NAME.png.", show_default="VOC/Saliency, where there")
    ] = None,
    compare: Annotated[
        bool, typer.Option(help="Also train on plain CAM's labels, and on exact masks where there are any.")
    ] = True,
    multi_scale: Annotated[
        bool, typer.Option("--multi-scale", help="Segment at five scales, mirrored too.")
    ] = False,
    crf: Annotated[bool, typer.Option(help="Refine by a dense CRF.")] = True,
    number: Annotated[int, typer.Option("-n", "--number", min=10, help="Images, without --voc.")] = 1500,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of all trainings.", show_default="the solvers'")
    ] = None,
    classifier_iterations: Annotated[
        int | None, typer.Option(min=1, show_default="the solver's", help="Of the classifiers.")
    ] = None,
    segmentation_iterations: Annotated[
        int | None, typer.Option(min=1, show_default="the solver's", help="Of the segmentation nets.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that fuse, refine and judge.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Classifier → attention → proxy labels → segmentation net → mIoU; a page with curves and pictures.

    Called again, it goes on where it was stopped, and passes over what is current.
    """
    chosen = _nets(nets or ("published" if voc else "shapes"), weights)
    check_device(device)
    if crf:
        load_crf()
    _no_spaces(out, voc or out)
    if voc is None:
        voc = out / "shapes"
        key = generated_images(voc, number, workers=0)
    else:
        key = str(voc.resolve())
    images = _dataset(voc, train_list, saliency)
    val = val_list or voc / "ImageSets" / "Segmentation" / "val.txt"
    if not val.is_file() or not images.truth:
        raise InputError(f"{voc}: judging needs {val} and label images in SegmentationClass: name --val-list")
    unknown, names = _without_truth(images, read_names(val)[0])
    if unknown:
        raise InputError(
            f"{images.truth}: {len(unknown)} of {len(names)} images of {val} have no label image to be judged by, "
            f"{unknown[0]} first: name others with --val-list"
        )
    recipe = Recipe(
        chosen.seenet,
        chosen.weights,
        chosen.test_size,
        seed=seed,
        iterations=classifier_iterations,
        device=device,
    )
    how = Segmentation(
        chosen,
        val,
        Views(MULTI_SCALE, True, chosen.tile) if multi_scale else Views(tile=chosen.tile),
        CrfSettings() if crf else None,
        seed,
        segmentation_iterations,
        workers,
        device,
    )
    sources = [_weak_source(SEENET, out / "seenet", images, recipe, key, workers)]
    if compare:
        plain = replace(recipe, solver=chosen.cam)
        sources.append(_weak_source(CAM, out / "cam", images, plain, key, workers))
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
    with atomic_path(out / "pipeline.json") as beside:
        beside.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"Curves and pictures: {out}/pipeline.html; all numbers: {out}/pipeline.json")


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
    """How segmentation nets are trained, and judged on the images of `val`."""

    nets: Nets
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
        "solver": solver_key(how.nets.segmentation),
        "weights": file_key(how.nets.weights),
        "seed": how.seed,
        "iterations": how.iterations,
    }

    def train() -> None:
        train_in(
            trained,
            how.nets.segmentation,
            how.nets.weights,
            {"source": str(list_.resolve())},
            how.seed,
            how.iterations,
            how.device,
        )

    key = run_stage(f"{source.name}: segmentation net", trained, settings, train)
    by = Segmenting(how.nets.deploy, last_weights(trained), how.views, how.crf)

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
    with atomic_path(list_) as beside:
        beside.write_text("".join(f"{name}\n" for name in known), encoding="utf-8")
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
    """The trainings' smoothed losses."""
    kinds = ("classifier", "segmentation net")
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axis, kind in zip(figure.subplots(1, 2), kinds, strict=True):
        for outcome in outcomes:
            if kind in outcome.losses:
                points = outcome.losses[kind]
                marker = "." if len(points) == 1 else ""
                axis.plot(*zip(*points, strict=True), label=outcome.source.name, lw=1.2, marker=marker)
        axis.set(title=kind, xlabel="iteration", ylabel="loss", ylim=(0, None))
        axis.legend()
    return figure


def write_page(path: Path, outcomes: Sequence[Outcome], images: Images, how: Segmentation) -> None:
    """The table, the losses, and every image of `val` with each segmentation of it, sortable by IoU."""
    segmented = {
        outcome.source.name.removesuffix(" labels"): outcome.source.folder / "segmentation"
        for outcome in outcomes
    }
    folders = Folders(images.voc, {}, segmented, images.truth)
    head = [pages.table(*outcome_rows(outcomes)), f"<figure>{pages.svg(curves(outcomes))}</figure>"]
    write_gallery(
        path, gather_gallery(folders, how.val, how.workers), f"{images.voc.name}: segmentation", head
    )


def _weak_source(name: str, out: Path, images: Images, recipe: Recipe, key: str, workers: int) -> Source:
    return Source(name, out, out / "labels", make_weak_labels(name, out, images, recipe, key, workers))


def _nets(name: str, weights: Path | None) -> Nets:
    if name not in SETS:
        raise InputError(f'--nets "{name}": one of {", ".join(SETS)} is due')
    nets = replace(SETS[name], weights=weights) if weights else SETS[name]
    if nets.weights is None:
        raise InputError(
            f"--nets {name}: --weights is due: VGG-16's caffemodel, which weights/README.md says where to get"
        )
    return nets


def _dataset(voc: Path, train: Path | None, saliency: Path | None) -> Images:
    train = train or voc / "train_cls.txt"
    if not train.is_file():
        raise InputError(
            f"{train}: there is no such list: make it with seenet voc-labels, or name one with --train-list"
        )
    if saliency and not saliency.is_dir():
        raise InputError(f"--saliency {saliency}: there is no such folder")
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
    with atomic_path(path) as beside:
        beside.write_text("".join(f"{image} {label}\n" for image, label in pairs), encoding="utf-8")
