"""`seenet attention` over a dataset."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import typer

from port.attention.maps import check_request, eight_bits, fused_maps, label_scores, prepared_views
from port.images import read_image, write_png
from port.models.fast import with_engine
from port.models.seenet import SeeNet
from port.voc.each import report_failures
from port.voc.lists import Entry, read_entries
from port.voc.stream import keep_settings, present_files, stream
from prototxt.errors import InputError
from prototxt.files import sha256_of
from weights.files import only_writer

SETTINGS = "attention.json"


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
    engine: str = "torch",
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
        test_size … device: as `attention_maps` and SeeNet have them; engine: as `with_engine`.

    Raises:
        InputError: what stops everything: the list, the weights, the folder's other settings, memory.
    """
    part, parts = _share(shard)
    entries, failed = read_entries(list_)
    if not (voc / "JPEGImages").is_dir():
        raise InputError(f"{voc}: has no folder JPEGImages: is it VOC2012's own folder?")
    model = SeeNet.from_caffemodel(weights, maxt=maxt, mint=mint).to(_own_device(device))
    model = with_engine(model, engine)
    mine = entries[part::parts]
    with only_writer(out / f".attention-{part + 1}-of-{parts}.lock", f"{out}"):
        keep_settings(
            out / SETTINGS,
            [name for entry in entries for name in _files(entry)],
            {
                "weights_sha256": sha256_of(weights),
                "test_size": test_size,
                "flip": flip,
                "label_state": label_state,
                "maxt": maxt,
                "mint": mint,
                "to_bgr": to_bgr,
                "engine": engine,
            },
            "maps",
        )
        present = present_files(out, {name for entry in mine for name in _files(entry)})
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

        with ThreadPoolExecutor(workers) as writers:
            results = stream(
                todo,
                load,
                lambda loaded: _scores(model, loaded, label_state),
                write,
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
                    done.made += 1
                    done.files += result
        return done


def _scores(model: SeeNet, loaded: list[_Loaded], label_state: str) -> list[np.ndarray]:
    try:
        return label_scores(
            model, [image.views for image in loaded], [image.entry.labels for image in loaded], label_state
        )
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{len(loaded)} images do not fit the device's memory: give a smaller --batch"
        ) from error


def _share(shard: str) -> tuple[int, int]:
    """Which part of how many is this process's: the shard's, and of that torchrun's."""
    told = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", shard)
    if not told or not 1 <= int(told[1]) <= int(told[2]):
        raise InputError(f'--shard "{shard}": I/N is due, with I from 1 to N')
    ranks, rank = _from_environment("WORLD_SIZE", 1), _from_environment("RANK", 0)
    return int(told[1]) - 1 + int(told[2]) * rank, int(told[2]) * ranks


def _own_device(device: str) -> str:
    local = _from_environment("LOCAL_RANK", -1)
    return f"cuda:{local % torch.cuda.device_count()}" if device == "cuda" and local >= 0 else device


def _from_environment(name: str, otherwise: int) -> int:
    """A number that torchrun sets."""
    text = os.environ.get(name)
    if text is None:
        return otherwise
    if not re.fullmatch("[0-9]{1,9}", text):
        raise InputError(f'{name}="{text}": torchrun sets a number there: unset it')
    return int(text)


def _files(entry: Entry) -> dict[str, int]:
    return {f"{entry.name}_{label}.png": label for label in entry.labels}
