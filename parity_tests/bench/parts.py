"""What `seenet bench` measures: each part is a function from its settings to a `Part`."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity_tests.bench.convert import MemoryWatch, plain_copy, vgg16_layers, vgg16_net
from parity_tests.bench.detection import detectors
from parity_tests.bench.engines import OPENERS, Files, Forward, NotHere, onnx_file, open_engine
from parity_tests.bench.timing import Part, Timing, side_by_side
from parity_tests.bench.training import SgdIteration, make_solver
from port.attention.maps import attention_maps, fused_maps, prepared_views
from port.devices import ENGINES
from port.models.fast import with_engine
from port.net import CaffeNet
from port.report.summary import summarise
from prototxt.errors import InputError
from weights.caffemodel import write_caffemodel
from weights.convert import convert

BASE = next(iter(OPENERS))
LABELS = (14, 11, 6, 0)
"""The first one, two or four of these are attended to."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Attributes:
        folder: for files, gone afterwards.
        rounds: that count; one more comes before them.
        size: side of the images in the forward and the job, and of the crops in training.
        narrow: a sixteenth of the channels, and small files: to see that everything runs.
    """

    folder: Path
    files: Files
    rounds: int
    size: int
    crop: int
    batch: int
    narrow: bool
    tick: Callable[[str], None] = lambda what: None

    @property
    def device(self) -> str:
        return self.files.device

    def time(self, what: str, actions: Mapping[str, Callable[[], Any]]) -> dict[str, Timing]:
        return side_by_side(actions, self.rounds, self.device, lambda: self.tick(what))


def bench_forward(settings: Settings) -> Iterator[Part]:
    """One forward of the whole net, and what the machine's own matrix products allow."""
    data = prepared_views(photograph(), settings.size, flip=False)
    label = np.zeros((1, 1, 1, 20), np.float32)
    label[..., LABELS[0]] = 1
    engines, notes = _open(settings)
    errors = _errors(settings, engines, data, label)
    side = 256 if settings.narrow else 2048
    matrix = torch.randn(side, side, device=settings.device)
    actions = {name: partial(run, data, label) for name, run in engines.items()}
    timings = settings.time("forward", {**actions, "matrix product": lambda: matrix @ matrix})
    product = timings.pop("matrix product")
    shapes = {"data": data.shape, "label": label.shape}
    net, _ = summarise(settings.files.prototxt, inputs=shapes, allow_modules=())
    timings["limit"] = Timing([seconds * net.multiply_adds / side**3 for seconds in product.seconds])
    rate = 2 * side**3 / product.median / 1e9
    notes.append(
        f"limit: {net.multiply_adds / 1e9:.2f} · 10⁹ multiply-adds at this machine's own rate of {side}² matrix "
        f"products, {rate:.0f} GFLOP/s; Winograd's convolutions do with a quarter of them"
    )
    yield Part(f"one forward at {settings.size}²", "s", BASE, timings, notes, errors)


def bench_job(settings: Settings) -> Iterator[Part]:
    """The published job, an image to maps, mirrored too: ours, and others driven as the notebook drives Caffe."""
    image = photograph()
    others, notes = _open(settings, tuple(name for name in OPENERS if not name.startswith(BASE)))
    ours = {}
    for engine, name in zip(ENGINES, OPENERS, strict=False):
        if engine == "torch" or settings.device == "cpu":
            ours[name] = with_engine(settings.files.model(), engine)
    for count in (1, 2, 4):
        labels = LABELS[:count]
        jobs = {
            name: partial(attention_maps, model, image, labels, settings.size) for name, model in ours.items()
        }
        jobs |= {
            name: partial(notebook_maps, run, image, labels, settings.size) for name, run in others.items()
        }
        plural = "label" if count == 1 else "labels"
        title = f"the published job, {count} {plural}, with flips"
        timings = settings.time(f"job, {count} {plural}", jobs)
        told = [*notes, "others: a forward for each label and orientation, as the notebook drives Caffe"]
        yield Part(title, "s", BASE, timings, told)


def notebook_maps(
    forward: Forward, image: np.ndarray, labels: Sequence[int], test_size: int = 256
) -> np.ndarray:
    """What `attention_maps` gives by default, with one forward of the whole net for each label and orientation."""
    told = np.zeros((1, 1, 1, 20), np.float32)
    maps = []
    for label in labels:
        told[..., label] = 1
        views = prepared_views(image, test_size, flip=True)
        scores = [[branch[0, label] for branch in forward(view[None], told)] for view in views]
        maps.append(fused_maps(np.array([scores]).swapaxes(1, 2), *image.shape[:2])[0])
    return np.stack(maps)


def bench_training(settings: Settings) -> Iterator[Part]:
    """An iteration of the solver, data and log included, beside plain PyTorch."""
    batch, size = settings.batch, settings.crop
    solver = make_solver(settings.folder, batch, settings.device, size, settings.narrow)
    plain, prefetcher = SgdIteration(solver, batch, size), solver.net.net.data.prefetcher
    waits = []

    def iterate() -> None:
        before = prefetcher.waited
        solver.step(1)
        waits.append(prefetcher.waited - before)

    timings = settings.time("training", {"plain PyTorch": plain, "port": iterate})
    waited = sum(waits[1:]) / sum(timings["port"].seconds)
    notes = [
        "plain PyTorch: forward, backward and torch.optim.SGD's step on one batch that is there already",
        f"port: data, log and Caffe's update included; {waited:.2%} of its time it waited for data",
    ]
    title = f"one training iteration, {batch} × 3 × {size} × {size}"
    yield Part(title, "s", "plain PyTorch", timings, notes)


def bench_convert(settings: Settings) -> Iterator[Part]:
    """A caffemodel of VGG-16's size: loaded, converted, and its bytes read and written."""
    source, made = settings.folder / "vgg16.caffemodel", settings.folder / "made.safetensors"
    layers = vgg16_layers()[: 3 if settings.narrow else None]
    write_caffemodel(source, layers)
    net = vgg16_net(layers)
    del layers
    os.sync()

    def gone(action: Callable[[Path, Path], object]) -> None:
        action(source, made)
        made.unlink()

    def convert_quietly(src: Path, dst: Path) -> None:
        convert(src, dst, progress=False)

    def load() -> None:
        CaffeNet(net).load_weights(source)

    timings = settings.time(
        "convert",
        {
            "plain read": source.read_bytes,
            "load into CaffeNet": load,
            "plain read and write": lambda: gone(plain_copy),
            "convert": lambda: gone(convert_quietly),
        },
    )
    with MemoryWatch() as own:
        load()
    size = source.stat().st_size / 1e6
    source.unlink()
    notes = [
        f"load: the net made, and its weights filled; {max(own.most - own.before, 0):.0f} MB of memory at most",
        f"convert: to .safetensors; {timings['convert'].ratio(timings['plain read and write']):.2f} times a plain "
        "read and write",
    ]
    yield Part(f"a caffemodel of {size:.0f} MB", "s", "plain read", timings, notes)


def bench_detection(settings: Settings) -> Iterator[Part]:
    """SSD300's last layer alone, beside OpenCV's; on the CPU."""
    timings = settings.time("detection", detectors(settings.narrow))
    ratio = timings["port"].ratio(timings["opencv"])
    notes = [f"8,732 priors, 21 classes, 200 boxes kept; the port takes {ratio:.2f} times what OpenCV takes"]
    yield Part("SSD300's DetectionOutput", "s", "opencv", timings, notes)


def bench_memory(settings: Settings) -> Iterator[Part]:
    """The most memory that loading SeeNet and a few forwards add to a process, each engine in its own."""
    rows, notes = {}, []
    with suppress(InputError):
        onnx_file(settings.files)  # here, so that no engine's memory is the exporter's
    for name in OPENERS:
        told = subprocess.run(
            [sys.executable, "-m", "parity_tests.bench.memory", name, *_memory_arguments(settings)],
            capture_output=True,
            text=True,
        )
        settings.tick("memory")
        if told.returncode == 0:
            rows[name] = Timing([float(told.stdout.split()[-1])])
        else:
            reason = (told.stdout + told.stderr).strip().splitlines() or [
                "it was stopped: too little memory?"
            ]
            notes.append(f"{name} is not measured: {reason[-1]}")
    notes.append("above what the process held when everything was imported")
    yield Part(f"peak memory of loading and one forward at {settings.size}²", "MB", BASE, rows, notes)


def _memory_arguments(settings: Settings) -> list[str]:
    files = settings.files
    narrow = "narrow" if settings.narrow else "full"
    return [str(settings.folder), files.device, str(files.threads), narrow, str(settings.size)]


# ---- common ground


def photograph() -> np.ndarray:
    """(375, 500, 3) uint8: something smooth, the same every time."""
    down, across = np.mgrid[0:375, 0:500]
    waves = [np.sin(down / (20 + 9 * i) + i) * np.cos(across / (31 - 7 * i)) for i in range(3)]
    noise = np.random.default_rng(0).normal(0, 12, (375, 500, 3))
    return np.clip(np.stack(waves, axis=2) * 90 + 128 + noise, 0, 255).astype(np.uint8)


def _open(settings: Settings, names: Sequence[str] = ()) -> tuple[dict[str, Forward], list[str]]:
    engines, notes = {}, []
    for name in names or OPENERS:
        try:
            engines[name] = open_engine(name, settings.files)
        except NotHere as error:
            notes.append(f"{name} is not measured: {error}")
    return engines, notes


def _errors(
    settings: Settings, engines: dict[str, Forward], data: np.ndarray, label: np.ndarray
) -> dict[str, float]:
    """How far score_b1 and score_b2 are from float64's, over their largest magnitude."""
    with torch.inference_mode():
        model = settings.files.model().double().cpu()
        truth = [score.numpy() for score in model(torch.from_numpy(data).double(), torch.from_numpy(label))]
    return {
        name: max(
            float(np.abs(score - true).max() / np.abs(true).max())
            for score, true in zip(run(data, label), truth, strict=True)
        )
        for name, run in engines.items()
    }
