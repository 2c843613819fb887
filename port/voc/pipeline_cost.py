"""What the pipeline's stages take on this machine: seconds from measured passes, and bytes on disk."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from port.attention.maps import attention_maps
from port.images import read_image
from port.models.seenet import SeeNet
from port.training.net import TrainingNet
from port.voc.lists import Entry
from port.voc.needs import Needs
from port.voc.segmentation import SegmentationNet, class_probabilities
from prototxt.caffe_pb2 import SolverParameter
from weights import write_weights

SEGMENTATION = "segmentation net"

BYTES_OF_ATTENTION, BYTES_OF_LABELS = 0.3, 0.06
"""Of a pixel, in a PNG: seen on generated images and on photographs."""

ENOUGH_SECONDS = 1.0
"""So long passes are tried, and one at least."""


@dataclass(frozen=True)
class Training:
    """A training as it will be.

    Attributes:
        net: with the weights that it starts from.
    """

    solver: SolverParameter
    net: TrainingNet
    told: str


@dataclass(frozen=True)
class Stage:
    """What a stage takes: seconds and bytes."""

    name: str
    seconds: float
    bytes: float
    told: str


def stage_costs(
    needs: Needs, trainings: dict[str, Training], entries: Sequence[Entry], judged: Sequence[Entry]
) -> list[Stage]:
    """What each stage takes, from passes that are run here and from one image's attention and segmentation.

    Args:
        trainings: the classifiers', by name, and SEGMENTATION's.
        entries: the images that attention is taken of; judged: those that are segmented.
    """
    stages = []
    image = read_image(needs.images.voc / "JPEGImages" / f"{entries[0].name}.jpg")
    pixels = image.shape[0] * image.shape[1]
    labels = sum(len(entry.labels) for entry in entries)
    for name in needs.classifiers:
        training = trainings[name]
        stages.append(_training_stage(name, training, pass_seconds(training.net)))
        seconds = _attention_seconds(needs, training.net, image)
        stages.append(
            Stage(
                f"{name}: attention and labels",
                len(entries) * seconds,
                pixels * (labels * BYTES_OF_ATTENTION + len(entries) * BYTES_OF_LABELS),
                f"{len(entries)} images, {seconds:.2g} s each",
            )
        )
    training = trainings[SEGMENTATION]
    of_pass = pass_seconds(training.net)
    seconds = _segmentation_seconds(needs, training.net, image)
    for name in (*needs.classifiers, *["exact masks"] * needs.exact):
        stages.append(_training_stage(f"{name}: segmentation net", training, of_pass))
        stages.append(
            Stage(
                f"{name}: segmentation",
                len(judged) * seconds,
                pixels * len(judged) * BYTES_OF_LABELS,
                f"{len(judged)} images, {seconds:.2g} s each" + (", without the CRF" if needs.crf else ""),
            )
        )
    return stages


def _training_stage(name: str, training: Training, seconds: float) -> Stage:
    param = training.solver
    model = sum(blob.nbytes for layer in training.net.layer_weights() for blob in layer.blobs)
    history = 2 if param.type in ("Adam", "AdaDelta") else 1
    snapshots = 1 + (param.max_iter // param.snapshot if param.snapshot else 0)
    passes = param.max_iter * param.iter_size
    return Stage(
        name,
        passes * seconds,
        snapshots * model * (1 + history),
        f"{passes} passes, {seconds:.2g} s each",
    )


def _attention_seconds(needs: Needs, net: TrainingNet, image: np.ndarray) -> float:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.caffemodel"
        write_weights(file, net.layer_weights())
        model = SeeNet.from_caffemodel(file).to(needs.device)
        return _second_time(lambda: attention_maps(model, image, [0], needs.test_size))


def _segmentation_seconds(needs: Needs, net: TrainingNet, image: np.ndarray) -> float:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net.caffemodel"
        write_weights(file, net.layer_weights())
        deployed = SegmentationNet(needs.deploy, file, needs.views.tile, needs.device)
        return _second_time(lambda: class_probabilities(deployed, image, needs.views))


def _second_time(work: Callable[[], object]) -> float:
    work()
    start = time.monotonic()
    work()
    return time.monotonic() - start


def size_text(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def duration_text(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def pass_seconds(net: TrainingNet) -> float:
    """The median of some passes, after one in which everything is made that is only made once."""
    net.forward_backward()
    taken: list[float] = []
    while sum(taken) < ENOUGH_SECONDS and len(taken) < 9:
        start = time.monotonic()
        net.forward_backward()
        net.clear_param_diffs()
        if net.device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.monotonic() - start)
    return float(np.median(taken))
