"""resize_and_crop_images: each image to a shorter side of so many pixels, and the middle square of it."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
from PIL import Image

from port.tools.gflags import Flag, Program
from port.tools.process import NOT_CAFFES
from port.tools.progress import log_above_bar
from port.training.caffe_log import CaffeLog
from prototxt.errors import InputError
from prototxt.files import MAX_IMAGE, read_ordinary
from prototxt.native_output import without_native_output
from runtime.data.decoding import check_pixels, decode_image
from runtime.data.reading import naming, read_entries
from weights.files import atomic_path

PROGRAM = Program(
    "resize_and_crop_images",
    "tools/extra/resize_and_crop_images.py",
    "Resize images and crop their middle",
    (
        Flag(
            "image_lib", "opencv", "OpenCV or PIL, case insensitive. The default value is the faster OpenCV."
        ),
        Flag("input", "", "The file with an image's path, relative to input_folder, on each line."),
        Flag("input_folder", "", "The folder that contains all input images, organized in synsets."),
        Flag("num_clients", 1, "Number of threads."),
        Flag("output_side_length", 256, "Expected side length of the output image."),
        Flag("output_folder", "", "The folder that we write output resized and cropped images to"),
    ),
)


def main(arguments: Sequence[str]) -> int:
    flags, _ = PROGRAM.parse(arguments)
    library, side = str(flags["image_lib"]).lower(), int(flags["output_side_length"])
    if library not in ("opencv", "pil"):
        raise InputError(f"--image_lib {flags['image_lib']}: must be opencv or PIL")
    if side < 1 or not flags["output_folder"]:
        raise InputError("give --output_folder, and an --output_side_length of 1 or more")
    entries = read_entries(str(flags["input"]))
    names = [_relative(entry.name, str(flags["input_folder"])) for entry in entries]
    source, target = Path(str(flags["input_folder"])), Path(str(flags["output_folder"]))
    log = CaffeLog()

    def one(name: str) -> str:
        """What is wrong with an image, or nothing."""
        try:
            if not (target / name).resolve().is_relative_to(target.resolve()):
                return f"{name}: lies outside of --output_folder"
            data = (
                _with_opencv(source / name, side) if library == "opencv" else _with_pil(source / name, side)
            )
            with atomic_path(target / name) as beside:
                beside.write_bytes(data)
        except InputError as error:
            return str(error)
        except (
            OSError,
            ValueError,
            RuntimeError,
            SyntaxError,
            cv2.error,
        ) as error:  # of a link to itself, too
            return f"{source / name}: cannot be read as an image ({' '.join(str(error).split())})"
        return ""

    with (
        ThreadPoolExecutor(max(1, flags["num_clients"])) as pool,
        log_above_bar(log, len(names), "images") as step,
    ):
        for wrong in pool.map(one, names):
            if wrong:
                log(NOT_CAFFES, f"{wrong}: skipped", "E")
            step()
    return 0


def _relative(line: str, folder: str) -> str:
    words = line.removeprefix(folder).split()
    return words[0].lstrip("/") if words else ""


def _with_opencv(source: Path, side: int) -> bytes:
    """The middle square of the resized image, encoded as the file's name says."""
    data = read_ordinary(source, MAX_IMAGE)
    with naming(str(source)):
        image = decode_image(data, cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{source}: cannot be read as an image")
    height, width = image.shape[:2]
    size = (side, side * height // width) if height > width else (side * width // height, side)
    resized = cv2.resize(image, size)
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    return cv2.imencode(source.suffix, resized[top : top + side, left : left + side])[1].tobytes()


def _with_pil(source: Path, side: int) -> bytes:
    """As a JPEG: shrunk roughly by powers of two first, then cropped, then resized."""
    data = read_ordinary(source, MAX_IMAGE)
    with naming(str(source)):
        check_pixels(data)
    with without_native_output(), Image.open(io.BytesIO(data)) as opened:
        image = opened.copy()
    factor = 1
    while image.size[0] / factor > 2 * side and image.size[1] * 2 / factor > 2 * side:
        factor *= 2
    if factor > 1:
        image.thumbnail((image.size[0] // factor, image.size[1] // factor), Image.Resampling.NEAREST)
    width, height = image.size
    across, down = width / side, height / side
    if down > across:
        box = (0, int(height / 2 - side * across / 2), width, int(height / 2 + side * across / 2))
    else:
        box = (int(width / 2 - side * down / 2), 0, int(width / 2 + side * down / 2), height)
    image = image.crop(box)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    made = io.BytesIO()
    image.convert("RGB").save(made, "JPEG", quality=75)
    return made.getvalue()
