"""The paper's studies on generated images, trained, judged and drawn side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from port.attention.figures import coloured, picture_grid
from port.images import read_image
from port.voc.classes import CLASSES, PALETTE
from port.voc.evaluate import evaluate_attention, evaluate_labels
from port.voc.label_images import read_label_image, read_map
from port.voc.lists import Entry, read_entries
from port.voc.settings import NETS, TEST_SIZE, TRUNK, Fusion
from port.voc.study_design import Design, Variant
from port.voc.weak_labels import (
    Images,
    Recipe,
    attend,
    fuse_labels,
    generated_images,
    none_failed,
    train_classifier,
)
from prototxt.errors import figure_text
from weights.files import atomic_path, write_json
from weights.progress import plain_console

matplotlib.use("Agg")

MEASURES = {
    "attention_iou": "IoU",
    "precision": "prec.",
    "recall": "recall",
    "on_background": "backgr.",
    "labels_miou": "labels",
    "labels_without_saliency": "… alone",
}
"""What is told of each run, in per cent."""

CAPTION = (
    "Attention: IoU, precision and recall at each class's best threshold, share on background. "
    "Proxy labels: mIoU by the paper's rule, and of attention alone, without saliency."
)

SHOWN = 6
"""Images in the figure."""

Run = dict[str, Any]


def write_studies(out: Path, plan: Design, workers: int, device: str) -> None:
    """Run the studies; after each run write `studies.json`, in the end the tables and figures of each set."""
    runs: list[Run] = []
    for run in run_studies(out, plan, workers, device):
        runs.append(run)
        write_json(out / "studies.json", runs)
    for name in plan.sets:
        own = [run for run in runs if run["set"] == name]
        plain_console().print(studies_table(own, name))
        with atomic_path(out / f"{name}.png") as beside:
            studies_chart(own, name).savefig(beside, dpi=110, format="png")
        side_by_side(out / f"{name}_maps.png", out, plan, name)


def run_studies(out: Path, design: Design, workers: int, device: str = "cpu") -> Iterator[Run]:
    """Train, attend, fuse and judge, seed by seed, so that what is there at any time is balanced.

    Yields:
        For each seed, set, variant and pair of thresholds its names and `MEASURES`, as shares.
    """
    for seed in design.seeds:
        for name, settings in design.sets.items():
            voc = _images_folder(out, name)
            drawing = {what: value for what, value in settings.items() if what != "iterations"}
            key = generated_images(voc, drawing.pop("number"), workers, **drawing)
            for variant, own in design.variants.items():
                recipe = Recipe(
                    NETS / "shapes" / own.solver,
                    TRUNK,
                    TEST_SIZE,
                    seed=seed,
                    iterations=settings["iterations"],
                    device=device,
                )
                told = f"{name}, {variant}, seed {seed}"
                folder = _run_folder(out, name, own, seed)
                classifier = train_classifier(told, folder / "classifier", _images(voc), recipe, key)
                for pair in own.thresholds(design.thresholds):
                    recipe = replace(recipe, thresholds=pair, fusion=Fusion(own.fusion))
                    measures = _judged(told, folder, _images(voc), recipe, classifier, workers)
                    yield {
                        "set": name,
                        "variant": variant,
                        "seed": seed,
                        "thresholds": list(pair) if own.erases else None,
                        **measures,
                    }


def _judged(
    told: str, folder: Path, images: Images, recipe: Recipe, classifier: str, workers: int
) -> dict[str, float]:
    high, low = recipe.thresholds
    maps = folder / f"attention_{high}_{low}"
    key = attend(told, folder / "classifier", maps, images, recipe, classifier)
    attention, failed = evaluate_attention(maps, images.truth, images.attend, workers)
    mious = []
    for with_saliency in (images, replace(images, saliency=None)):
        name = recipe.fusion.fusion if with_saliency.saliency else "alone"
        labels = folder / f"labels_{high}_{low}_{name}"
        fuse_labels(told, maps, labels, with_saliency, recipe.fusion, key, workers)
        numbers, also = evaluate_labels(labels, images.truth, images.attend, workers)
        mious.append(numbers["miou"])
        failed += also
    none_failed(failed)
    return {
        "attention_iou": attention["mean_best_iou"],
        "precision": attention["mean_precision"],
        "recall": attention["mean_recall"],
        "on_background": attention["mean_on_background"],
        "labels_miou": mious[0],
        "labels_without_saliency": mious[1],
    }


def _images_folder(out: Path, name: str) -> Path:
    return out / name / "images"


def _images(voc: Path) -> Images:
    return Images(
        voc, voc / "train_cls.txt", voc / "val_cls.txt", voc / "Saliency", voc / "SegmentationClass"
    )


def _run_folder(out: Path, name: str, variant: Variant, seed: int) -> Path:
    """Where one training and what came of it lie: variants that train alike share it."""
    return out / name / variant.solver.removesuffix(".prototxt") / f"seed_{seed}"


def _groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The seeds' runs of each variant and pair of thresholds, by a name for both."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        pair = run["thresholds"]
        name = run["variant"] + (f" ({pair[0]:g}/{pair[1]:g})" if pair else "")
        found.setdefault(name, []).append(run)
    return found


def studies_table(runs: Sequence[Run], title: str) -> Table:
    """Mean ± standard deviation over the seeds, in per cent; of one seed its own numbers."""
    groups = _groups(runs)
    seeds = len({run["seed"] for run in runs})
    counted = "1 seed, %" if seeds == 1 else f"{seeds} seeds, mean ± standard deviation, %"
    table = Table(box=box.SIMPLE, title=f"{title}: {counted}", padding=(0, 0, 0, 1))
    table.add_column("study (δ_h/δ_l)")
    for told in MEASURES.values():
        table.add_column(told, no_wrap=True, justify="right")
    table.caption = CAPTION
    for name, own in groups.items():
        table.add_row(name, *(_mean_and_spread([100 * run[what] for run in own]) for what in MEASURES))
    return table


def studies_chart(runs: Sequence[Run], title: str) -> Figure:
    """Three measures of each study: a small dot for each seed, a large one for their mean."""
    groups = _groups(runs)
    figure = Figure(figsize=(10, 1.2 + 0.32 * len(groups)), layout="constrained")
    shown = ("attention_iou", "labels_miou", "labels_without_saliency")
    titles = ("attention: IoU", "proxy labels: mIoU", "… without saliency: mIoU")
    for axis, what, told in zip(figure.subplots(1, 3, sharey=True), shown, titles, strict=True):
        for row, own in enumerate(groups.values()):
            values = [100 * run[what] for run in own]
            first = row == 0
            axis.plot(
                values, [row] * len(values), "o", color="0.6", ms=4, label="one seed" if first else None
            )
            axis.plot(np.mean(values), row, "o", color="tab:blue", ms=8, label="mean" if first else None)
        axis.set(
            xlabel="%", title=told, yticks=range(len(groups)), yticklabels=list(map(figure_text, groups))
        )
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.margins(x=0.1)
    figure.axes[0].invert_yaxis()
    figure.suptitle(figure_text(title))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def side_by_side(path: Path, out: Path, design: Design, name: str) -> None:
    """Write a figure: the first seed's attention in each study on the same images, beside the truth."""
    images = _images(_images_folder(out, name))
    shown = {own.solver: (variant, own) for variant, own in reversed(design.variants.items())}
    columns = list(reversed(shown.values()))
    rows = []
    for entry in several_classes(read_entries(images.attend)[0], SHOWN):
        image, label = read_image(images.voc / "JPEGImages" / f"{entry.name}.jpg"), entry.labels[0]
        pictures = [image[:, :, ::-1]]
        for _, own in columns:
            high, low = own.thresholds(design.thresholds)[0]
            maps = _run_folder(out, name, own, design.seeds[0]) / f"attention_{high}_{low}"
            file = maps / f"{entry.name}_{label}.png"
            pictures.append(coloured(read_map(file, "attention", "run this again") / 255, image, label))
        pictures.append(PALETTE[read_label_image(images.truth / f"{entry.name}.png")])
        rows.append((CLASSES[label], pictures))
    picture_grid(path, ("image", *(variant for variant, _ in columns), "truth"), rows)


def several_classes(entries: Sequence[Entry], count: int) -> list[Entry]:
    """The first images, of different first classes."""
    by_class: dict[int, Entry] = {}
    for entry in entries:
        by_class.setdefault(entry.labels[0], entry)
    return list(by_class.values())[:count]


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f"±{np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"
