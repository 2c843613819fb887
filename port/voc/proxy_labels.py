"""`seenet proxy-labels`: attention and saliency become label images to train segmentation on."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from port.voc.classes import CLASSES, IGNORE
from port.voc.each import for_each, report_failures
from port.voc.label_images import read_map, same_size, write_label_image
from port.voc.lists import Entry, read_entries
from prototxt.errors import InputError

FUSIONS = ("harmonic", "max", "mean", "saliency")


@dataclass(frozen=True)
class Fusion:
    """How a pixel's label is chosen.

    Attributes:
        fusion: the score of class c from saliency D and attention A_c, both in 0 … 1: "harmonic" is the
            paper's, 2·D·A_c / (D + A_c), which asks for both; "max" is satisfied with either, and "mean"
            lies between. "saliency" is D: saliency alone says what is background, attention only which class.
        ambiguous: where two classes' attentions both reach this, the pixel is ignored; 0: never. The
            authors say to leave such pixels out and give the pair 0.7 and 0.8 as an example, hence 0.7. It
            can touch only images of several classes, and there only pixels whose label is a toss-up.
        low_saliency: pixels whose saliency, in 0 … 255, is below this are ignored; 0, the default: none
            are. The authors propose 32, for precision. It is the paper's rule turned round: there, low
            saliency is what makes background, so that with it background is learned only from the rim of
            objects. On `seenet shapes`, 32 leaves out nine tenths of the background for half
            a point of the classes' IoU (docs/voc.md); use it where saliency misses whole objects.
        background: without saliency, the score of background, against which attention itself stands. 0.3
            of a map's maximum is a usual cut for class attention maps; `seenet evaluate --attention` finds
            the best one for a dataset with ground truth.
    """

    fusion: str = "harmonic"
    ambiguous: float = 0.7
    low_saliency: int = 0
    background: float = 0.3

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise InputError(f'--fusion "{self.fusion}": one of {", ".join(FUSIONS)} is due')
        if not 0 <= self.ambiguous <= 1 or not 0 < self.background < 1:
            raise InputError("--ambiguous and --background: give shares of the attention's maximum, 0 to 1")
        if not 0 <= self.low_saliency <= 255:
            raise InputError(f"--low-saliency {self.low_saliency}: 0 to 255 is due")


def proxy_labels_command(
    attention: Annotated[Path, typer.Option(help="Folder of NAME_CLASS.png.")],
    list_: Annotated[Path, typer.Option("--list", help="Lines NAME CLASS [CLASS …], classes from 0.")],
    out: Annotated[Path, typer.Option(help="Folder for the label images, NAME.png.")],
    saliency: Annotated[
        Path | None, typer.Option(help="Folder of NAME.png; without it, attention is cut at --background.")
    ] = None,
    fusion: Annotated[
        str,
        typer.Option(
            help="Class score from saliency and attention: harmonic (the paper's), max, mean, saliency."
        ),
    ] = Fusion.fusion,
    ambiguous: Annotated[
        float, typer.Option(help="Ignore where two classes' attentions reach this; 0: nowhere.")
    ] = Fusion.ambiguous,
    low_saliency: Annotated[
        int, typer.Option(help="Ignore where saliency is below this (authors: 32 of 255); 0: nowhere.")
    ] = Fusion.low_saliency,
    background: Annotated[
        float, typer.Option(help="Without --saliency: background's score.")
    ] = Fusion.background,
    workers: Annotated[int, typer.Option(help="Processes; 0: one on each core.")] = 0,
) -> None:
    """Fuse attention and saliency to label images (VOC's palette, 255 for ignored), NAME.png."""
    rule = Fusion(fusion, ambiguous, low_saliency, background)
    if low_saliency and saliency is None:
        raise InputError("--low-saliency needs --saliency: name the folder of saliency maps")
    written, ignored, failed = make_proxy_labels(attention, saliency, list_, out, rule, workers)
    typer.echo(f"{written} label images in {out}; {ignored:.1%} of their pixels are ignored")
    report_failures(failed, written + len(failed))


def make_proxy_labels(
    attention: Path, saliency: Path | None, list_: Path, out: Path, rule: Fusion, workers: int = 1
) -> tuple[int, float, list[InputError]]:
    """Write `out/NAME.png` for each listed image.

    Returns:
        How many were written, the mean share of ignored pixels, and what failed: a line of the list, a
        missing or unfit map.

    Raises:
        InputError: a list that cannot be read; a folder that does not exist.
    """
    for option, folder in (("--attention", attention), ("--saliency", saliency)):
        if folder is not None and not folder.is_dir():
            raise InputError(f"{option} {folder}: there is no such folder")
    entries, failed = read_entries(list_)
    shares = []
    work = partial(_label_one, attention, saliency, out, rule)
    for _, result in for_each(work, entries, workers, "proxy labels"):
        if isinstance(result, InputError):
            failed.append(result)
        else:
            shares.append(result)
    return len(shares), float(np.mean(shares)) if shares else 0.0, failed


def fuse(
    attention: np.ndarray, labels: tuple[int, ...], saliency: np.ndarray | None, rule: Fusion
) -> np.ndarray:
    """The paper's Algorithm 1, as `rule` sets it.

    Args:
        attention: (labels, height, width), 0 … 1.
        labels: class indices from 0.
        saliency: (height, width), 0 … 1, or none.

    Returns:
        (height, width) uint8: 0 where background's score, 1 - D, is at least every class's; index + 1 of
        the best class; 255 where the rule ignores. Each class's score rises with its attention, so the
        best class is the one with most attention, of equals the first named.
    """
    first = attention.argmax(0)
    most = attention.max(0)
    background, score = np.float32(rule.background), most
    if saliency is not None:
        background = 1 - saliency
        if rule.fusion == "harmonic":
            score = 2 * saliency * most / np.maximum(saliency + most, 1e-12)
        elif rule.fusion == "max":
            score = np.maximum(saliency, most)
        elif rule.fusion == "saliency":
            score = saliency
        else:
            score = (saliency + most) / 2
    fused = np.where(score > background, np.array(labels, np.uint8)[first] + 1, 0).astype(np.uint8)
    if rule.ambiguous and len(labels) > 1:
        fused[np.partition(attention, -2, axis=0)[-2] >= rule.ambiguous] = IGNORE
    if saliency is not None and rule.low_saliency:
        fused[saliency * 255 < rule.low_saliency - 0.5] = IGNORE
    return fused


def _label_one(attention: Path, saliency: Path | None, out: Path, rule: Fusion, entry: Entry) -> float:
    """Write one label image; the share of its pixels that are ignored."""
    paths = [attention / f"{entry.name}_{label}.png" for label in entry.labels]
    maps = []
    for path, label in zip(paths, entry.labels, strict=True):
        maps.append(read_map(path, f"the attention of {CLASSES[label]}", "run seenet attention again"))
        same_size(maps[-1], maps[0], path, f"{paths[0].name} is")
    salient = None
    if saliency is not None:
        path = saliency / f"{entry.name}.png"
        values = read_map(path, "the saliency map", "make it, or leave the image out")
        same_size(values, maps[0], path, "its attention is")
        salient = values.astype(np.float32) / 255
    fused = fuse(np.stack(maps).astype(np.float32) / 255, entry.labels, salient, rule)
    write_label_image(out / f"{entry.name}.png", fused)
    return float((fused == IGNORE).mean())
