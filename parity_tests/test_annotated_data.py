"""AnnotatedData and VideoData, of SSD's fork: images and their boxes through sampling, distortion and resizing.

Not recorded. Held to the published code's order of draws, and to what must be true of any: boxes stay on their objects.
"""

import importlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from parity_tests.recordings import ENGINES
from prototxt import parse_net
from prototxt.caffe_pb2 import AnnotatedDatum, BatchSampler, ExpansionParameter, ResizeParameter
from prototxt.errors import InputError
from runtime import TEST, TRAIN, Net
from runtime.data import augment
from runtime.data.augment import Boxes
from runtime.rng import CaffeRNG

SIZES = ((90, 120), (100, 80), (64, 64))
BOXES: tuple[list[tuple[float, ...]], ...] = (
    [(0.2, 0.3, 0.5, 0.7)],
    [(0.1, 0.1, 0.35, 0.5), (0.6, 0.55, 0.9, 0.9)],
    [],
)
"""Of each image of the database: red on blue."""


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lmdb = pytest.importorskip("lmdb")
    monkeypatch.chdir(tmp_path)
    with lmdb.open("lmdb", map_size=1 << 22) as environment, environment.begin(write=True) as writing:
        for i, ((height, width), boxes) in enumerate(zip(SIZES, BOXES, strict=True)):
            image = np.zeros((height, width, 3), np.uint8)
            image[:] = (220, 30, 10)
            datum = AnnotatedDatum(type=AnnotatedDatum.BBOX)
            for k, (x1, y1, x2, y2) in enumerate(boxes):
                image[round(y1 * height) : round(y2 * height), round(x1 * width) : round(x2 * width)] = (
                    10,
                    30,
                    220,
                )
                group = datum.annotation_group.add(group_label=k + 1)
                group.annotation.add(instance_id=k, bbox={"xmin": x1, "ymin": y1, "xmax": x2, "ymax": y2})
            _, data = cv2.imencode(".png", image)
            datum.datum.CopyFrom(type(datum.datum)(data=data.tobytes(), encoded=True, label=i))
            writing.put(f"{i:08}".encode(), datum.SerializeToString())
    return tmp_path


def _net(engine: str, transform: str, sampling: str = "", batch: int = 3, phase: int = TRAIN) -> Net:
    caffe = importlib.import_module(f"{engine}.pycaffe")
    caffe.set_random_seed(7)
    text = (
        'layer { name: "data" type: "AnnotatedData" top: "data" top: "label" '
        f'data_param {{ source: "lmdb" batch_size: {batch} backend: LMDB }} '
        f"annotated_data_param {{ {sampling} }} transform_param {{ {transform} }} }}"
    )
    return caffe.Net.from_message(parse_net(text), phase)


WARP = "resize_param { resize_mode: WARP height: 60 width: 50 }"
SAMPLING = """
  batch_sampler { max_sample: 1 max_trials: 1 }
  batch_sampler { sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }
    sample_constraint { min_jaccard_overlap: 0.3 } max_sample: 1 max_trials: 50 }
  batch_sampler { sampler { min_scale: 0.3 max_scale: 1 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }
    sample_constraint { max_jaccard_overlap: 1 } max_sample: 1 max_trials: 50 }
"""
DISTORT = """distort_param { brightness_prob: 0.5 brightness_delta: 20 contrast_prob: 0.5 contrast_lower: 0.8
  contrast_upper: 1.2 hue_prob: 0.5 hue_delta: 3 saturation_prob: 0.5 saturation_lower: 0.8 saturation_upper: 1.2 }"""
EXPAND = "expand_param { prob: 0.5 max_expand_ratio: 3 }"
MODES = "interp_mode: LINEAR interp_mode: AREA interp_mode: NEAREST interp_mode: CUBIC interp_mode: LANCZOS4"
TRAINED = (
    f"mirror: true mean_value: 104 mean_value: 117 mean_value: 123 {DISTORT} {EXPAND}"
    " emit_constraint { emit_type: CENTER }"
    f" resize_param {{ resize_mode: WARP height: 60 width: 50 {MODES} }}"
)
"""As SSD is trained."""


@pytest.mark.parametrize("engine", ENGINES)
def test_images_are_resized_and_boxes_told_by_image(database: Path, engine: str) -> None:
    net = _net(engine, WARP, phase=TEST)
    assert net.blobs["data"].shape == (3, 3, 60, 50)
    net.forward()
    rows = net.blobs["label"].data[0, 0]
    due = [[0, 1, 0, *BOXES[0][0], 0], [1, 1, 0, *BOXES[1][0], 0], [1, 2, 1, *BOXES[1][1], 0]]
    np.testing.assert_allclose(rows, due, rtol=1e-6)
    image = np.full((*SIZES[2], 3), (220, 30, 10), np.uint8)
    assert (net.blobs["data"].data[2] == cv2.resize(image, (50, 60)).transpose(2, 0, 1)).all()


@pytest.mark.parametrize(
    ("setting", "height", "width"),
    [
        (WARP, 60, 50),
        (WARP + " mirror: true", 60, 50),
        (
            "resize_param { resize_mode: FIT_LARGE_SIZE_AND_PAD height: 60 width: 50"
            " pad_value: 220 pad_value: 30 pad_value: 10 }",
            60,
            50,
        ),
        ("resize_param { resize_mode: FIT_SMALL_SIZE height: 60 width: 50 }", None, None),
        (TRAINED, 60, 50),
        (f"{WARP} {EXPAND} mean_value: 220 mean_value: 30 mean_value: 10", 60, 50),
        (WARP + " mirror: true crop_h: 40 crop_w: 45", 40, 45),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sampling", ["", SAMPLING])
def test_boxes_stay_on_their_objects(
    database: Path, setting: str, sampling: str, height: int | None, width: int | None
) -> None:
    """What is red is in the boxes, whatever was drawn; both engines read the same."""
    nets = [_net(engine, setting, sampling, batch=1) for engine in ENGINES]
    boxes = 0
    for _ in range(24):
        for net in nets:
            net.forward()
        data, rows = nets[0].blobs["data"].data, nets[0].blobs["label"].data[0, 0]
        np.testing.assert_array_equal(nets[1].blobs["data"].data, data)
        np.testing.assert_array_equal(nets[1].blobs["label"].data[0, 0], rows)
        if height:
            assert data.shape == (1, 3, height, width)
        down, across = data.shape[2:]
        pixels = data[0] + (np.float32([104, 117, 123])[:, None, None] if "104" in setting else 0)
        red = pixels[2] > pixels[0]
        if "220" in setting and "mean_value" in setting:
            pixels = data[0] + np.float32([220, 30, 10])[:, None, None]
            red = pixels[2] > pixels[0]
        inside = np.zeros_like(red)
        for _, label, _, x1, y1, x2, y2, _ in rows:
            if label < 0:
                continue
            boxes += 1
            assert 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1
            part = (slice(round(y1 * down), round(y2 * down)), slice(round(x1 * across), round(x2 * across)))
            inside[
                max(part[0].start - 2, 0) : part[0].stop + 2, max(part[1].start - 2, 0) : part[1].stop + 2
            ] = True
            if min(side.stop - side.start for side in part) > 12:
                assert red[part].mean() > 0.75
        if "emit" not in setting:  # which drops boxes whose centre is outside
            assert (
                red & ~inside
            ).mean() < 0.03  # a window's last pixels may show a box that it does not reach
    assert boxes > 10


def test_draws_come_in_the_forks_order(database: Path) -> None:
    """Of the thread's own generator, seeded last at set-up: expansion, then each sampler's windows, then the choice."""
    net = _net("reference", WARP + " expand_param { max_expand_ratio: 2 }", SAMPLING, batch=1)
    source = net.layers[0].opened
    words = CaffeRNG(7)
    words.words(1)  # of the thread that reads the database
    rng = CaffeRNG(int(words.words(1)[0]))  # nothing to mirror: no generator of the transformer's
    (item,) = source.draw()
    assert rng.uniform(1, 0, 1)[0] <= 1
    ratio = rng.uniform(1, 1, 2)[0]
    height, width = int(np.float32(90) * ratio), int(np.float32(120) * ratio)
    top, left = (int(rng.uniform(1, 0, spare)[0]) for spare in (height - 90, width - 120))
    assert item.recipe.expand == (height, width, top, left)
    windows = [np.float32([0, 0, 1, 1])]
    for only in (1, 1, 0, 0):  # the first sampler: scale 1, ratio 1, and no place to choose
        rng.uniform(1, only, only)
    box = (np.float32(BOXES[0][0]) * [120, 90, 120, 90] + [left, top, left, top]) / [
        width,
        height,
        width,
        height,
    ]
    for floor in (0.3, 0):
        for _ in range(50):
            scale, ratio = rng.uniform(1, 0.3, 1)[0], rng.uniform(1, 0.5, 2)[0]
            square = (
                float(scale) ** 2
            )  # double, then rounded: the last bit decides how often a draw is repeated
            ratio = min(max(ratio, np.float32(square)), np.float32(1 / square))
            across, down = scale * np.sqrt(ratio), scale / np.sqrt(ratio)
            x, y = rng.uniform(1, 0, 1 - across)[0], rng.uniform(1, 0, 1 - down)[0]
            window = np.array([x, y, x + across, y + down])
            low, high = np.maximum(window[:2], box[:2]), np.minimum(window[2:], box[2:])
            shared = np.maximum(high - low, 0).prod()
            sizes = [(b[2:] - b[:2]).prod() for b in (window, box)]
            if shared / (sum(sizes) - shared) >= floor:
                windows.append(window)
                break
    chosen = windows[int(rng.words(1)[0]) % len(windows)]
    np.testing.assert_allclose(item.recipe.crop, chosen, rtol=1e-5)


def test_reading_goes_on_where_it_was_saved(database: Path) -> None:
    source = _net("reference", TRAINED, SAMPLING).layers[0].opened
    source.load(source.draw())
    state = source.state()
    due = source.load(source.draw())
    again = _net("reference", TRAINED, SAMPLING).layers[0].opened
    again.restore(state)
    for one, other in zip(again.load(again.draw()), due, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("transform", "sampling", "told"),
    [
        ("", "", "the batch's first image gives 3×90×120"),
        (WARP + " crop_h: 40 crop_w: 45", "", "Caffe seeds a generator only for mirror"),
        ("resize_param { height: 4 width: 4 resize_mode: FIT_SMALL_SIZE }", "", "needs batch_size: 1"),
        ("resize_param { height: 4 }", "", "give height and width"),
        (WARP + " expand_param { max_expand_ratio: 1 }", "", "max_expand_ratio must be above 1"),
        (WARP + " noise_param { convert_to_lab: true }", "", "convert_to_lab is not supported"),
        (WARP + " noise_param { gaussian_std: 2 }", "", "gaussian_std is a fork's setting"),
        (WARP + " distort_param { hue_prob: 1 hue_delta: -1 }", "", "hue's limits"),
        (WARP, "batch_sampler { sampler { min_scale: 0 } }", "min_scale must be above 0"),
        (WARP, "yolo_data_type: 1", "yolo_data_type is a fork's setting"),
    ],
)
def test_settings_that_do_not_fit_are_told(database: Path, transform: str, sampling: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        _net("reference", transform, sampling).forward()
    assert "\n" not in str(caught.value)


def test_noise_is_opencvs() -> None:
    draw = np.random.RandomState(0)
    image = draw.randint(0, 256, (30, 40, 3), np.uint8)
    param = parse_net(
        'layer { name: "d" type: "AnnotatedData" transform_param { noise_param { posterize: true inverse: true '
        "saltpepper: true saltpepper_param { fraction: 0.1 value: 7 } } } }"
    ).layer[0].transform_param.noise_param  # fmt: skip
    salt = augment.draw_salt(param, (30, 40), CaffeRNG(1))
    words = CaffeRNG(1).words(240)
    assert salt == [int(word) % (30 if i % 2 else 40) for i, word in enumerate(words)]
    done = augment.noisy(image, param, salt)
    hit = np.zeros((30, 40), bool)
    hit[salt[1::2], salt[0::2]] = True
    assert (done[hit] == 7).all()
    assert (done[~hit] == 255 - (image[~hit] // 64 * 64 + 32)).all()


def test_a_canvas_keeps_the_boxes_where_the_image_lies() -> None:
    place, canvas = augment.draw_expansion(ExpansionParameter(max_expand_ratio=4), (50, 70), CaffeRNG(3))
    height, width, top, left = place
    boxes = Boxes(np.zeros((1, 3), int), np.float32([[0, 0, 1, 1]]))
    seen = augment.seen_from(canvas, boxes, None).corners[0]
    np.testing.assert_allclose(
        seen * [width, height, width, height], [left, top, left + 70, top + 50], rtol=1e-5
    )


def test_constraints_and_padding_by_hand() -> None:
    sampler = BatchSampler(max_trials=3)
    assert len(augment.sampled_boxes([sampler], np.zeros((0, 4), np.float32), CaffeRNG(0))) == 3
    sampler.sample_constraint.min_jaccard_overlap = 0.5
    assert not augment.sampled_boxes([sampler], np.zeros((0, 4), np.float32), CaffeRNG(0))
    param = ResizeParameter(height=100, width=100, resize_mode=ResizeParameter.FIT_LARGE_SIZE_AND_PAD)
    boxes = augment.resized_boxes(param, (50, 100), Boxes(np.zeros((1, 3), int), np.float32([[0, 0, 1, 1]])))
    np.testing.assert_allclose(boxes.corners[0], [0, 0.25, 1, 0.75])


@pytest.fixture
def video(tmp_path: Path) -> str:
    path = str(tmp_path / "video.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (40, 30))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    for i in range(6):
        writer.write(np.full((30, 40, 3), 30 * i + 20, np.uint8))
    writer.release()
    return path


def _video(path: str, more: str = "", batch: int = 2) -> str:
    return (
        'layer { name: "data" type: "VideoData" top: "data" top: "label" '
        f"data_param {{ batch_size: {batch} }} transform_param {{ {WARP} }} "
        f'video_data_param {{ video_type: VIDEO video_file: "{path}" {more} }} }}'
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_video_gives_its_frames_and_says_when_it_ends(video: str, engine: str) -> None:
    caffe = importlib.import_module(f"{engine}.pycaffe")
    net = caffe.Net.from_message(parse_net(_video(video)), TEST)
    assert net.blobs["data"].shape == (2, 3, 60, 50)
    seen = []
    for _ in range(3):
        net.forward()
        seen += net.blobs["data"].data.mean(axis=(1, 2, 3)).tolist()
    np.testing.assert_allclose(seen, [20, 50, 80, 110, 140, 170], atol=3)
    with pytest.raises(InputError, match="ended at frame 6"):
        net.forward()


def test_video_passes_frames_over(video: str) -> None:
    net = importlib.import_module("port.pycaffe").Net.from_message(
        parse_net(_video(video, "skip_frames: 1")), TEST
    )
    net.forward()
    np.testing.assert_allclose(net.blobs["data"].data.mean(axis=(1, 2, 3)), [50, 110], atol=3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (_video("none.avi"), "none.avi: no video that can be opened"),
        (_video("none.avi").replace("video_type: VIDEO", ""), "a camera is not supported"),
        (_video("none.avi", "use_image: true"), "use_image is a fork's setting"),
    ],
)
def test_videos_that_cannot_be_read_are_told(text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        importlib.import_module("reference.pycaffe").Net.from_message(parse_net(text), TEST)
