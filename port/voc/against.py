"""`seenet evaluate --attention OURS --against AUTHORS`: one folder of attention maps held against another."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.table import Table

from port.voc.classes import CLASSES
from port.voc.each import for_each
from port.voc.label_images import read_map, same_size
from port.voc.lists import Entry, read_entries
from prototxt.errors import InputError
from weights.files import write_json
from weights.progress import plain_console

CUT = 77
"""0.3 of 255: where attention is usually cut."""

WORST = 5


@dataclass(frozen=True)
class Pair:
    """Two maps of one image and class.

    Attributes:
        mean, largest: the absolute difference, in grey levels of 255.
        within: the shares of pixels that differ by at most 1 and by at most 4.
        correlation: Pearson's; 1 where both maps are flat.
        iou: of the two maps cut at CUT; 1 where neither reaches it.
    """

    name: str
    mean: float
    largest: int
    within: tuple[float, float]
    correlation: float
    iou: float


def compare_attention(
    ours: Path, theirs: Path, list_: Path, workers: int = 1
) -> tuple[list[Pair], list[InputError]]:
    """Hold every listed `NAME_CLASS.png` of one folder against the other's.

    Returns:
        The pairs, and what failed: a line of the list, a map that is missing or of another size.

    Raises:
        InputError: a list that cannot be read; a folder that does not exist.
    """
    for folder in (ours, theirs):
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder")
    entries, failed = read_entries(list_)
    pairs: list[Pair] = []
    for _, result in for_each(partial(_pairs, ours, theirs), entries, workers, "comparing"):
        if isinstance(result, InputError):
            failed.append(result)
        else:
            pairs += result
    return pairs, failed


def _pairs(ours: Path, theirs: Path, entry: Entry) -> list[Pair]:
    pairs = []
    for label in entry.labels:
        name = f"{entry.name}_{label}.png"
        what = f"the attention of {CLASSES[label]}"
        one, other = (
            read_map(folder / name, what, "make it, or leave the image out") for folder in (ours, theirs)
        )
        same_size(one, other, ours / name, f"{theirs / name} is")
        pairs.append(_pair(name, one, other))
    return pairs


def _pair(name: str, one: np.ndarray, other: np.ndarray) -> Pair:
    difference = np.abs(one.astype(np.int16) - other)
    a, b = (values - values.mean() for values in (one.astype(np.float64), other.astype(np.float64)))
    spread = np.sqrt((a**2).sum() * (b**2).sum())
    flat = 1.0 if not a.any() and not b.any() else 0.0
    union = ((one >= CUT) | (other >= CUT)).sum()
    return Pair(
        name,
        float(difference.mean()),
        int(difference.max()),
        (float((difference <= 1).mean()), float((difference <= 4).mean())),
        float((a * b).sum() / spread) if spread else flat,
        float(((one >= CUT) & (other >= CUT)).sum() / union) if union else 1.0,
    )


def summary(pairs: list[Pair]) -> dict:
    """Means over the maps, the largest difference, and the names of the worst."""
    return {
        "maps": len(pairs),
        "mean_difference": float(np.mean([pair.mean for pair in pairs])),
        "largest_difference": max(pair.largest for pair in pairs),
        "within_1": float(np.mean([pair.within[0] for pair in pairs])),
        "within_4": float(np.mean([pair.within[1] for pair in pairs])),
        "correlation": float(np.mean([pair.correlation for pair in pairs])),
        "iou_of_cuts": float(np.mean([pair.iou for pair in pairs])),
        "worst": [vars(pair) for pair in sorted(pairs, key=lambda pair: -pair.mean)[:WORST]],
    }


def write_comparison(pairs: list[Pair], json_: Path | None) -> None:
    """Print the table, and write all numbers where they are asked for."""
    told = summary(pairs)
    plain_console().print(against_table(told))
    if json_:
        write_json(json_, told)


def against_table(told: dict) -> Table:
    table = Table(
        *("map", "mean |Δ|", "largest", "≤ 1", "≤ 4", "correlation", "IoU at 0.3"),
        title=f"{told['maps']} maps, differences in grey levels of 255",
        caption=f"Below, the {len(told['worst'])} that differ most",
    )
    table.add_row(
        "mean of all",
        f"{told['mean_difference']:.2f}",
        str(told["largest_difference"]),
        f"{told['within_1']:.1%}",
        f"{told['within_4']:.1%}",
        f"{told['correlation']:.4f}",
        f"{told['iou_of_cuts']:.3f}",
    )
    table.add_section()
    for own in told["worst"]:
        near, nearer = own["within"][1], own["within"][0]
        table.add_row(
            own["name"],
            f"{own['mean']:.2f}",
            str(own["largest"]),
            f"{nearer:.1%}",
            f"{near:.1%}",
            f"{own['correlation']:.4f}",
            f"{own['iou']:.3f}",
        )
    return table
