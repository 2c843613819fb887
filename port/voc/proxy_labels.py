"""Proxy labels: attention and saliency become label images to train segmentation on."""

from functools import partial
from pathlib import Path

import numpy as np

from port.voc.classes import CLASSES, IGNORE
from port.voc.each import for_each
from port.voc.label_images import read_map, same_size, write_label_image
from port.voc.lists import Entry, read_entries
from port.voc.settings import Fusion
from prototxt.errors import InputError
from weights.files import only_writer, remove_partial


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
    with only_writer(out / ".proxy-labels.lock", f"{out}"):
        remove_partial(out)
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
