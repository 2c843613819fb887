"""Label images, or attention, judged by ground truth."""

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from port.voc.classes import CLASSES, COLOURS, IGNORE
from port.voc.each import for_each
from port.voc.label_images import read_label_image, read_map, same_size
from port.voc.lists import Entry, read_entries, read_names
from prototxt.errors import InputError
from weights.files import atomic_path, write_json
from weights.progress import plain_console

matplotlib.use("Agg")

NAMES = ("background", *CLASSES)
KINDS = len(NAMES)

Numbers = dict[str, Any]


def write_evaluation(numbers: Numbers, json_: Path | None, chart: Path | None) -> None:
    """Print the table of `evaluate_labels`' or `evaluate_attention`'s numbers, and write what is asked for."""
    of_labels = "miou" in numbers
    plain_console().print(_label_table(numbers) if of_labels else _attention_table(numbers))
    if json_:
        write_json(json_, numbers)
    if chart:
        figure = _label_chart(numbers) if of_labels else _attention_chart(numbers)
        with atomic_path(chart) as beside:
            figure.savefig(beside, dpi=110, format="png")


def evaluate_labels(pred: Path, gt: Path, list_: Path, workers: int = 1) -> tuple[Numbers, list[InputError]]:
    """Judge label images over all pixels of all images together, as VOC does.

    Where the truth is 255 nothing counts. A prediction of 255 is no answer: `ignored` is the share of true
    pixels without one. IoU, precision, recall and accuracy are of the answered pixels; `strict_iou` counts
    an unanswered pixel as missed. A class that is neither true nor predicted anywhere has no IoU (None)
    and no part in the mean.

    Returns:
        The numbers (`miou`, `strict_miou`, `accuracy`, `ignored`, `images`, and `classes`: for each of
        background and the twenty, by name, its own), and what could not be judged.
    """
    _check_folders(pred, gt)
    entries, failed = read_names(list_)
    counts = np.zeros((KINDS, KINDS + 1), np.int64)
    images = 0
    for _, result in for_each(partial(_confusion, pred, gt), entries, workers, "evaluating"):
        if isinstance(result, InputError):
            failed.append(result)
        else:
            counts += result
            images += 1
    return label_numbers(counts, images), failed


def _confusion(pred: Path, gt: Path, entry: Entry) -> np.ndarray:
    true = _truth(gt, entry)
    path = pred / f"{entry.name}.png"
    answer = read_label_image(path)
    same_size(answer, true, path, "the truth is")
    return confusion(true, answer)


def confusion(true: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """(true, predicted) counts of pixels, (21, 22); the last column is of those without an answer."""
    counted = true != IGNORE
    column = np.where(answer == IGNORE, KINDS, answer)[counted].astype(np.int64)
    pairs = true[counted].astype(np.int64) * (KINDS + 1) + column
    return np.bincount(pairs, minlength=KINDS * (KINDS + 1)).reshape(KINDS, KINDS + 1)


def label_numbers(counts: np.ndarray, images: int) -> Numbers:
    """What `evaluate_labels` tells, from the `confusion` of its images, added up."""
    answered = counts[:, :KINDS]
    hit, true, said = np.diag(answered), answered.sum(1), answered.sum(0)
    asked = counts.sum(1)
    iou, strict = _ratio(hit, true + said - hit), _ratio(hit, asked + said - hit)
    precision, recall, ignored = _ratio(hit, said), _ratio(hit, true), _ratio(counts[:, KINDS], asked)
    classes = {
        name: {
            "iou": iou[i],
            "strict_iou": strict[i],
            "precision": precision[i],
            "recall": recall[i],
            "ignored": ignored[i],
        }
        for i, name in enumerate(NAMES)
    }
    return {
        "images": images,
        "miou": _mean(iou),
        "strict_miou": _mean(strict),
        "accuracy": _share(hit.sum(), answered.sum()),
        "ignored": _share(counts[:, KINDS].sum(), counts.sum()),
        "classes": classes,
    }


def evaluate_attention(
    attention: Path, gt: Path, list_: Path, workers: int = 1
) -> tuple[Numbers, list[InputError]]:
    """Judge each class's maps, over all images that the list gives that class.

    A map's pixels at or above a threshold (in 0 … 255) are held against the true pixels of its class; where
    the truth is 255 nothing counts. An image with a map missing is reported and left out whole.

    Returns:
        The numbers: `classes`, for each class of the list by name: `maps`, `best_iou` with its `threshold`,
        `precision` and `recall`; `on_class`, `on_background`, `on_others`: where the attention falls, as
        shares of its sum; and `curve`: precision and recall at each threshold from 1 to 255. The means
        of these over classes are `mean_best_iou`, `mean_on_background`, …; `common_iou` is the best mean
        IoU at one `common_threshold` for all.
    """
    _check_folders(attention, gt)
    entries, failed = read_entries(list_)
    counts = np.zeros((len(CLASSES), 3, 256), np.int64)
    maps = np.zeros(len(CLASSES), int)
    images = 0
    for entry, result in for_each(partial(_map_counts, attention, gt), entries, workers, "evaluating"):
        if isinstance(result, InputError):
            failed.append(result)
        else:
            counts[list(entry.labels)] += result
            maps[list(entry.labels)] += 1
            images += 1
    return attention_numbers(counts, maps, images), failed


def _map_counts(attention: Path, gt: Path, entry: Entry) -> np.ndarray:
    """(labels, 3, 256): each label's `map_counts`."""
    true = _truth(gt, entry)
    counts = []
    for label in entry.labels:
        path = attention / f"{entry.name}_{label}.png"
        values = read_map(path, f"the attention of {CLASSES[label]}", "run seenet attention again")
        same_size(values, true, path, "the truth is")
        counts.append(map_counts(true, values, label))
    return np.array(counts)


def map_counts(true: np.ndarray, values: np.ndarray, label: int) -> np.ndarray:
    """(3, 256): how many pixels of the class, of background, of other classes have each value of its map."""
    own, background = true == label + 1, true == 0
    others = ~own & ~background & (true != IGNORE)
    return np.array([np.bincount(values[where], minlength=256) for where in (own, background, others)])


def _at_or_above(counts: np.ndarray) -> np.ndarray:
    return counts[:, :, ::-1].cumsum(2)[:, :, ::-1]


def map_ious(counts: np.ndarray) -> np.ndarray:
    """(n, 256): the IoU of n `map_counts`, (n, 3, 256), when cut at each threshold; 0 at 0, no cut at all."""
    above = _at_or_above(counts)
    hit, said, true = above[:, 0], above.sum(1), counts[:, 0].sum(1, keepdims=True)
    iou = hit / np.maximum(said + true - hit, 1)
    iou[:, 0] = 0
    return iou


def attention_numbers(counts: np.ndarray, maps: np.ndarray, images: int) -> Numbers:
    """What `evaluate_attention` tells, from (20, 3, 256) `map_counts` added up by class, of `maps` maps each."""
    iou, above = map_ious(counts), _at_or_above(counts)
    hit, said, true = above[:, 0], above.sum(1), counts[:, 0].sum(1, keepdims=True)
    precision, recall = hit / np.maximum(said, 1), hit / np.maximum(true, 1)
    mass = (counts * np.arange(256)).sum(2)
    share = mass / np.maximum(mass.sum(1, keepdims=True), 1)
    best = iou.argmax(1)
    classes = {
        CLASSES[c]: {
            "maps": int(maps[c]),
            "best_iou": float(iou[c, best[c]]),
            "threshold": int(best[c]),
            "precision": float(precision[c, best[c]]),
            "recall": float(recall[c, best[c]]),
            "on_class": float(share[c, 0]),
            "on_background": float(share[c, 1]),
            "on_others": float(share[c, 2]),
            "curve": {
                "precision": precision[c, 1:].round(5).tolist(),
                "recall": recall[c, 1:].round(5).tolist(),
            },
        }
        for c in np.flatnonzero(maps)
    }
    common = iou[maps > 0].mean(0) if classes else np.zeros(256)
    means = {
        f"mean_{what}": _mean([numbers[what] for numbers in classes.values()])
        for what in ("best_iou", "precision", "recall", "on_class", "on_background", "on_others")
    }
    return {
        "images": images,
        **means,
        "common_iou": float(common.max()),
        "common_threshold": int(common.argmax()),
        "classes": classes,
    }


def _truth(gt: Path, entry: Entry) -> np.ndarray:
    return read_label_image(gt / f"{entry.name}.png")


def _check_folders(*folders: Path) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder")


def _ratio(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
    return [_share(a, b) for a, b in zip(part, whole, strict=True)]


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _label_table(numbers: Numbers) -> Table:
    title = (
        f"{numbers['images']} images: mIoU {percent(numbers['miou'])} %, "
        f"accuracy {percent(numbers['accuracy'])} %, ignored {percent(numbers['ignored'])} %"
    )
    table = Table("class", *("IoU", "ignored = missed", "precision", "recall", "ignored"), title=title)
    for name, own in numbers["classes"].items():
        table.add_row(name, *map(percent, own.values()))
    table.add_section()
    table.add_row("mean", percent(numbers["miou"]), percent(numbers["strict_miou"]))
    return table


def _attention_table(numbers: Numbers) -> Table:
    title = (
        f"{numbers['images']} images; all classes at {numbers['common_threshold']} of 255: "
        f"IoU {percent(numbers['common_iou'])} %"
    )
    shown = ("precision", "recall", "on_class", "on_background", "on_others")
    table = Table(
        *("class", "maps", "IoU", "at", "prec.", "recall", "own", "backgr.", "others"),
        box=box.SIMPLE,
        title=title,
    )
    for name, own in numbers["classes"].items():
        table.add_row(
            name,
            str(own["maps"]),
            percent(own["best_iou"]),
            str(own["threshold"]),
            *(percent(own[x]) for x in shown),
        )
    table.add_section()
    means = [percent(numbers[f"mean_{what}"]) for what in shown]
    table.add_row("mean", "", percent(numbers["mean_best_iou"]), "", *means)
    table.caption = "IoU, precision and recall at the class's best threshold; where its attention falls"
    return table


def _label_chart(numbers: Numbers) -> Figure:
    """A bar for each class: its IoU, and paler, its recall."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axis = figure.subplots()
    own = numbers["classes"].values()
    axis.bar(range(KINDS), [100 * (c["recall"] or 0) for c in own], color="0.88", label="recall")
    axis.bar(range(KINDS), [100 * (c["iou"] or 0) for c in own], width=0.55, color="tab:blue", label="IoU")
    axis.axhline(100 * (numbers["miou"] or 0), color="black", lw=1, ls="--", label="mean IoU")
    axis.set_xticks(range(KINDS), NAMES, rotation=60, ha="right")
    axis.set(ylabel="%", ylim=(0, 100))
    axis.set_title(f"{numbers['images']} images", loc="left", fontsize=10)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)
    return figure


def _attention_chart(numbers: Numbers) -> Figure:
    """Precision against recall, a line for each class; and where attention falls."""
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, own in numbers["classes"].items():
        colour = COLOURS[CLASSES.index(name) + 1]
        left.plot(own["curve"]["recall"], own["curve"]["precision"], color=colour, lw=1, label=name)
        left.plot(own["recall"], own["precision"], "o", color=colour, ms=4)
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    left.set_title("thresholds 1 … 255; dots: best IoU", fontsize=10)
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=5, fontsize=7, frameon=False)
    start = np.zeros(len(numbers["classes"]))
    colours = {"on_class": "tab:blue", "on_others": "tab:orange", "on_background": "0.8"}
    for what, colour in colours.items():
        shares = np.array([100 * own[what] for own in numbers["classes"].values()])
        right.barh(list(numbers["classes"]), shares, left=start, color=colour, label=what.replace("_", " "))
        start += shares
    right.invert_yaxis()
    right.set(xlabel="% of attention", xlim=(0, 100))
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return figure
