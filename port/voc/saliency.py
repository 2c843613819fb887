"""The saliency maps that proxy labels need, by the DSS nets as their authors run and fuse them."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from port.images import read_image, write_png
from port.net import CaffeNet
from port.voc.crf import load_crf
from port.voc.lists import check_stems
from port.voc.stream import keep_settings, present_files, stream
from prototxt.errors import InputError
from prototxt.files import sha256_of
from prototxt.read import read_net
from runtime.data.output import no_output_files
from weights import check_finite, read_weights
from weights.files import only_writer

MEAN_BGR = (104.00698793, 116.66876762, 122.67891434)
"""Subtracted from BGR pixels in 0 … 255 (DSS's notebook)."""

FUSED = ("sigmoid-dsn3", "sigmoid-dsn4", "sigmoid-dsn5", "sigmoid-fuse")
"""The side outputs whose mean is the map (DSS's notebook): not those that are too coarse or too fine."""

EPSILON = 1e-8
SETTINGS = "saliency.json"


@dataclass(frozen=True)
class SaliencyCrf:
    """The dense CRF that DSS's authors publish beside it (Andrew-Qibin/dss_crf), with its constants.

    Attributes:
        tau: of the unary energy -log p / (tau · sigmoid(p)), for "salient" and "not".
        gaussian, gaussian_xy: weight and width of "near"; bilateral, bilateral_xy, bilateral_rgb: of "near and alike".
        iterations: of the mean field.
    """

    tau: float = 1.05
    gaussian: float = 3
    gaussian_xy: float = 3
    bilateral: float = 5
    bilateral_xy: float = 60
    bilateral_rgb: float = 5
    iterations: int = 1


class SaliencyNet:
    """A DSS deploy net.

    Args:
        prototxt: any net with one input of three channels and the outputs FUSED, each of one channel.
        weights: a file in any format that `weights` reads, with all of the net's layers.

    Raises:
        InputError: a net of another kind, weights of another net.
    """

    def __init__(self, prototxt: str | os.PathLike, weights: str | os.PathLike, device: str = "cpu"):
        self.paths = (Path(prototxt), Path(weights))
        where = os.fspath(prototxt)
        self.net = CaffeNet(read_net(prototxt), where=where)
        missing = [name for name in FUSED if name not in self.net.blob_shapes]
        if missing or len(self.net.inputs) != 1:
            raise InputError(
                f"{where}: not a DSS deploy net: {missing[0] if missing else 'one input'} is missing"
            )
        source = read_weights(weights, with_empty=True)
        check_finite(source, os.fspath(weights))
        present = {layer.name for layer in source if layer.present}
        lacking = [
            layer.name for layer in self.net.layer_weights() if layer.blobs and layer.name not in present
        ]
        if lacking:
            raise InputError(f"{os.fspath(weights)}: not {where}'s weights: {lacking[0]} is missing")
        self.net.copy_weights(source, os.fspath(weights))
        self.net.to(device)
        self.device = device

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The map of (height, width, 3) uint8 BGR, at its own size: (height, width) float32, 0 … 1."""
        data = (image.astype(np.float32) - np.array(MEAN_BGR, np.float32)).transpose(2, 0, 1)
        with torch.inference_mode():
            outputs = self.net(
                torch.from_numpy(np.ascontiguousarray(data))[None].to(self.device), blobs=FUSED
            )
        return fuse_sides([outputs[name][0, 0].float().cpu().numpy() for name in FUSED])


def fuse_sides(sides: Sequence[np.ndarray]) -> np.ndarray:
    """DSS's notebook: the mean of the side outputs, stretched to 0 … 1."""
    mean = sum(sides[1:], sides[0]) / np.float32(len(sides))
    low, high, epsilon = mean.min(), mean.max(), np.float32(EPSILON)
    return (mean - low + epsilon) / (high - low + epsilon)


def refine(saliency: np.ndarray, image: np.ndarray, settings: SaliencyCrf | None = None) -> np.ndarray:
    """`dss_crf`'s refinement of an 8-bit map.

    Args:
        saliency: (height, width) uint8.
        image: (height, width, 3) uint8, BGR: so the authors' script passes it, and so here.

    Returns:
        (height, width) uint8; the script cuts the fraction off.

    Raises:
        InputError: the CRF's package is missing.
    """
    settings = settings or SaliencyCrf()
    height, width = saliency.shape
    crf = load_crf().DenseCRF2D(width, height, 2)
    salient = saliency / 255.0
    shares = (1 - salient, salient)
    unary = [-np.log(p + EPSILON) / (settings.tau / (1 + np.exp(-p))) for p in shares]
    crf.setUnaryEnergy(np.stack(unary).reshape(2, -1).astype(np.float32))
    crf.addPairwiseGaussian(sxy=settings.gaussian_xy, compat=settings.gaussian)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_xy,
        srgb=settings.bilateral_rgb,
        rgbim=np.ascontiguousarray(image),
        compat=settings.bilateral,
    )
    refined = np.array(crf.inference(settings.iterations), np.float32)[1] * 255
    return refined.reshape(height, width).astype(np.uint8)


@dataclass
class Done:
    """How many maps were made and were there before, and what failed."""

    made: int = 0
    before: int = 0
    failed: list[InputError] = field(default_factory=list)


@no_output_files()
def make_saliency(
    images: Sequence[Path], net: SaliencyNet, out: Path, crf: bool, workers: int, to_bgr: bool = False
) -> Done:
    """Write `out/NAME.png` for each image that has none; `out/saliency.json` holds what they were made with.

    Raises:
        InputError: two images of one name; a folder with maps of other weights or settings.
    """
    check_stems(images)
    names = [f"{path.stem}.png" for path in images]
    settings = {
        "prototxt_sha256": sha256_of(net.paths[0]),
        "weights_sha256": sha256_of(net.paths[1]),
        "crf": vars(SaliencyCrf()) if crf else None,
        "to_bgr": to_bgr,
    }
    with only_writer(out / ".saliency.lock", f"{out}"):
        keep_settings(out / SETTINGS, names, settings, "saliency maps")
        present = present_files(out, set(names))
        todo = [path for path in images if f"{path.stem}.png" not in present]
        return _make(todo, net, out, crf, workers, to_bgr, Done(before=len(images) - len(todo)))


def _make(
    todo: Sequence[Path], net: SaliencyNet, out: Path, crf: bool, workers: int, to_bgr: bool, done: Done
) -> Done:
    """Make the maps that are missing, and add to `done` what came of each."""

    def load(path: Path) -> tuple[Path, np.ndarray]:
        return path, read_image(path, to_bgr)

    def write(loaded: tuple[Path, np.ndarray], saliency: np.ndarray) -> None:
        path, image = loaded
        values = np.rint(255 * saliency).astype(np.uint8)
        write_png(out / f"{path.stem}.png", refine(values, image) if crf else values)

    with ThreadPoolExecutor(workers) as writers:
        results = stream(
            todo,
            load,
            lambda loaded: [net(image) for _, image in loaded],
            write,
            writers=writers,
            writing=workers,
            readers=workers,
            batch=1,
            what="saliency",
        )
        for _, result in results:
            if isinstance(result, InputError):
                done.failed.append(result)
            else:
                done.made += 1
    return done
