"""From image labels to label images: train a classifier, attend, fuse. What the studies and the pipeline share."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from port.attention.files import attend_to_dataset
from port.attention.settings import AttentionSettings
from port.voc.proxy_labels import make_proxy_labels
from port.voc.settings import Fusion
from port.voc.shapes import make_shapes
from port.voc.stages import file_key, last_weights, run_stage, solver_key, train_in
from prototxt.errors import InputError


@dataclass(frozen=True)
class Images:
    """A dataset, and which of its images.

    Attributes:
        voc: holds `JPEGImages`.
        train: list, `NAME CLASS [CLASS …]`, that the classifier learns from.
        attend: list of the images that attention and labels are made for.
        saliency: folder of `NAME.png`, or none.
        truth: folder of true label images, or none.
    """

    voc: Path
    train: Path
    attend: Path
    saliency: Path | None = None
    truth: Path | None = None


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained and asked.

    Attributes:
        solver: a solver prototxt; weights: what it starts from.
        test_size: the square to which images are resized for attention.
        thresholds: C-ReLU's δ_h and δ_l when attention is taken; the default is the release's.
        fusion: how attention and saliency become labels.
    """

    solver: Path
    weights: Path | None
    test_size: int = 256
    thresholds: tuple[float, float] = (0.8, 0.0)
    fusion: Fusion = field(default_factory=Fusion)
    seed: int | None = None
    iterations: int | None = None
    device: str = "cpu"


def generated_images(voc: Path, number: int, workers: int, **settings: Any) -> str:
    """Draw `shapes`, as a stage; its key. `settings` are further ones of `make_shapes`: seed, kind, saliency_iou."""
    settings = {"seed": 0, **settings}

    def draw() -> None:
        none_failed(make_shapes(voc, number, workers=workers, **settings)[1])

    return run_stage("images", voc, {"number": number, **settings}, draw)


def make_weak_labels(name: str, out: Path, images: Images, recipe: Recipe, key: str, workers: int) -> str:
    """Fill `out/{classifier,attention,labels}`, stage by stage; a key for what comes of them.

    Args:
        name: for the lines that tell of progress.
        key: changes whenever the images do.

    Raises:
        InputError: whatever a stage raises, or the first image that failed: labels with holes are no basis.
    """
    classifier, attention, labels = (out / stage for stage in ("classifier", "attention", "labels"))
    key = train_classifier(name, classifier, images, recipe, key)
    key = attend(name, classifier, attention, images, recipe, key)
    return fuse_labels(name, attention, labels, images, recipe.fusion, key, workers)


def train_classifier(name: str, out: Path, images: Images, recipe: Recipe, key: str) -> str:
    """The first stage of `make_weak_labels`."""
    data = {"list": str(images.train.resolve()), "images": str((images.voc / "JPEGImages").resolve())}
    settings = {
        "images": key,
        "list": file_key(images.train),
        "solver": solver_key(recipe.solver),
        "weights": file_key(recipe.weights),
        "seed": recipe.seed,
        "iterations": recipe.iterations,
    }

    def train() -> None:
        train_in(out, recipe.solver, recipe.weights, data, recipe.seed, recipe.iterations, recipe.device)

    return run_stage(f"{name}: classifier", out, settings, train)


def attend(name: str, classifier: Path, out: Path, images: Images, recipe: Recipe, key: str) -> str:
    """The second stage of `make_weak_labels`; `key` is the classifier's."""
    settings = {
        "classifier": key,
        "list": file_key(images.attend),
        "test_size": recipe.test_size,
        "thresholds": recipe.thresholds,
    }

    def work() -> None:
        done = attend_to_dataset(
            images.voc,
            images.attend,
            out,
            AttentionSettings(
                last_weights(classifier),
                test_size=recipe.test_size,
                maxt=recipe.thresholds[0],
                mint=recipe.thresholds[1],
                device=recipe.device,
            ),
        )
        none_failed(done.failed)

    return run_stage(f"{name}: attention", out, settings, work)


def fuse_labels(
    name: str, attention: Path, out: Path, images: Images, fusion: Fusion, key: str, workers: int
) -> str:
    """The third stage of `make_weak_labels`; `key` is the attention's."""
    saliency = images.saliency and os.path.relpath(images.saliency, images.voc)

    def work() -> None:
        none_failed(make_proxy_labels(attention, images.saliency, images.attend, out, fusion, workers)[2])

    settings = {"attention": key, "saliency": saliency, "fusion": vars(fusion)}
    return run_stage(f"{name}: labels", out, settings, work)


def none_failed(failed: list[InputError]) -> None:
    """Raises InputError, the first of what failed and how much there is."""
    if failed:
        raise InputError(f"{failed[0]} ({len(failed)} such images in all): repair them or leave them out")
