"""How far `seenet segment` hides CRF and writing behind the network: python -m parity_tests.bench.segment

On generated images, with DeepLab-LargeFOV on VGG-16 and random weights: each part alone, then all together, in turn.
With `--threads 1 --workers 1` and two idle cores, what is hidden wholly costs nothing: the network runs for all but
the end of the time, when the last image is refined. On fewer cores it slows the network instead.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import port
from port.images import read_image
from port.voc import segment
from port.voc.commands.segment import DEPLOY
from port.voc.segment import Photo, Segmenting, write_segmentation
from port.voc.segmentation import SegmentationNet, class_probabilities
from port.voc.settings import CrfSettings, Views
from port.voc.shapes import make_shapes
from weights import write_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--size", type=int, default=321)
    parser.add_argument("--threads", type=int, default=1, help="the network's, on a CPU")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), options)


def compare(folder: Path, options: argparse.Namespace) -> None:
    make_shapes(folder, options.images, seed=0, size=options.size)
    names = sorted(path.stem for path in (folder / "JPEGImages").iterdir())
    (folder / "all.txt").write_text("\n".join(names))
    settings = Segmenting(DEPLOY, random_weights(folder), Views(tile=options.size), CrfSettings())

    net = SegmentationNet(DEPLOY, settings.weights, options.size, options.device)
    photos = [Photo(name, folder / f"JPEGImages/{name}.jpg") for name in names]
    images = [read_image(photo.path) for photo in photos]
    start = time.perf_counter()
    told = [class_probabilities(net, image, settings.views) for image in images]
    networking = time.perf_counter() - start
    start = time.perf_counter()
    for photo, image, probabilities in zip(photos, images, told, strict=True):
        write_segmentation(folder / "apart", settings.crf, False, (photo, image), probabilities)
    writing = time.perf_counter() - start
    passes: list[tuple[float, float]] = []
    segment.class_probabilities = noting(passes, class_probabilities)
    done = segment.segment_dataset(
        folder, folder / "all.txt", folder / "together", settings, options.workers, options.device
    )
    together, within = time.perf_counter() - passes[0][0], sum(end - start for start, end in passes)
    for photo in photos:
        name = f"{photo.name}.png"
        assert (folder / "apart" / name).read_bytes() == (folder / "together" / name).read_bytes()
    print(
        f"{len(done.counts)} images of {options.size}², {options.threads} threads, {options.workers} workers"
    )
    print(
        f"apart: network {networking:.1f} s, CRF and writing {writing:.1f} s: in sum {networking + writing:.1f} s"
    )
    print(
        f"together: {together:.1f} s from the first pass to the last file, {together / (networking + writing):.2f} of "
        f"that sum; the network ran for {within:.1f} s of it ({within / together:.0%})"
    )


def noting(passes: list[tuple[float, float]], work: Callable) -> Callable:
    """`work`, with the start and the end of each call in `passes`."""

    def timed(*args: object) -> object:
        start = time.perf_counter()
        result = work(*args)
        passes.append((start, time.perf_counter()))
        return result

    return timed


def random_weights(folder: Path) -> Path:
    net = port.CaffeNet(DEPLOY)
    net.load_state_dict(port.DeepLabLargeFOV().state_dict())
    write_weights(folder / "random.caffemodel", net.layer_weights())
    return folder / "random.caffemodel"


if __name__ == "__main__":
    main()
