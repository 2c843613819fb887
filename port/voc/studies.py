"""The paper's studies on the generated dataset, trained, judged and drawn side by side."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from port.attention.figures import coloured, picture_grid
from port.images import read_image
from port.voc.classes import CLASSES, PALETTE
from port.voc.label_images import read_label_image, read_map
from port.voc.lists import Entry, read_entries
from port.voc.settings import NETS, TEST_SIZE, TRUNK
from port.voc.weak_labels import (
    Images,
    Recipe,
    generated_images,
    judge_weak_labels,
    make_weak_labels,
)
from weights.files import atomic_path
from weights.progress import plain_console

STUDIES = {
    "S_A alone (CAM)": "solver_cam.prototxt",
    "ACoL-style erasing": "solver_acol.prototxt",
    "SeeNet without C-ReLU": "solver_no_negation.prototxt",
    "SeeNet": "solver.prototxt",
}
"""The paper's studies, and the solvers that train them."""

MEASURES = {
    "attention_iou": "attention: IoU",
    "on_class": "on its class",
    "on_background": "on background",
    "labels_miou": "proxy labels: mIoU",
}
"""What is told of each, in per cent."""

SHOWN = 6
"""Images in the figure."""

Results = dict[str, list[dict[str, float]]]


def run_studies(
    out: Path, seeds: int, number: int, iterations: int | None, workers: int, device: str
) -> tuple[Results, Images]:
    """Train, attend and fuse for each study and seed; the measures of each, as shares, and the images."""
    voc = out / "shapes"
    key = generated_images(voc, number, workers)
    images = Images(
        voc, voc / "train_cls.txt", voc / "val_cls.txt", voc / "Saliency", voc / "SegmentationClass"
    )
    results: Results = {}
    for study, solver in STUDIES.items():
        for seed in range(1, seeds + 1):
            recipe = Recipe(
                NETS / "shapes" / solver, TRUNK, TEST_SIZE, seed=seed, iterations=iterations, device=device
            )
            folder = run_folder(out, study, seed)
            make_weak_labels(f"{study}, seed {seed}", folder, images, recipe, key, workers)
            attention, labels = judge_weak_labels(folder, images, workers)
            results.setdefault(study, []).append(
                {
                    "attention_iou": attention["mean_best_iou"],
                    "on_class": attention["mean_on_class"],
                    "on_background": attention["mean_on_background"],
                    "labels_miou": labels["miou"],
                }
            )
    return results, images


def write_studies(out: Path, results: Results, images: Images) -> None:
    """Write `studies.json` and `studies.png`, and print the table."""
    with atomic_path(out / "studies.json") as beside:
        beside.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    side_by_side(out / "studies.png", out, images)
    plain_console().print(studies_table(results))


def run_folder(out: Path, study: str, seed: int) -> Path:
    """Where one training and what came of it lie."""
    return out / STUDIES[study].removesuffix(".prototxt") / f"seed_{seed}"


def studies_table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> Table:
    """Mean ± standard deviation over the seeds, in per cent; of one seed its own numbers."""
    count = min(len(runs) for runs in results.values())
    title = "1 seed, %" if count == 1 else f"{count} seeds, mean ± spread, %"
    table = Table("study", *MEASURES.values(), box=box.SIMPLE_HEAD, title=title)
    for study, runs in results.items():
        table.add_row(study, *(_mean_and_spread([100 * run[what] for run in runs]) for what in MEASURES))
    return table


def side_by_side(path: Path, out: Path, images: Images) -> None:
    """Write a figure: seed 1's attention in each study on the same images, beside the truth."""
    rows = []
    for entry in several_classes(read_entries(images.attend)[0], SHOWN):
        image, label = read_image(images.voc / "JPEGImages" / f"{entry.name}.jpg"), entry.labels[0]
        pictures = [image[:, :, ::-1]]
        for study in STUDIES:
            file = run_folder(out, study, 1) / "attention" / f"{entry.name}_{label}.png"
            pictures.append(coloured(read_map(file, "attention", "run this again") / 255, image, label))
        pictures.append(PALETTE[read_label_image(images.truth / f"{entry.name}.png")])
        rows.append((CLASSES[label], pictures))
    picture_grid(path, ("image", *STUDIES, "truth"), rows)


def several_classes(entries: Sequence[Entry], count: int) -> list[Entry]:
    """The first images, of different first classes."""
    by_class: dict[int, Entry] = {}
    for entry in entries:
        by_class.setdefault(entry.labels[0], entry)
    return list(by_class.values())[:count]


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread}"
