"""`seenet attention` over a dataset: reading and writing beside the network, and going on where it was stopped."""

import hashlib
import json
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer

from port.attention import check_request, eight_bits, fused_maps, label_scores, prepared_views
from port.images import read_image, write_png
from port.progress import progress_bar
from port.seenet import SeeNet
from port.voc_tasks.each import report_failures
from port.voc_tasks.lists import Entry, read_entries
from prototxt.errors import InputError
from weights.files import atomic_path

SETTINGS = "attention.json"
QUIET_SECONDS = 30
"""Where there is no terminal, a line on progress after so long."""


@dataclass
class Done:
    """What a run over a dataset did: images made and found made before, files written, what failed."""

    made: int = 0
    before: int = 0
    files: int = 0
    failed: list[InputError] = field(default_factory=list)


@dataclass(frozen=True)
class _Loaded:
    """An image ready for the network."""

    entry: Entry
    shape: tuple[int, int]
    views: np.ndarray


def report_dataset(done: Done, out: Path) -> None:
    """What was done; each failure on a line of stderr, with exit status 1."""
    typer.echo(
        f"{done.made} images attended to, {done.before} done before; {done.files} files written to {out}"
    )
    report_failures(done.failed, done.made + done.before + len(done.failed))


def attend_to_dataset(
    voc: Path,
    list_: Path,
    weights: Path,
    out: Path,
    shard: str = "1/1",
    batch: int = 4,
    workers: int = 4,
    test_size: int = 256,
    flip: bool = True,
    label_state: str = "accumulate",
    maxt: float = 0.8,
    mint: float = 0.0,
    to_bgr: bool = False,
    device: str = "cpu",
) -> Done:
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
        test_size … device: as `attention_maps` and SeeNet have them.

    Raises:
        InputError: what stops everything: the list, the weights, the folder's other settings, memory.
    """
    part, parts = _share(shard)
    entries, failed = read_entries(list_)
    if not (voc / "JPEGImages").is_dir():
        raise InputError(f"{voc}: has no folder JPEGImages: is it VOC2012's own folder?")
    model = SeeNet.from_caffemodel(weights, maxt=maxt, mint=mint).to(_own_device(device))
    _keep_settings(
        out,
        entries,
        {
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "test_size": test_size,
            "flip": flip,
            "label_state": label_state,
            "maxt": maxt,
            "mint": mint,
            "to_bgr": to_bgr,
        },
    )
    mine = entries[part::parts]
    present = _present(out, mine)
    todo = [entry for entry in mine if not _files(entry).keys() <= present]
    done = Done(before=len(mine) - len(todo), failed=failed[part::parts])

    def load(entry: Entry) -> _Loaded:
        image = read_image(voc / "JPEGImages" / f"{entry.name}.jpg", to_bgr)
        try:
            check_request(model, image, entry.labels, label_state)
        except InputError as error:
            raise InputError(f"{entry.where}: {entry.name}: {error}") from error
        return _Loaded(entry, image.shape[:2], prepared_views(image, test_size, flip))

    def write(loaded: _Loaded, scores: np.ndarray) -> int:
        maps = dict(zip(loaded.entry.labels, fused_maps(scores, *loaded.shape), strict=True))
        missing = {name: label for name, label in _files(loaded.entry).items() if name not in present}
        for name, label in missing.items():
            pixels = eight_bits(maps[label])
            write_png(out / name, pixels)
        return len(missing)

    with (
        ThreadPoolExecutor(workers) as readers,
        ThreadPoolExecutor(workers) as writers,
        _Progress(len(todo), "attention") as progress,
    ):
        writes: deque[Future] = deque()
        try:
            for reads in _ahead(readers, load, todo, batch):
                loaded = [image for image in (_result(read, done.failed) for read in reads) if image]
                progress.advance(len(reads) - len(loaded))
                for image, scores in zip(loaded, _scores(model, loaded, label_state), strict=True):
                    writes.append(writers.submit(write, image, scores))
                while len(writes) > 2 * batch + workers:
                    _settle(writes.popleft(), done, progress)
            while writes:
                _settle(writes.popleft(), done, progress)
        except BaseException:
            readers.shutdown(cancel_futures=True)
            raise
    return done


def _ahead(
    pool: ThreadPoolExecutor, load: Callable[[Entry], _Loaded], todo: Sequence[Entry], batch: int
) -> Iterator[list[Future]]:
    """Batches of reads, of which the next two are under way while one is used."""
    waiting: deque[list[Future]] = deque()
    for start in range(0, len(todo), batch):
        waiting.append([pool.submit(load, entry) for entry in todo[start : start + batch]])
        if len(waiting) > 2:
            yield waiting.popleft()
    yield from waiting


def _scores(model: SeeNet, loaded: list[_Loaded], label_state: str) -> list[np.ndarray]:
    if not loaded:
        return []
    try:
        return label_scores(
            model, [image.views for image in loaded], [image.entry.labels for image in loaded], label_state
        )
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{len(loaded)} images do not fit the device's memory: give a smaller --batch"
        ) from error


def _result(future: Future, failed: list[InputError]) -> Any:
    try:
        return future.result()
    except InputError as error:
        failed.append(error)
        return None


def _settle(write: Future, done: Done, progress: "_Progress") -> None:
    files = _result(write, done.failed)
    progress.advance(1)
    if files is not None:
        done.made += 1
        done.files += files


def _share(shard: str) -> tuple[int, int]:
    """Which part of how many is this process's: the shard's, and of that torchrun's."""
    told = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not told or not 1 <= int(told[1]) <= int(told[2]):
        raise InputError(f'--shard "{shard}": I/N is due, with I from 1 to N')
    ranks, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    return int(told[1]) - 1 + int(told[2]) * rank, int(told[2]) * ranks


def _own_device(device: str) -> str:
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{int(local) % torch.cuda.device_count()}" if device == "cuda" and local else device


def _files(entry: Entry) -> dict[str, int]:
    return {f"{entry.name}_{label}.png": label for label in entry.labels}


def _present(out: Path, mine: Sequence[Entry]) -> set[str]:
    """The names in `out`. What a killed run left half-written of these images is removed."""
    names = set(os.listdir(out))
    own = {name for entry in mine for name in _files(entry)}
    for name in names:
        left = re.fullmatch(r"\.(.+_\d+)\.\w{8}\.png", name)
        if left and f"{left[1]}.png" in own:
            (out / name).unlink(missing_ok=True)
    return names


def _keep_settings(out: Path, entries: Sequence[Entry], settings: dict) -> None:
    """Write the settings to an empty folder; raise InputError where the maps in it are of others."""
    path = out / SETTINGS
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        kept = None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: choose another --out") from error
    if kept is None:
        found = set(os.listdir(out)) if out.is_dir() else set()
        if any(not found.isdisjoint(_files(entry)) for entry in entries):
            raise InputError(
                f"{out}: holds maps, and no {SETTINGS} tells their settings: choose another --out"
            )
        with atomic_path(path) as beside:
            beside.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    elif kept != settings:
        other = ", ".join(name for name in settings if kept.get(name) != settings[name])
        raise InputError(f"{out}: holds maps made with another {other or 'setting'}: choose another --out")


class _Progress:
    """Rate and time left: a bar on a terminal, else a line now and then."""

    def __init__(self, total: int, what: str):
        self.total, self.what, self.count = total, what, 0
        self.bar = progress_bar("images")
        self.task = self.bar.add_task(what, total=total)
        self.start = self.told = time.monotonic()

    def __enter__(self) -> "_Progress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self, images: int) -> None:
        self.count += images
        self.bar.advance(self.task, images)
        now = time.monotonic()
        if self.bar.disable and self.count and now - self.told >= QUIET_SECONDS:
            self.told = now
            rate = self.count / (now - self.start)
            left = (self.total - self.count) / rate / 60
            typer.echo(
                f"{self.what}: {self.count}/{self.total}, {rate:.1f} images/s, {left:.0f} min left", err=True
            )
