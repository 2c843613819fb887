"""How fast, and in how much memory, a VGG-16 .caffemodel becomes .safetensors.

    python -m parity_tests.bench.convert [--folder FOLDER]

Writes weights of VGG-16's size (138 million, 553 MB) to FOLDER, then times their conversion against reading
and writing as many bytes, in turn, after a round that does not count. Memory is that of a fresh process: the
part that is its own (anonymous) and not the system's cache of the file, before and during the conversion.
"""

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated

if not __package__:  # run as a script: the folder to import from is the one above
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import typer

from prototxt.caffe_pb2 import NetParameter
from prototxt.read import parse_net
from weights.caffemodel import write_caffemodel
from weights.convert import convert
from weights.layer_weights import LayerWeights

_CONVS = [
    (64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256),
    (512, 256), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512),
]  # fmt: skip
_FULL = [(4096, 25088), (4096, 4096), (1000, 4096)]
_ROUNDS = 5
_CHUNK = 1 << 23


def vgg16_layers() -> list[LayerWeights]:
    """Layers of VGG-16's shapes with random numbers."""
    rng = np.random.default_rng(0)
    layers = []
    for index, shape in enumerate([*((*conv, 3, 3) for conv in _CONVS), *_FULL]):
        kind = "Convolution" if len(shape) == 4 else "InnerProduct"
        blobs = [rng.random(shape, np.float32), rng.random(shape[:1], np.float32)]
        layers.append(LayerWeights(f"layer{index}", kind, blobs))
    return layers


def vgg16_net(layers: Sequence[LayerWeights]) -> NetParameter:
    """A net whose layers have the shapes of these of `vgg16_layers`, in their order."""
    text, bottom = 'layer { name: "data" type: "Input" top: "data" input_param { shape { %s } } }\n', "data"
    text %= "dim: 1 dim: 3 dim: 224 dim: 224"
    for index, layer in enumerate(layers):
        size = "kernel_size: 3 pad: 1" if layer.type == "Convolution" else ""
        field = {"Convolution": "convolution_param", "InnerProduct": "inner_product_param"}[layer.type]
        if index in (2, 4, 7, 10, 13):
            text += f'layer {{ name: "pool{index}" type: "Pooling" bottom: "{bottom}" top: "pool{index}"\n'
            text += "  pooling_param { kernel_size: 2 stride: 2 } }\n"
            bottom = f"pool{index}"
        text += f'layer {{ name: "{layer.name}" type: "{layer.type}" bottom: "{bottom}" top: "{layer.name}"\n'
        text += f"  {field} {{ num_output: {len(layer.blobs[0])} {size} }} }}\n"
        bottom = layer.name
    return parse_net(text)


def plain_copy(src: Path, dst: Path) -> None:
    """Read a file and write its bytes, 8 MiB at a time."""
    buffer = memoryview(bytearray(_CHUNK))
    with src.open("rb") as source, dst.open("wb") as target:
        while count := source.readinto(buffer):
            target.write(buffer[:count])


def seconds(action: Callable[[Path, Path], object], src: Path, dst: Path) -> float:
    start = time.perf_counter()
    action(src, dst)
    taken = time.perf_counter() - start
    dst.unlink()  # at once, so that no other run waits for the disk on its account
    return taken


def measure_memory(src: Path, dst: Path) -> None:
    """Convert in this process, and print its memory in MB."""
    with MemoryWatch() as own:
        convert(src, dst, progress=False)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"own memory {own.before:.0f} MB before, at most {own.most:.0f} MB while converting")
    print(f"resident at most {resident:.0f} MB, the mapped file included")


class MemoryWatch:
    """What this process holds of its own, in MB: `before`, and at `most` within a `with`."""

    def __enter__(self) -> "MemoryWatch":
        self.before, self.most = anonymous_mb(), 0.0
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.most = max(self.most, anonymous_mb())


def anonymous_mb() -> float:
    """What this process holds that is its own (anonymous): the mapped files are the system's cache."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1e3


def bench(
    folder: Annotated[Path | None, typer.Option(help="Where to put 2 GB for a while.")] = None,
    memory: Annotated[tuple[Path, Path] | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time the conversion of a VGG-16 .caffemodel against a plain read and write of it."""
    if memory:
        measure_memory(*memory)
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        src, copy, dst = (Path(scratch) / name for name in ("vgg16.caffemodel", "copy", "vgg16.safetensors"))
        write_caffemodel(src, vgg16_layers())
        os.sync()
        plain, converted = [], []
        for _ in range(1 + _ROUNDS):
            plain.append(seconds(plain_copy, src, copy))
            converted.append(seconds(lambda a, b: convert(a, b, progress=False), src, dst))
        del plain[0], converted[0]
        print(f"{src.stat().st_size / 1e6:.0f} MB, medians of {_ROUNDS}")
        print(f"plain read and write {median(plain):.2f} s ({', '.join(f'{t:.2f}' for t in plain)})")
        print(f"convert              {median(converted):.2f} s ({', '.join(f'{t:.2f}' for t in converted)})")
        print(f"ratio                {median(converted) / median(plain):.2f}")
        sys.stdout.flush()
        subprocess.run([sys.executable, __file__, "--memory", str(src), str(dst)], check=True)


if __name__ == "__main__":
    typer.run(bench)
