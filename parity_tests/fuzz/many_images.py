"""`python -m parity_tests.fuzz.many_images`: the memory of `seenet attention` over ten thousand images.

It must not grow: after the first tenth, at most by a twentieth. The images are small and their names all different, the
net is the narrow one that comes with the project: what is measured is what stays behind of an image.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "weights" / "shapes" / "seenet.caffemodel"
DIFFERENT = 64
"""Images; the others are further names of these."""

PARTS = 10
ALLOWED = 1.05
"""By how much the memory after any part may be above that after the first."""


def make_dataset(folder: Path, images: int) -> None:
    """Photographs of noise of all sizes from 24 to 80 pixels, in VOC's layout, and a list of them with classes."""
    draw = np.random.RandomState(0)
    photographs = folder / "JPEGImages"
    photographs.mkdir(parents=True)
    for i in range(images):
        path = photographs / f"{i:06d}.jpg"
        if i < DIFFERENT:
            height, width = draw.randint(24, 80, 2)
            cv2.imwrite(os.fspath(path), draw.randint(0, 256, (height, width, 3), np.uint8))
        else:
            os.link(photographs / f"{i % DIFFERENT:06d}.jpg", path)
    (folder / "list.txt").write_text("".join(f"{i:06d} {i % 20}\n" for i in range(images)))


def resident(process: int) -> int:
    """Bytes of memory that a process and its children hold."""
    pages = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if process in (parent, int(entry.name)):
                    pages += int((entry / "statm").read_text().split()[1])
            except (OSError, ValueError):
                continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def watch(images: int, size: int, folder: Path) -> list[int]:
    """The most memory that attention held in each part of the images, in bytes.

    Raises:
        AssertionError: attention failed.
    """
    make_dataset(folder / "voc", images)
    out = folder / "out"
    command = [sys.executable, "-m", "port.cli", "attention", "--voc", folder / "voc"]
    command += [
        "--list",
        folder / "voc" / "list.txt",
        "--weights",
        WEIGHTS,
        "--test-size",
        str(size),
        "--out",
        out,
    ]
    most = [0] * PARTS
    with (folder / "told").open("w") as told:
        process = subprocess.Popen(command, cwd=ROOT, stdout=told, stderr=told)
        while process.poll() is None:
            done = sum(1 for _ in os.scandir(out)) if out.is_dir() else 0
            part = min(PARTS * done // images, PARTS - 1)
            most[part] = max(most[part], resident(process.pid))
            time.sleep(0.2)
    assert process.returncode == 0, (folder / "told").read_text()[-2000:]
    assert sum(1 for _ in out.glob("*.png")) == images
    return most


def many_images_command(
    images: Annotated[int, typer.Option(min=PARTS)] = 10_000,
    size: Annotated[int, typer.Option(min=8, help="Side to which photographs are resized.")] = 32,
) -> None:
    """Print the memory of `seenet attention` by tenths of the images; exit status 1 where it grows."""
    with tempfile.TemporaryDirectory() as folder:
        most = watch(images, size, Path(folder))
    for part, held in enumerate(most, 1):
        typer.echo(f"images up to {part * images // PARTS:6}: {held / 1e6:7.1f} MB")
    growth = max(most[1:]) / most[0]
    typer.echo(
        f"at most {growth - 1:+.1%} of the first tenth's: {'flat' if growth <= ALLOWED else 'it GROWS'}"
    )
    if growth > ALLOWED:
        raise typer.Exit(1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(many_images_command)
    app()
