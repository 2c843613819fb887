"""VideoData as TSN has it, without a recording: worked out from its code, on both engines."""

import importlib
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from parity_tests.recordings import ENGINES, PHASES
from prototxt import parse_net
from prototxt.errors import InputError
from runtime import Net
from runtime.rng import CaffeRNG, set_random_seed

HEIGHT, WIDTH = 20, 26


@pytest.fixture(params=ENGINES)
def caffe(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(f"{request.param}.pycaffe")


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Two videos of 9 and 7 frames, grey in x and y, and as colours: (frames, 5, height, width) of x, y, B, G, R."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.RandomState(2)
    made = []
    for name, count in (("a", 9), ("b", 7)):
        Path(name).mkdir()
        frames = draw.randint(0, 256, (count, 5, HEIGHT, WIDTH), np.uint8)
        for i, frame in enumerate(frames, 1):
            cv2.imwrite(f"{name}/f_x_{i:02d}.png", frame[0])
            cv2.imwrite(f"{name}/f_y_{i:02d}.png", frame[1])
            cv2.imwrite(f"{name}/i_{i:02d}.png", frame[2:].transpose(1, 2, 0))
        made.append(frames)
    Path("list.txt").write_text("a 9 4\nb 7 2\n")
    return made


FLOW = 'modality: FLOW name_pattern: "f_%c_%02d.png"'
RGB = 'modality: RGB name_pattern: "i_%02d.png"'


def _net(caffe: ModuleType, settings: str, transform: str = "", phase: str = "TEST") -> Net:
    layer = f'video_data_param {{ source: "list.txt" {settings} }} transform_param {{ {transform} }}'
    text = f'layer {{ name: "d" type: "VideoData" top: "x" top: "y" {layer} }}'
    return caffe.Net.from_message(parse_net(text), PHASES[phase])


def test_the_middle_of_each_segment(caffe: ModuleType, videos: list[np.ndarray]) -> None:
    """9 frames in 2 segments of 4: of each the two from the second on; 7 in 2 of 3: the two from the second on."""
    net = _net(
        caffe,
        f"batch_size: 2 num_segments: 2 new_length: 2 {FLOW}",
        "mean_value: 128 scale: 0.5 crop_size: 16",
    )
    net.forward()
    assert net.blobs["y"].data.shape == (2, 1, 1, 1)
    assert net.blobs["y"].data.flatten().tolist() == [4, 2]
    for i, first in enumerate(([1, 5], [1, 4])):
        frames = [videos[i][start + k, :2, 2:18, 5:21] for start in first for k in (0, 1)]
        expected = (np.concatenate(frames).astype(np.float32) - 128) / 2
        np.testing.assert_array_equal(net.blobs["x"].data[i], expected)


def test_colours_repeat_their_means(caffe: ModuleType, videos: list[np.ndarray]) -> None:
    net = _net(caffe, f"batch_size: 1 num_segments: 3 {RGB}", "mean_value: [1, 2, 3]")
    for video, frames in zip(
        videos, ([1, 4, 7], [1, 3, 5]), strict=True
    ):  # the second of segments of 3 and of 2
        net.forward()
        expected = np.concatenate([video[k, 2:] for k in frames]).astype(np.float32)
        np.testing.assert_array_equal(net.blobs["x"].data[0], expected - np.tile([1, 2, 3], 3)[:, None, None])


def test_frames_crops_and_mirrors_are_drawn(caffe: ModuleType, videos: list[np.ndarray]) -> None:
    set_random_seed(5)
    settings = f"batch_size: 3 num_segments: 2 new_length: 2 shuffle: true {FLOW}"
    transform = (
        "mirror: true is_flow: true crop_size: 14 multi_scale: true max_distort: 1 fix_crop: true "
        "more_fix_crop: true scale_ratios: [1, 0.7, 0.5]"
    )
    net = _net(caffe, settings, transform, "TRAIN")
    process = CaffeRNG(5)
    process.words(1)  # the transformer's, at set-up
    shuffled = CaffeRNG(int(process.words(1)[0]))
    order = [0, 1]
    shuffled.shuffle(order)
    frames_rng = CaffeRNG(int(process.words(1)[0]))
    frames_rng.words(2)  # the set-up looks at the first video's frames
    upcoming, seen = list(order), set()
    for _ in range(2):
        rng = CaffeRNG(int(process.words(1)[0]))
        net.forward()
        for i in range(3):
            video = videos[upcoming.pop(0)]
            if not upcoming:
                shuffled.shuffle(order)
                upcoming = list(order)
            average = len(video) // 2
            firsts = [int(frames_rng.words(1)[0]) % (average - 1) + k * average for k in range(2)]
            image = np.concatenate([video[first + k, :2] for first in firsts for k in (0, 1)])
            mirrored = int(rng.words(1)[0]) % 2
            # Sides 20, 14 and 10 of a base of 20; those next to each other go together.
            sizes = [(20, 20), (20, 14), (14, 20), (14, 14), (14, 10), (10, 14), (10, 10)]
            height, width = sizes[int(rng.words(1)[0]) % 7]
            quarters = [
                (0, 0),
                (0, 4),
                (4, 0),
                (4, 4),
                (2, 2),
                (0, 2),
                (4, 2),
                (2, 0),
                (2, 4),
                (1, 1),
                (1, 3),
            ]
            down, right = [*quarters, (3, 1), (3, 3)][int(rng.words(1)[0]) % 13]
            top, left = down * ((HEIGHT - height) // 4), right * ((WIDTH - width) // 4)
            image = image[:, top : top + height, left : left + width]
            image = np.stack([cv2.resize(np.ascontiguousarray(each), (14, 14)) for each in image]).astype(
                np.float32
            )
            if mirrored:
                image[::2] = 255 - image[::2]
                image = image[:, :, ::-1]
            seen.add((mirrored, height))
            np.testing.assert_array_equal(net.blobs["x"].data[i], image)
    assert len(seen) > 2


def test_a_short_video_begins_at_its_first_frame(caffe: ModuleType, videos: list[np.ndarray]) -> None:
    Path("list.txt").write_text("a 9 4\nb 5 2\n")
    net = _net(caffe, f"batch_size: 2 num_segments: 2 new_length: 3 {RGB}", phase="TEST")
    net.forward()
    expected = np.concatenate([videos[1][k, 2:] for k in (0, 1, 2)] * 2)
    np.testing.assert_array_equal(net.blobs["x"].data[1], expected)


@pytest.mark.parametrize(
    ("settings", "text", "transform", "message"),
    [
        (f"num_segments: 5 new_length: 2 {RGB}", None, "", "is too short for 5 segments of 2 frames"),
        ('modality: RGB name_pattern: "%c_%d"', None, "", "%04d alone for images"),
        ('modality: FLOW name_pattern: "%d"', None, "", "must hold %c and %04d for flow"),
        (f"{RGB} new_length: 1 sampling_rate: 2", None, "", "sampling_rate is not obeyed by TSN's VideoData"),
        (RGB, "a 9\n", "", "is empty: list at least one FOLDER FRAMES LABEL"),
        (RGB, "a nine 2\n", "", "list.txt:1: a: 'nine' is not a whole number: write FOLDER FRAMES LABEL"),
        (RGB, "none 9 2\n", "", "none/i_0"),
        (RGB, None, "crop_size: 21", "smaller than the crop"),
        (RGB, None, "original_image: true", "transform_param.original_image, a fork"),
    ],
)
def test_bad_settings_are_one_line(
    caffe: ModuleType, videos: list[np.ndarray], settings: str, text: str | None, transform: str, message: str
) -> None:
    if text is not None:
        Path("list.txt").write_text(text)
    with pytest.raises(InputError, match=message) as told:
        _net(caffe, settings, transform)
    assert "\n" not in str(told.value)


def test_crops_that_do_not_fit(caffe: ModuleType, videos: list[np.ndarray]) -> None:
    transform = "crop_size: 14 multi_scale: true scale_ratios: 1.5"
    net = _net(caffe, f"batch_size: 1 {RGB}", transform, "TRAIN")
    with pytest.raises(InputError, match="give crops that do not fit into 20×26"):
        net.forward()
