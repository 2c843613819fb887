"""Attention files of photographs and of datasets: images are read, attended to and written beside each other."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from port.attention.figures import attention_figure
from port.attention.maps import check_request, eight_bits, fused_maps, label_scores, prepared_views
from port.attention.settings import AttentionSettings, parse_shard
from port.devices import batch_that_fits
from port.images import read_image, write_png
from port.models.fast import with_engine
from port.models.seenet import SeeNet
from port.ranks import from_environment
from port.voc.classes import CLASSES
from port.voc.lists import Entry, read_entries
from port.voc.stream import keep_settings, present_files, stream
from prototxt.errors import InputError, printable
from weights.files import atomic_path, only_writer

SETTINGS = "attention.json"

MapRow = tuple[str, str, str, str, str]
"""Of a map that was written: image, class, mean, share above 0.5, file."""


@dataclass(frozen=True)
class Photo:
    """An image to attend to; `labels` are class indices, `where` is what a message begins with."""

    name: str
    path: Path
    labels: tuple[int, ...]
    where: str


@dataclass(frozen=True)
class Attended:
    """An image ready for the network, and after it: `views` as `prepared_views` gives them."""

    photo: Photo
    image: np.ndarray
    views: np.ndarray


Written = TypeVar("Written")


@dataclass
class Done(Generic[Written]):
    """What a run did: what was written of each image, how many were found made before, what failed."""

    made: list[Written] = field(default_factory=list)
    before: int = 0
    failed: list[InputError] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return len(self.made) + self.before + len(self.failed)


def attend_to_photographs(
    images: Sequence[Path],
    labels: Sequence[int],
    out: Path,
    settings: AttentionSettings,
    npz: bool = False,
) -> Done[list[MapRow]]:
    """Write `NAME_CLASS.png`, `NAME_attention.png` and, on request, `NAME.npz` for each image.

    CLASS is the class's index from 0, as OAA names such files. The maps are exactly `attention_maps`'.

    Args:
        labels: class indices. Their order matters to "accumulate".

    Raises:
        InputError: weights that cannot be read or are another net's, before anything is written.
    """

    def write(attended: Attended, maps: np.ndarray) -> list[MapRow]:
        return _write_photograph(out, attended, maps, npz)

    photos = [Photo(path.stem, path, tuple(labels), str(path)) for path in images]
    return _attend(photos, open_model(settings), settings, write, Done(), batch=1, workers=1)


def attend_to_dataset(
    voc: Path,
    list_: Path,
    out: Path,
    settings: AttentionSettings,
    shard: str = "1/1",
    batch: int = 4,
    workers: int = 4,
) -> Done[int]:
    """Write `out/NAME_CLASS.png` for every image of a list and each of its classes.

    The maps are `attention_maps`' to within 1e-6 (see `label_scores`): every image is resized to test_size²,
    so that images of any size share a batch without padding. A file is there whole or not at all; what is
    there is not made again, and `out/attention.json` holds the settings, so that maps of other weights or
    settings never mix. At most a few batches are in memory. Under torchrun the processes share the shard.

    Args:
        voc: holds `JPEGImages/NAME.jpg`.
        list_: lines `NAME CLASS [CLASS …]`, classes from 0. Their order matters to "accumulate".
        shard: "I/N", I from 1: images I, I + N, …
        batch: images in a batch; workers: threads that read, and as many that write.

    Returns:
        How many files were written of each image, and what failed.

    Raises:
        InputError: what stops everything: the list, the weights, the folder's other settings, memory.
    """
    part, parts = parse_shard(shard)
    entries, failed = read_entries(list_)
    if not (voc / "JPEGImages").is_dir():
        raise InputError(f"{voc}: has no folder JPEGImages: is it VOC2012's own folder?")
    model = open_model(settings)
    mine = entries[part::parts]
    present: set[str] = set()

    def write(attended: Attended, maps: np.ndarray) -> int:
        missing = [file for file in _files(attended.photo) if file not in present]
        for file, attention in zip(_files(attended.photo), maps, strict=True):
            if file in missing:
                write_png(out / file, eight_bits(attention))
        return len(missing)

    with only_writer(out / f".attention-{part + 1}-of-{parts}.lock", f"{out}"):
        keep_settings(
            out / SETTINGS, [name for entry in entries for name in _files(entry)], settings.record(), "maps"
        )
        present |= present_files(out, {name for entry in mine for name in _files(entry)})
        todo = [entry for entry in mine if not _files(entry).keys() <= present]
        photos = [
            Photo(
                entry.name,
                voc / "JPEGImages" / f"{entry.name}.jpg",
                entry.labels,
                f"{entry.where}: {entry.name}",
            )
            for entry in todo
        ]
        done: Done[int] = Done(before=len(mine) - len(todo), failed=failed[part::parts])
        return _attend(photos, model, settings, write, done, batch, workers)


def open_model(settings: AttentionSettings) -> SeeNet:
    model = SeeNet.from_caffemodel(settings.weights, maxt=settings.maxt, mint=settings.mint)
    return with_engine(model.to(_own_device(settings.device)), settings.engine)


def _attend(
    photos: Sequence[Photo],
    model: SeeNet,
    settings: AttentionSettings,
    write: Callable[[Attended, np.ndarray], Written],
    done: Done[Written],
    batch: int,
    workers: int,
) -> Done[Written]:
    """Read, attend to and write each image, and add to `done` what came of it."""

    def load(photo: Photo) -> Attended:
        image = read_image(photo.path, settings.to_bgr)
        try:
            check_request(model, image, photo.labels, settings.label_state)
        except InputError as error:
            raise InputError(f"{photo.where}: {error}") from error
        return Attended(photo, image, prepared_views(image, settings.test_size, settings.flip))

    def network(attended: list[Attended]) -> list[np.ndarray]:
        return _scores(model, attended, settings.label_state)

    def write_maps(attended: Attended, scores: np.ndarray) -> Written:
        return write(attended, fused_maps(scores, *attended.image.shape[:2]))

    with ThreadPoolExecutor(workers) as writers:
        results = stream(
            photos,
            load,
            network,
            write_maps,
            writers=writers,
            writing=workers,
            readers=workers,
            batch=batch,
            what="attention",
        )
        for _, result in results:
            if isinstance(result, InputError):
                done.failed.append(result)
            else:
                done.made.append(result)
    return done


def _scores(model: SeeNet, attended: list[Attended], label_state: str) -> list[np.ndarray]:
    def scores(count: int) -> list[np.ndarray]:
        some = attended[:count]
        return label_scores(
            model, [one.views for one in some], [one.photo.labels for one in some], label_state
        )

    try:
        return scores(len(attended))
    except torch.OutOfMemoryError as error:
        fits = batch_that_fits(len(attended) // 2, scores)
        told = f"give --batch {fits}, which does" if fits else "give a smaller --test-size"
        raise InputError(f"{len(attended)} images do not fit the device's memory: {told}") from error


def _write_photograph(out: Path, attended: Attended, maps: np.ndarray, npz: bool) -> list[MapRow]:
    name, labels = attended.photo.name, attended.photo.labels
    rows: list[MapRow] = []
    for label, attention in zip(labels, maps, strict=True):
        path = out / f"{name}_{label}.png"
        write_png(path, eight_bits(attention))
        share = float((attention > 0.5).mean())
        rows.append((name, CLASSES[label], f"{attention.mean():.3f}", f"{share:.1%}", path.name))
    attention_figure(out / f"{name}_attention.png", attended.image, labels, maps)
    if npz:
        with atomic_path(out / f"{name}.npz") as beside, open(beside, "wb") as file:
            np.savez_compressed(file, attention=maps, labels=np.array(labels))
    return rows


def print_attention(made: Sequence[list[MapRow]], out: Path, console: Console) -> None:
    """A line for each map that `attend_to_photographs` wrote."""
    if not made:
        return
    table = Table("image", "class", "mean", "share above 0.5", "file")
    for row in (row for rows in made for row in rows):
        table.add_row(*map(printable, row))
    console.print(table)
    console.print(f"Maps and figures (NAME_attention.png) are in {out}", soft_wrap=True)


def _own_device(device: str) -> str:
    local = from_environment("LOCAL_RANK", -1)
    return f"cuda:{local % torch.cuda.device_count()}" if device == "cuda" and local >= 0 else device


def _files(entry: Entry | Photo) -> dict[str, int]:
    return {f"{entry.name}_{label}.png": label for label in entry.labels}
