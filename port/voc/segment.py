"""Label images by a segmentation net and a dense CRF."""

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path

import cv2
import numpy as np
from rich.table import Table

from port.images import read_image
from port.voc.classes import CLASSES, PALETTE
from port.voc.crf import dense_crf, load_crf
from port.voc.label_images import write_label_image
from port.voc.lists import check_stems, read_names
from port.voc.segmentation import KINDS, SegmentationNet, class_probabilities
from port.voc.settings import OVERLAYS, CrfSettings, Views
from port.voc.stream import keep_settings, present_files, stream
from prototxt.errors import InputError, printable
from prototxt.files import sha256_of
from prototxt.native_output import keep_own_stderr
from runtime.data.output import no_output_files
from weights.files import atomic_path, only_writer

SETTINGS = "segment.json"


@dataclass(frozen=True)
class Segmenting:
    """By what label images are made.

    Attributes:
        prototxt, weights: as `SegmentationNet` takes them.
        crf: None for none: each pixel is of the net's most probable class.
        overlays: also `overlays/NAME.jpg`.
        to_bgr: take grey, 16-bit and RGBA images too.
        allow_modules: Python modules that the net may load.
    """

    prototxt: Path
    weights: Path
    views: Views = field(default_factory=Views)
    crf: CrfSettings | None = field(default_factory=CrfSettings)
    overlays: bool = False
    to_bgr: bool = False
    allow_modules: tuple[str, ...] = ()

    def files(self, name: str) -> set[str]:
        """What is made of an image, within the folder."""
        return {f"{name}.png"} | ({f"{OVERLAYS}/{name}.jpg"} if self.overlays else set())

    def record(self) -> dict:
        """What the label images depend on, for the folder's `segment.json`."""
        return {
            "prototxt_sha256": sha256_of(self.prototxt),
            "weights_sha256": sha256_of(self.weights),
            "scales": list(self.views.scales),
            "flip": self.views.flip,
            "tile": self.views.tile,
            "crf": asdict(self.crf) if self.crf else None,
            "to_bgr": self.to_bgr,
        }


@dataclass
class Segmented:
    """What was done.

    Attributes:
        counts: of each image that was made, by name, the pixels of background and each class, (21,).
        before: how many were found made before.
    """

    counts: dict[str, np.ndarray] = field(default_factory=dict)
    before: int = 0
    failed: list[InputError] = field(default_factory=list)


@dataclass(frozen=True)
class Photo:
    """An image, and the name of what is made of it."""

    name: str
    path: Path


@no_output_files()
def segment_dataset(
    voc: Path, list_: Path, out: Path, settings: Segmenting, workers: int = 2, device: str = "cpu"
) -> Segmented:
    """Write `out/NAME.png` for every image of a list, beside the network: see `stream`.

    A file is there whole or not at all; what is there is not made again, and `out/segment.json` holds the
    settings, so that label images of other weights or settings never mix. A few images are in memory.

    Args:
        voc: holds `JPEGImages/NAME.jpg`.
        list_: names, or lines that begin with one, as `read_names` takes them.
        workers: processes that compute CRFs and write (the CRF's package holds Python's lock); without a CRF,
            threads. They are spawned: a script that calls this needs its `if __name__ == "__main__"`.

    Raises:
        InputError: what stops everything: the list, the net, the folder's other settings, a missing package.
    """
    entries, failed = read_names(list_)
    if not (voc / "JPEGImages").is_dir():
        raise InputError(f"{voc}: has no folder JPEGImages: is it VOC2012's own folder?")
    photos = [Photo(entry.name, voc / "JPEGImages" / f"{entry.name}.jpg") for entry in entries]
    net = _open(settings, device)
    files = {name for photo in photos for name in settings.files(photo.name)}
    with only_writer(out / ".segment.lock", f"{out}"):
        keep_settings(out / SETTINGS, files, settings.record(), "label images")
        present = present_files(out, files)
        todo = [photo for photo in photos if not settings.files(photo.name) <= present]
        done = Segmented(before=len(photos) - len(todo), failed=failed)
        return _collect(_segment(todo, out, settings, net, workers), done)


@no_output_files()
def segment_images(
    images: Sequence[Path], out: Path, settings: Segmenting, workers: int = 2, device: str = "cpu"
) -> Segmented:
    """Write `out/NAME.png` for each photograph, as `segment_dataset`, but anew.

    Raises:
        InputError: as `segment_dataset`, and two photographs of one name.
    """
    check_stems(images)
    photos = [Photo(path.stem, path) for path in images]
    return _collect(_segment(photos, out, settings, _open(settings, device), workers), Segmented())


def _open(settings: Segmenting, device: str) -> SegmentationNet:
    if settings.crf:
        load_crf()
    return SegmentationNet(
        settings.prototxt, settings.weights, settings.views.tile, device, settings.allow_modules
    )


def _collect(results: Iterator[tuple[Photo, np.ndarray | InputError]], done: Segmented) -> Segmented:
    for photo, result in results:
        if isinstance(result, InputError):
            done.failed.append(result)
        else:
            done.counts[photo.name] = result
    return done


def _segment(
    photos: Sequence[Photo], out: Path, settings: Segmenting, net: SegmentationNet, workers: int
) -> Iterator[tuple[Photo, np.ndarray | InputError]]:
    def load(photo: Photo) -> tuple[Photo, np.ndarray]:
        return photo, read_image(photo.path, settings.to_bgr)

    def network(loaded: list[tuple[Photo, np.ndarray]]) -> list[np.ndarray | InputError]:
        return [_probabilities(net, photo, image, settings.views) for photo, image in loaded]

    with _writers(min(workers, max(len(photos), 1)), settings.crf) as writers:
        yield from stream(
            photos,
            load,
            network,
            partial(write_segmentation, out, settings.crf, settings.overlays),
            writers=writers,
            writing=workers,
            readers=2,
            batch=1,
            what="segmenting",
        )


def _writers(workers: int, crf: CrfSettings | None) -> Executor:
    if not crf:
        return ThreadPoolExecutor(workers)
    # Spawned, since a forked torch or OpenCV may wait for lost threads.
    return ProcessPoolExecutor(workers, get_context("spawn"), _begin)


def _begin() -> None:
    """In a new process: one thread; an interrupt is for the first process to deal with, whose end ends this one."""
    keep_own_stderr()
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def _probabilities(
    net: SegmentationNet, photo: Photo, image: np.ndarray, views: Views
) -> np.ndarray | InputError:
    try:
        return class_probabilities(net, image, views)
    except InputError as error:
        return InputError(f"{photo.path}: {error}")


def write_segmentation(
    out: Path,
    crf: CrfSettings | None,
    overlays: bool,
    loaded: tuple[Photo, np.ndarray],
    probabilities: np.ndarray,
) -> np.ndarray:
    """Refine, choose and write. How many pixels each class has, (21,)."""
    photo, image = loaded
    if crf:
        probabilities = dense_crf(probabilities, image, crf)
    labels = probabilities.argmax(0).astype(np.uint8)
    if overlays:
        _write_jpeg(out / OVERLAYS / f"{photo.name}.jpg", blend(image, labels))
    write_label_image(out / f"{photo.name}.png", labels)  # last: it says that all is done
    return np.bincount(labels.ravel(), minlength=KINDS)


def blend(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(height, width, 3) uint8 BGR: the image, with the classes' colours over it and a white line around each."""
    coloured = cv2.addWeighted(image, 0.4, PALETTE[labels][:, :, ::-1], 0.6, 0)
    blended = np.where(labels[:, :, None] > 0, coloured, image)
    blended[cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = 255
    return blended


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    with atomic_path(path) as beside:
        beside.write_bytes(data.tobytes())


def image_table(done: Segmented) -> Table:
    """Of each photograph, its classes."""
    table = Table("image", "classes, share of the pixels")
    for name, counts in done.counts.items():
        found = [kind for kind in np.argsort(-counts[1:], kind="stable") + 1 if counts[kind]]
        shares = (f"{CLASSES[kind - 1]} {counts[kind] / counts.sum():.1%}" for kind in found)
        table.add_row(printable(name), ", ".join(shares) or "background only")
    return table


def class_table(done: Segmented) -> Table:
    """Of each class, its images and pixels."""
    counts = np.array(list(done.counts.values())).reshape(-1, KINDS)
    images, pixels = (counts > 0).sum(0), counts.sum(0)
    table = Table("class", "images", "share of the pixels", title=f"{len(counts)} images segmented")
    for kind, name in enumerate(("background", *CLASSES)):
        if images[kind]:
            table.add_row(name, str(images[kind]), f"{pixels[kind] / pixels.sum():.1%}")
    return table
