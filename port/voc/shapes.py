"""A generated dataset in VOC's layout for those without VOC, with exact ground truth."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from rich.table import Table

from port.images import write_png
from port.voc.classes import voc_name
from port.voc.each import for_each
from port.voc.label_images import write_label_image
from port.voc.lists import list_line
from port.voc.settings import KINDS
from port.voc.shapes_drawing import Picture, draw_picture
from prototxt.errors import InputError
from weights.files import atomic_path, only_writer, write_json, write_text
from weights.progress import plain_console

VAL_EVERY = 5
"""Every fifth image is for validation, whatever the number of images."""

CROP = 64
"""Side of the objects cut out, in pixels."""


def make_shapes(
    out: Path,
    number: int,
    seed: int = 0,
    size: int = 160,
    saliency_iou: float = 0.85,
    workers: int = 1,
    crops: bool = False,
    kind: str = "shapes",
) -> tuple[dict[str, Any], list[InputError]]:
    """Write `number` images and everything about them; with the same library versions, the same bytes.

    Files: `JPEGImages/NAME.jpg`; `SegmentationClass/NAME.png`; `Parts/NAME.png`, the emblems alone, labelled
    alike; `Annotations/NAME.xml`; `Saliency/NAME.png`; `ImageSets/Segmentation/{train,val,trainval}.txt`;
    `train_cls.txt` and `val_cls.txt` with classes; `shapes.json`, the settings and what was measured. With
    `crops`, also `Crops/NAME_I.jpg`, the objects one by one, and `crops.txt`, lines `NAME_I.jpg CLASS`.

    Returns:
        What `shapes.json` holds, and what could not be written (then the lists lack it).
    """
    work = partial(_make_one, out, seed, size, saliency_iou, crops, kind)
    made, failed = [], []
    with only_writer(out / ".shapes.lock", f"{out}"):
        for index, result in for_each(work, range(number), workers, "drawing"):
            if isinstance(result, InputError):
                failed.append(result)
            else:
                made.append((index, result))
    facts = _facts([result for _, result in made], number, seed, size, saliency_iou, kind)
    if made:
        _write_lists(out, [(index, result["labels"]) for index, result in made])
        if crops:
            write_text(out / "crops.txt", "".join(line for _, result in made for line in result["crops"]))
        write_json(out / "shapes.json", facts)
    return facts, failed


def print_facts(facts: Mapping[str, Any], title: str) -> None:
    """Print what `make_shapes` says of a dataset."""
    table = Table("what", "value", title=title)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), f"{value:.3f}" if isinstance(value, float) else str(value))
    plain_console().print(table)


def _make_one(
    out: Path, seed: int, size: int, saliency_iou: float, crops: bool, kind: str, index: int
) -> dict[str, Any]:
    name = _name(index)
    picture = draw_picture(seed, index, size, saliency_iou, KINDS[kind])
    _write_jpeg(out / "JPEGImages" / f"{name}.jpg", picture.image)
    write_label_image(out / "SegmentationClass" / f"{name}.png", picture.labels)
    write_label_image(out / "Parts" / f"{name}.png", picture.parts)
    write_png(out / "Saliency" / f"{name}.png", picture.saliency)
    write_text(out / "Annotations" / f"{name}.xml", _annotation(name, picture))
    objects = picture.labels > 0
    return {
        "crops": _write_crops(out / "Crops", name, picture) if crops else [],
        "labels": tuple(sorted({placed.label for placed in picture.objects})),
        "objects": len(picture.objects),
        "touching": any(placed.touching for placed in picture.objects),
        "large": any(placed.radius > 0.35 * min(objects.shape) for placed in picture.objects),
        "foreground": float(objects.mean()),
        "part": float((picture.parts > 0).sum() / objects.sum()),
        "saliency_iou": picture.saliency_iou,
        "saliency_mae": float(np.abs(picture.saliency / 255 - objects).mean()),
    }


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    settings = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_PROGRESSIVE, 0, cv2.IMWRITE_JPEG_OPTIMIZE, 0]
    jpeg = cv2.imencode(".jpg", image, settings)[1].tobytes()
    with atomic_path(path) as beside:
        beside.write_bytes(jpeg)


def _write_crops(folder: Path, name: str, picture: Picture) -> list[str]:
    """Each object in a square of its own, with a little around it; mirrored where the image ends."""
    lines = []
    for i, placed in enumerate(picture.objects):
        top, left, bottom, right = _box(picture, i)
        half = round(0.575 * max(bottom - top, right - left)) + 1
        around = cv2.copyMakeBorder(picture.image, *[half] * 4, cv2.BORDER_REFLECT_101)
        top, left = (top + bottom) // 2, (left + right) // 2
        square = around[top : top + 2 * half, left : left + 2 * half]
        _write_jpeg(
            folder / f"{name}_{i}.jpg", cv2.resize(square, (CROP, CROP), interpolation=cv2.INTER_AREA)
        )
        lines.append(f"{name}_{i}.jpg {placed.label}\n")
    return lines


def _box(picture: Picture, number: int) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of what is seen of an object, the last two beyond it."""
    rows, columns = np.nonzero(picture.owner == number)
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def _annotation(name: str, picture: Picture) -> str:
    height, width = picture.labels.shape
    root = ElementTree.Element("annotation")
    _add(root, folder="shapes", filename=f"{name}.jpg", size={"width": width, "height": height, "depth": 3})
    _add(root, segmented=1)
    for i, placed in enumerate(picture.objects):
        top, left, bottom, right = _box(picture, i)
        box = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}  # VOC counts pixels from 1
        _add(root, object={"name": voc_name(placed.label), "difficult": 0, "bndbox": box})
    ElementTree.indent(root, "\t")
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, **fields: Any) -> None:
    for tag, value in fields.items():
        child = ElementTree.SubElement(parent, tag)
        if isinstance(value, dict):
            _add(child, **value)
        else:
            child.text = str(value)


def _write_lists(out: Path, made: list[tuple[int, tuple[int, ...]]]) -> None:
    val = [(index, labels) for index, labels in made if index % VAL_EVERY == VAL_EVERY - 1]
    train = [(index, labels) for index, labels in made if index % VAL_EVERY != VAL_EVERY - 1]
    for split, images in (("train", train), ("val", val), ("trainval", made)):
        lines = [f"{_name(index)}\n" for index, _ in images]
        write_text(out / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(lines))
    for split, images in (("train", train), ("val", val)):
        lines = [list_line(_name(index), labels) for index, labels in images]
        write_text(out / f"{split}_cls.txt", "".join(lines))


def _facts(
    made: list[dict[str, Any]], number: int, seed: int, size: int, saliency_iou: float, kind: str
) -> dict[str, Any]:
    def mean(what: str) -> float:
        return float(np.mean([result[what] for result in made])) if made else float("nan")

    return {
        "kind": kind,
        "images": number,
        "seed": seed,
        "size": size,
        "objects_per_image": mean("objects"),
        "images_with_touching_objects": mean("touching"),
        "images_with_a_large_object": mean("large"),
        "large_objects_drawn": KINDS[kind].large,
        "foreground": mean("foreground"),
        "emblem_of_object": mean("part"),
        "saliency_iou_asked": saliency_iou,
        "saliency_iou": mean("saliency_iou"),
        "saliency_mean_absolute_error": mean("saliency_mae"),
    }


def _name(index: int) -> str:
    return f"shapes_{index:06}"
